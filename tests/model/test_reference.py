"""The reference of a bundle: comes back as it was, holds no text, and is about products that were not learnt from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import BundleError
from aisle.inputs.text import clean
from aisle.model.bundle import Bundle
from aisle.model.image import ImageEncoder
from aisle.model.reference import REFERENCE_ARRAYS, REFERENCE_TABLE, Axes, Reference, Words, words_of


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Reference:
    found = bundle.reference()
    assert found is not None
    return found


def test_a_reference_comes_back_from_its_tables_as_it_was(reference: Reference) -> None:
    table = json.loads(json.dumps(reference.table()))
    again = Reference.from_tables(table, load(save(reference.arrays())))
    assert again.table() == reference.table()
    arrays, before = again.arrays(), reference.arrays()
    assert set(arrays) == set(before)
    assert all(np.array_equal(arrays[name], before[name], equal_nan=name != "right") for name in arrays)


def test_it_is_about_all_products_that_the_model_was_not_fitted_on(reference: Reference, prepared: Prepared) -> None:
    held_out = prepared.products().filter(prepared.products()["side"].is_in(["test", "validation"]))
    lengths = [len(text) for text in held_out["title"] if text]
    found = reference.rows.numbers["title_length"]
    assert sorted(found[~np.isnan(found)].tolist()) == sorted(lengths)
    assert len(reference) == len(held_out)


def test_its_accuracy_is_near_that_of_the_test_side(reference: Reference, bundle: Bundle) -> None:
    measured = bundle.json("metrics.json")["all"]["accuracy"]
    assert reference.right.mean() == pytest.approx(measured, abs=0.1)


def test_its_confidence_is_not_that_of_products_that_were_learnt_from(
    reference: Reference, bundle: Bundle, prepared: Prepared
) -> None:
    """On those the model is far surer than it is right."""
    from aisle.training.examples import Examples

    examples = Examples(prepared, bundle.path.parent / "cache", 2)
    rows = examples.rows(Side.TRAIN, graph=None)
    learnt = bundle.classifier().probabilities(rows.inputs).max(axis=1)
    assert reference.rows.numbers["confidence"].mean() < learnt.mean() - 0.05


def test_there_is_no_text_in_it_that_only_few_products_had(
    reference: Reference, bundle: Bundle, prepared: Prepared
) -> None:
    shown = set(words_of(" ".join(bundle.json(REFERENCE_TABLE)["frequent_words"]["title"])))
    train = prepared.products().filter(side=Side.TRAIN.value)
    for word in shown:
        assert sum(word in words_of(title) for title in train["title"]) >= 10
    assert reference.words["title"].frequent


def test_images_lie_where_the_predictor_puts_them(reference: Reference, bundle: Bundle, prepared: Prepared) -> None:
    graph, images = bundle.encoder_graph(), prepared.images()
    assert graph is not None
    assert images is not None
    assert reference.axes is not None
    stem = prepared.products().filter(side=Side.TEST.value).drop_nulls("image")["image"][0]
    along = reference.axes.along(ImageEncoder(graph)(images.read(stem)))
    assert np.isclose(reference.rows.components, np.array(along, np.float32)).all(axis=1).any()


Damage = Callable[[Reference], tuple[dict[str, object], dict[str, np.ndarray]]]
DAMAGES: dict[str, Damage] = {
    "a column is shorter": lambda one: (one.table(), one.arrays() | {"number.confidence": np.zeros(3, np.float32)}),
    "an array is gone": lambda one: (one.table(), {k: v for k, v in one.arrays().items() if k != "right"}),
    "the names are gone": lambda one: ({"frequent_words": {}}, one.arrays()),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_reference_whose_tables_do_not_fit_each_other_is_refused(
    what: str, reference: Reference, bundle: Bundle
) -> None:
    table, arrays = DAMAGES[what](reference)
    contents = {**bundle.contents, REFERENCE_TABLE: json.dumps(table).encode(), REFERENCE_ARRAYS: save(arrays)}
    with pytest.raises(BundleError, match="do not fit each other"):
        replace(bundle, contents=contents).reference()


def test_axes_are_the_principal_components() -> None:
    chance = np.random.default_rng(0)
    spread = np.array([9, 4, 1] + [0.01] * 37)
    features = (chance.normal(size=(400, 40)) * spread).astype(np.float32)
    axes = Axes.of(features, 3)
    assert np.abs(np.diag(axes.axes[:3])) == pytest.approx(np.ones(3), abs=0.02)
    assert (axes.axes[np.abs(axes.axes).argmax(axis=0), np.arange(3)] > 0).all()


def test_of_fewer_images_than_axes_there_are_as_many_as_there_can_be() -> None:
    features = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    assert len(Axes.of(features).along(features[0])) == 3


def test_words_count_as_models_see_them() -> None:
    words = Words.of(["Écharpe d'été 30x40"] * 10 + ["rare"])
    assert words.frequent == ("00x00", "d", "echarpe", "ete")
    assert words.in_texts(["echarpe", "", "RARE"]).tolist() == [[False, False, True, False], [False] * 4, [False] * 4]


def test_a_word_is_known_if_any_text_had_it() -> None:
    unknown = Words.of(["piscine ronde", "rare"]).unknown_in(
        ["piscine rare", "piscine carrée", "tout neuf", "", "..."]
    )
    assert unknown[:3].tolist() == [0, 0.5, 1]
    assert np.isnan(unknown[3:]).all()


def test_cleaning_before_or_after_makes_no_difference(prepared: Prepared) -> None:
    """Training has clean texts, a record what a merchant sent."""
    title = prepared.products()["title"][0]
    assert words_of(clean(f"<p>{title}</p>")) == words_of(title)
