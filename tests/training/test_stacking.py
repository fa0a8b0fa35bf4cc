"""Stacking: what models say, joined by what is learnt from rows that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from aisle.model.calibration import Array, log_softmax
from aisle.model.fusion import LogLinearPool, StackedFusion, fusion_from
from aisle.training.stacking import Penalties, fit_stacked

TYPES = 4


def said(seed: int, skill: float, targets: NDArray[np.intp]) -> Array:
    scores = np.random.default_rng(seed).normal(size=(len(targets), TYPES))
    scores[np.arange(len(targets)), targets] += skill
    return log_softmax(scores)


def drawn(rows: int, seed: int = 0) -> tuple[dict[str, Array], NDArray[np.intp], NDArray[np.bool_]]:
    targets = np.random.default_rng(seed).integers(0, TYPES, rows)
    models = {"title": said(seed + 1, 2.0, targets), "image": said(seed + 2, 1.0, targets)}
    return models, targets, np.ones((rows, 2), dtype=bool)


def loss(logs: Array, targets: NDArray[np.intp]) -> float:
    return float(-logs[np.arange(len(targets)), targets].mean())


@pytest.fixture(scope="module")
def fusion() -> StackedFusion:
    return fit_stacked(*_in_order(drawn(2000))).fusion


def _in_order(
    found: tuple[Mapping[str, Array], NDArray[np.intp], NDArray[np.bool_]],
) -> tuple[Mapping[str, Array], NDArray[np.bool_], NDArray[np.intp]]:
    models, targets, present = found
    return models, present, targets


def test_joined_they_are_better_than_each_of_them(fusion: StackedFusion) -> None:
    models, targets, present = drawn(2000, seed=10)
    assert loss(fusion.log_probabilities(models, present), targets) < min(
        loss(one, targets) for one in models.values()
    )


@pytest.mark.parametrize("kept", ["title", "image"])
def test_without_a_model_the_other_is_worth_what_it_is_alone(fusion: StackedFusion, kept: str) -> None:
    models, targets, present = drawn(2000, seed=10)
    present = present & np.array([name == kept for name in models])
    assert loss(fusion.log_probabilities(models, present), targets) < loss(models[kept], targets) + 0.01


def test_a_model_that_is_missing_is_not_read(fusion: StackedFusion) -> None:
    models, _, present = drawn(50)
    present[:, 1] = False
    without = fusion.log_probabilities(models, present)
    models["image"] = np.full_like(models["image"], np.nan)
    assert (fusion.log_probabilities(models, present) == without).all()


def test_a_product_that_no_model_looked_at_has_no_probabilities(fusion: StackedFusion) -> None:
    models, _, present = drawn(3)
    assert np.isnan(fusion.log_probabilities(models, present & False)).all()


@pytest.mark.parametrize("kept", ["title", "image"])
def test_one_model_alone_may_stay_as_it_is(kept: str) -> None:
    models, targets, present = drawn(300)
    found = fit_stacked(models, present, targets, smallest=2)
    alone = present & np.array([name == kept for name in models])
    assert found.fusion.log_probabilities(models, alone) == pytest.approx(models[kept])


def test_a_product_gets_the_same_answer_alone_and_among_others(fusion: StackedFusion) -> None:
    models, _, present = drawn(200)
    together = fusion.log_probabilities(models, present)
    alone = [
        fusion.log_probabilities({name: one[row : row + 1] for name, one in models.items()}, present[:1])
        for row in range(200)
    ]
    assert (np.concatenate(alone) == together).all()


def test_a_model_that_guesses_is_not_believed() -> None:
    models, targets, present = drawn(2000)
    models["image"] = said(7, 0.0, targets)
    fitted = fit_stacked(models, present, targets).fusion
    assert loss(fitted.log_probabilities(models, present), targets) < loss(models["title"], targets) + 0.005


def test_a_model_that_boasts_is_toned_down() -> None:
    models, targets, present = drawn(2000)
    boasting = {"title": log_softmax(5 * models["title"])}
    fitted = fit_stacked(boasting, present[:, :1], targets).fusion
    assert loss(fitted.log_probabilities(boasting, present[:, :1]), targets) < loss(models["title"], targets) + 0.01


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_without_rows_to_learn_from_all_models_count_alike(rows: int) -> None:
    models, targets, present = drawn(rows)
    fitted = fit_stacked(models, present, targets, penalties=Penalties(1e9, 1e9, 1e9, 1e9)).fusion
    equal = LogLinearPool(["title", "image"], {"image+title": [0.5, 0.5]})
    new, _, there = drawn(20, seed=5)
    assert fitted.log_probabilities(new, there) == pytest.approx(equal.log_probabilities(new, there), abs=1e-4)


def test_models_whose_set_nobody_fitted_count_alike() -> None:
    models, targets, present = drawn(100)
    fitted = fit_stacked(models, present, targets, sets=[["image", "title"]]).fusion
    present[:, 1] = False
    assert fitted.log_probabilities(models, present) == pytest.approx(models["title"])


@pytest.mark.slow
def test_the_answers_for_rows_left_out_are_those_of_a_fusion_that_did_not_see_them() -> None:
    """Labels by chance, which can be learnt by heart and not otherwise."""
    models, _, present = drawn(400)
    by_chance = np.random.default_rng(9).integers(0, TYPES, 400)
    free = Penalties(1e-3, 1e-3, 1e-3, 1e-3)
    fitted = fit_stacked(models, present, by_chance, penalties=free)
    seen = fitted.fusion.log_probabilities(models, present)
    assert loss(fitted.unseen, by_chance) > np.log(TYPES) - 0.02 > loss(seen, by_chance)


def test_it_is_read_as_it_was_written(fusion: StackedFusion) -> None:
    models, _, present = drawn(20)
    again = fusion_from(fusion.table(), fusion.arrays())
    assert (again.log_probabilities(models, present) == fusion.log_probabilities(models, present)).all()


def test_the_same_rows_give_the_same_fusion() -> None:
    models, targets, present = drawn(300)
    first, second = (fit_stacked(models, present, targets).fusion.arrays() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
