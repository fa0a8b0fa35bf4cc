"""Distillation: what a teacher says is learnt beside the labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import InputError, UsageError
from aisle.model.bundle import LINEAGE_FILE, Bundle
from aisle.model.calibration import log_softmax
from aisle.model.text import TextFeatures
from aisle.pipeline import choose_recipe
from aisle.settings import Settings
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples
from aisle.training.heads import fit_logistic_head, fit_text_head, spread
from aisle.training.recipes import Light, LogisticTraining, Teaching, TextTraining
from aisle.training.teaching import Teacher, of_types, wanted
from aisle.training.train import train

HOW = Teaching("version", Path("folder"), share=0.5, temperature=2.0)
TARGETS = np.array([0, 1] * 20)
FEATURES = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
UNSURE = np.full((40, 2), 0.5)


@pytest.fixture
def teaching(bundle: Bundle) -> Teaching:
    return Teaching(bundle.version, bundle.path)


def test_the_teacher_and_the_label_have_their_shares() -> None:
    [row] = wanted(np.array([[0.81, 0.09, 0.1]]), np.array([1]), replace(HOW, share=0.25))
    softened = np.sqrt([0.81, 0.09, 0.1])
    assert row == pytest.approx(0.25 * softened / softened.sum() + [0, 0.75, 0])


@pytest.mark.parametrize("said", [[np.nan] * 3, [0.0] * 3])
def test_where_the_teacher_has_nothing_to_say_the_label_is_everything(said: list[float]) -> None:
    assert wanted(np.array([said]), np.array([2]), HOW).tolist() == [[0, 0, 1]]


def test_types_that_only_the_teacher_or_the_pupil_knows_are_left_out() -> None:
    said = of_types(np.array([[0.5, 0.3, 0.2]]), ("a", "b", "c"), ("c", "d", "a"))
    assert said.tolist() == [[0.2, 0, 0.5]]


def test_a_row_counts_once_whatever_it_is_wanted_to_be() -> None:
    mixed = np.array([[0.6, 0.39, 0.01], [0.0, 1.0, 0.0]])
    places, columns, weights = spread(mixed, np.array([0, 1]), np.array([2.0, 1.0]))
    assert list(zip(places.tolist(), columns.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 1)]
    assert np.bincount(places, weights=weights) == pytest.approx([2, 1])


def test_what_an_unsure_teacher_teaches_is_less_sure() -> None:
    weights = np.ones(len(TARGETS))
    mixed = 0.5 * UNSURE + 0.5 * np.eye(2)[TARGETS]
    text, rows = TextTraining(svm_share=0.0), sp.csr_matrix(np.eye(2)[TARGETS])
    for alone, taught in (
        [fit_logistic_head(FEATURES, TARGETS, weights, 2, LogisticTraining(), said) for said in (None, mixed)],
        [fit_text_head(rows, TARGETS, weights, 2, text, 0, threads=1, wanted=said) for said in (None, mixed)],
    ):
        features = FEATURES if len(alone["weights"]) == 4 else rows.toarray()
        sure = [
            np.exp(log_softmax(features @ head["weights"] + head["bias"])).max(axis=1).mean()
            for head in (alone, taught)
        ]
        assert sure[1] < sure[0]


def test_the_teacher_is_asked_of_what_may_be_learnt_from(
    prepared: Prepared, cache: Path, tmp_path: Path, teaching: Teaching
) -> None:
    examples = Examples(prepared, cache, threads=2)
    teacher = Teacher(teaching, examples, Checkpoints(tmp_path, "run"))
    rows = teacher.taught(examples.rows(Side.TRAIN, graph=None), Side.TRAIN)
    assert rows.wanted is not None
    assert rows.wanted.sum(axis=1) == pytest.approx(np.ones(len(rows)))
    assert (rows.wanted.argmax(axis=1) == rows.targets).all()  # it has learnt from them
    with pytest.raises(KeyError):
        teacher.taught(examples.rows(Side.TEST, graph=None), Side.TEST)


@pytest.mark.slow
def test_a_pupil_names_its_teacher_and_not_where_it_lay(
    prepared: Prepared, cache: Path, bundle: Bundle, tmp_path: Path
) -> None:
    recipe = choose_recipe("light", Settings(), teacher=str(bundle.path))
    assert isinstance(recipe, Light)
    short = TextTraining(features=TextFeatures(char_ngrams=(3, 3)), epochs=2)
    pupil = train(replace(recipe, text=short), prepared, tmp_path / "pupil", cache=cache, threads=2)
    assert pupil.json(LINEAGE_FILE)["configuration"]["teacher"]["version"] == bundle.version
    assert str(bundle.path) not in pupil.text(LINEAGE_FILE)
    assert pupil.contents["image.safetensors"] != bundle.contents["image.safetensors"]


def test_a_teacher_that_is_no_bundle_is_refused() -> None:
    with pytest.raises(InputError, match="there is no bundle 'nobody'"):
        choose_recipe("light", Settings(), teacher="nobody")


def test_only_light_is_taught() -> None:
    with pytest.raises(UsageError, match="full has no choice of teacher"):
        choose_recipe("full", Settings(), teacher="champion")
