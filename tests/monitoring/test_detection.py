"""What has drifted raises an alarm, what has not does not, whatever is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.monitoring.conftest import observations, reference_of

from aisle.model.reference import Reference
from aisle.monitoring.detection import Drift, Group, Options, detect, feature_names

N = 300


def alarms(found: Drift) -> set[str]:
    return {one.name for one in found.alarms}


def test_undrifted_windows_hardly_ever_alarm(reference: Reference) -> None:
    """Of 60 windows at most 5 % and what a binomial adds by chance."""
    found = [detect(reference, observations(N, seed=seed)).detected for seed in range(1, 61)]
    assert sum(found) <= 8  # 99.5 % of binomials of 60 and 0.05


def test_a_large_undrifted_window_does_not_alarm_either(reference: Reference) -> None:
    assert alarms(detect(reference, observations(5_000, seed=1))) == set()


def test_a_large_window_that_hardly_moved_does_not_alarm() -> None:
    """Chance does not explain it, and yet it does not matter."""
    rows = observations(2_000, seed=1)
    as_before = observations(5_000, seed=2).numbers["brightness"]
    found = detect(reference_of(rows), observations(5_000, seed=2, brightness=as_before - 0.02))
    [one] = [one for one in found.features if one.name == "image_brightness"]
    assert one.adjusted_p_value < 0.05
    assert not found.detected


def some(n: int, share: float, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


nothing = np.full(N, np.nan, np.float32)
DRIFTS: dict[str, tuple[str, dict[str, Any]]] = {
    "another mix of types": ("predicted", {"predicted": ["10"] * (N // 2) + ["2583"] * (N // 2)}),
    "another language": ("title_language", {"title_language": ["de"] * N}),
    "descriptions dropped": (
        "description_missing",
        {
            "description_length": nothing,
            "description_unknown": nothing,
            "description_language": [""] * N,
            "description": np.zeros((N, 60), dtype=bool),
        },
    ),
    "images missing": (
        "image_missing",
        dict.fromkeys(("width", "height", "brightness", "saturation"), nothing)
        | {"has_image": np.zeros(N, np.float32), "components": np.full((N, 4), np.nan, np.float32)},
    ),
    "images grey": ("image_saturation", {"saturation": np.zeros(N, np.float32)}),
    "images tiny": (
        "image_size",
        {"width": np.where(some(N, 0.3), 32, 500).astype(np.float32), "height": np.full(N, 32, np.float32)},
    ),
    "images wide": ("image_shape", {"width": np.full(N, 900, np.float32)}),
    "images of other things": (
        "image_embedding",
        {"components": np.random.default_rng(5).normal(4, 1, (N, 4)).astype(np.float32)},
    ),
    "other words": ("title_words", {"title": some(N * 60, 0.1).reshape(N, 60)}),
    "new words": (
        "title_unknown_words",
        {"title_unknown": np.random.default_rng(6).beta(4, 4, N).astype(np.float32)},
    ),
    "longer titles": ("title_length", {"title_length": np.full(N, 180, np.float32)}),
    "titles missing": ("title_missing", {"title_length": np.where(some(N, 0.3), np.nan, 50).astype(np.float32)}),
    "an unsure model": (
        "confidence",
        {"confidence": np.random.default_rng(7).beta(2, 2, N).astype(np.float32)},
    ),
}


@pytest.mark.parametrize("what", DRIFTS)
def test_each_drift_raises_the_alarm_of_its_feature(what: str, reference: Reference) -> None:
    name, changed = DRIFTS[what]
    assert name in alarms(detect(reference, observations(N, seed=1, **changed)))


def test_a_type_that_the_model_never_saw_raises_alarms_where_a_fifth_is_of_it(reference: Reference) -> None:
    """Its products have words of their own, look otherwise, and are taken for what they are least unlike."""
    new, usual, chance = some(N, 0.2), observations(N, seed=1), np.random.default_rng(8)
    words, unknown = usual.words["title"].copy(), usual.numbers["title_unknown"].copy()
    words[new] = chance.random((new.sum(), 60)) < 0.02
    unknown[new] = chance.beta(6, 4, new.sum())
    components, confidence = usual.components.copy(), usual.numbers["confidence"].copy()
    components[new] += 3
    confidence[new] = chance.beta(3, 3, new.sum())
    predicted = np.where(new, "2583", np.array(usual.names["predicted"])).tolist()
    window = observations(
        N,
        seed=1,
        title=words,
        title_unknown=unknown,
        components=components,
        confidence=confidence,
        predicted=predicted,
    )
    found = detect(reference, window)
    assert {"title_unknown_words", "image_embedding", "confidence", "predicted"} <= alarms(found)
    assert new[np.argsort(-found.unusual)[:20]].all()  # and the report shows them


def test_an_alarm_needs_an_effect_that_matters(reference: Reference) -> None:
    _, changed = DRIFTS["an unsure model"]
    window = observations(N, seed=1, **changed)
    assert not detect(reference, window, Options(least_effect=0.9)).detected


def test_alarms_come_with_the_largest_effect_first(reference: Reference) -> None:
    changed = DRIFTS["images grey"][1] | DRIFTS["an unsure model"][1]
    found = detect(reference, observations(N, seed=1, **changed))
    effects = [one.effect for one in found.alarms]
    assert len(effects) > 1
    assert effects == sorted(effects, reverse=True)
    assert found.as_dict()["alarms"] == [one.name for one in found.alarms]


@pytest.mark.parametrize("n", [0, 1, 99])
def test_a_window_that_is_too_small_is_said_and_raises_no_alarm(n: int, reference: Reference) -> None:
    found = detect(reference, observations(n, seed=1, confidence=np.zeros(n, np.float32)))
    assert f"only {n} products" in found.too_few
    assert not found.detected


def test_a_reference_that_is_too_small_is_said() -> None:
    found = detect(reference_of(observations(20, seed=0)), observations(N, seed=1))
    assert "the reference has only 20 products" in found.too_few


def test_a_small_window_has_to_move_further(reference: Reference) -> None:
    """The same change is an alarm of many products, and may be chance of few."""
    p_values = {}
    for n in (100, 2_000):
        whole = observations(n, seed=1).numbers["description_length"]
        fewer = np.where(some(n, 0.14, seed=3), np.nan, whole).astype(np.float32)
        found = detect(reference, observations(n, seed=1, description_length=fewer))
        p_values[n] = next(one for one in found.features if one.name == "description_missing").adjusted_p_value
    assert p_values[100] > 0.05 > p_values[2_000]


def test_a_catalogue_without_images_is_compared_without_them() -> None:
    reference = reference_of(observations(400, seed=0), with_images=False)
    assert not [name for name in feature_names(reference) if name.startswith("image_")]
    assert not detect(reference, observations(N, seed=1)).detected


def test_only_the_groups_that_are_asked_for_are_compared(reference: Reference) -> None:
    texts: tuple[Group, ...] = ("text",)
    found = detect(reference, observations(N, seed=1), groups=texts)
    assert {one.group for one in found.features} == {"text"}


def test_every_column_constant_and_everything_missing_is_compared_without_complaint() -> None:
    n = 150
    gone: dict[str, Any] = {
        name: np.full(n, np.nan, np.float32)
        for name in observations(1, seed=0).numbers
        if name not in ("has_image", "confidence")
    }
    gone |= {
        "has_image": np.zeros(n, np.float32),
        "confidence": np.ones(n, np.float32),
        "title_language": [""] * n,
        "description_language": [""] * n,
        "predicted": ["10"] * n,
        "title": np.zeros((n, 60), dtype=bool),
        "description": np.zeros((n, 60), dtype=bool),
        "components": np.full((n, 4), np.nan, np.float32),
    }
    rows = observations(n, seed=1, **gone)
    assert not detect(reference_of(rows), rows).detected
    assert {"title_missing", "image_missing"} <= alarms(detect(reference_of(observations(n, seed=1)), rows))


def test_the_same_window_gives_the_same_answer(reference: Reference) -> None:
    window = observations(N, seed=1)
    assert detect(reference, window) == detect(reference, window)


def test_the_most_unusual_products_are_those_that_are_new(reference: Reference) -> None:
    strange = some(N, 0.2)
    usual = observations(N, seed=1)
    languages = np.where(strange, "de", np.array(usual.names["title_language"])).tolist()
    found = detect(reference, observations(N, seed=1, title_language=languages))
    assert strange[np.argsort(-found.unusual)[: strange.sum()]].all()
