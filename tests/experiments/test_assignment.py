"""Who gets the challenger is decided once, everywhere in the same way, and in the promised share."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from aisle.experiments.assignment import arm_of, place
from aisle.store.experiments import Arm, Experiment, Kind

EXPERIMENT = Experiment(
    7, Kind.CANARY, "old", "new", 0.1, {}, "test", datetime(2026, 3, 1, tzinfo=UTC), None, None, None, None, None
)
PRODUCTS = [f"product {number}" for number in range(20_000)]


def challenged(share: float, number: int = 7) -> set[str]:
    of = replace(EXPERIMENT, id=number, share=share)
    return {one for one in PRODUCTS if arm_of(of, one) is Arm.CHALLENGER}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_challenger_gets_its_share(share: float) -> None:
    assert len(challenged(share)) / len(PRODUCTS) == pytest.approx(share, abs=0.01)


def test_a_unit_has_the_same_place_on_every_machine() -> None:
    """Written down: another hash would send products back and forth when services are updated one by one."""
    assert [round(place(1, unit), 6) for unit in ("12", "É", "")] == [0.633298, 0.674628, 0.904759]


def test_when_the_share_grows_nobody_goes_back_to_the_champion() -> None:
    assert challenged(0.1) < challenged(0.2) < challenged(0.5)


def test_another_experiment_shuffles_anew() -> None:
    both = challenged(0.5) & challenged(0.5, number=8)
    assert len(both) / len(PRODUCTS) == pytest.approx(0.25, abs=0.02)


def test_everybody_and_nobody() -> None:
    assert challenged(1.0) == set(PRODUCTS)
    assert challenged(0.0) == set()


def test_half_a_character_is_a_unit_too() -> None:
    assert 0 <= place(1, "\ud800") < 1
