"""The model that serves: replaced while running, and kept when the new one is bad."""

from __future__ import annotations

import gc
import json
import math
import shutil
import threading
import weakref
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.service.conftest import MALFORMED, Harm, Service, Starter, answering_wrongly, damaged

from aisle.catalog import Product
from aisle.errors import BundleError, InputError
from aisle.model.bundle import RUN_FILE, Bundle
from aisle.registry.bundles import POINTER_FILE, BundleStore
from aisle.service.champion import Champion


@pytest.fixture
def champion(store: BundleStore) -> Iterator[Champion]:
    champion = Champion(lambda: store.find("champion"), threads=1)
    yield champion
    champion.close()


def test_a_new_champion_takes_over(champion: Champion, store: BundleStore, other_bundle: Bundle) -> None:
    assert not champion.follow()
    store.make_champion(other_bundle.version)
    assert champion.follow()
    assert champion.predictor.version == other_bundle.version
    assert not champion.follow()


def test_metrics_tell_when_the_one_that_serves_was_trained(
    champion: Champion, store: BundleStore, bundle: Bundle, other_bundle: Bundle
) -> None:
    def trained(version: str) -> float | None:
        return REGISTRY.get_sample_value("aisle_model_trained_timestamp_seconds", {"version": version})

    store.make_champion(other_bundle.version)
    assert champion.follow()
    began = datetime.fromisoformat(json.loads((other_bundle.path / RUN_FILE).read_text())["began"])
    assert trained(other_bundle.version) == began.timestamp()
    before = trained(bundle.version)
    assert before is not None
    assert math.isnan(before)


def test_the_old_one_stays_open_until_it_is_given_back(
    champion: Champion, store: BundleStore, other_bundle: Bundle, photo: bytes
) -> None:
    with champion.lend() as old:
        store.make_champion(other_bundle.version)
        assert champion.follow()
        [outcome] = old.predict([Product("piscine", "", photo)])
        assert not isinstance(outcome, InputError)
    with pytest.raises(RuntimeError):  # closed
        old.predict([Product("piscine", "", photo)])


def test_the_one_that_was_replaced_goes_by_its_last_reference(
    champion: Champion, store: BundleStore, other_bundle: Bundle, photo: bytes
) -> None:
    """The garbage collector passes over what a service had when it started."""
    with champion.lend() as old:
        old.predict([Product("piscine", "", photo)])
        assert old.neighbours is not None
        left = [weakref.ref(one) for one in (old, old.encoder)]
    del old
    gc.disable()
    try:
        store.make_champion(other_bundle.version)
        assert champion.follow()
        assert [one() for one in left] == [None] * 2
    finally:
        gc.enable()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("harm", [damaged, answering_wrongly, gone, *MALFORMED])
def test_a_bad_bundle_leaves_the_old_one_serving(
    champion: Champion, store: BundleStore, bundle: Bundle, other_bundle: Bundle, harm: Harm
) -> None:
    store.make_champion(other_bundle.version)
    harm(store.root / other_bundle.version)
    for _ in range(2):
        assert not champion.follow()
    assert champion.predictor.version == bundle.version
    assert champion.refused is not None
    assert champion.refused.path.name == other_bundle.version
    assert champion.refused.reason


def test_a_bundle_that_was_repaired_takes_over(champion: Champion, store: BundleStore, other_bundle: Bundle) -> None:
    store.make_champion(other_bundle.version)
    folder = store.root / other_bundle.version
    damaged(folder)
    assert not champion.follow()
    shutil.rmtree(folder)
    store.add(other_bundle)
    assert champion.follow()
    assert champion.refused is None


def test_a_damaged_pointer_leaves_the_old_one_serving_and_is_forgotten_when_it_is_repaired(
    champion: Champion, store: BundleStore, bundle: Bundle
) -> None:
    (store.root / POINTER_FILE).write_text("{")
    assert not champion.follow()
    assert champion.predictor.version == bundle.version
    assert champion.refused is not None
    store_again(store, bundle)
    assert not champion.follow()
    assert champion.refused is None


def store_again(store: BundleStore, champion: Bundle) -> None:
    """Point to the champion without reading the pointer that there is."""
    (store.root / POINTER_FILE).unlink()
    store.make_champion(champion.version)


def test_behind_a_damaged_pointer_a_bad_bundle_is_named_again(
    champion: Champion, store: BundleStore, other_bundle: Bundle
) -> None:
    store.make_champion(other_bundle.version)
    answering_wrongly(store.root / other_bundle.version)
    assert not champion.follow()
    pointer = (store.root / POINTER_FILE).read_text()
    (store.root / POINTER_FILE).write_text("{")
    assert not champion.follow()
    (store.root / POINTER_FILE).write_text(pointer)
    assert not champion.follow()
    assert champion.refused is not None
    assert champion.refused.path.name == other_bundle.version


def test_what_was_refused_is_tried_again_after_a_rollback(
    champion: Champion, store: BundleStore, bundle: Bundle, other_bundle: Bundle
) -> None:
    store.make_champion(other_bundle.version)
    answering_wrongly(store.root / other_bundle.version)
    assert not champion.follow()
    pointer = (store.root / POINTER_FILE).read_text()
    store.roll_back()
    assert not champion.follow()
    assert champion.refused is None
    (store.root / POINTER_FILE).write_text(pointer)
    assert not champion.follow()
    assert champion.refused is not None


@pytest.mark.parametrize("harm", [answering_wrongly, *MALFORMED])
def test_the_first_bundle_has_to_be_good(store: BundleStore, bundle: Bundle, harm: Harm) -> None:
    harm(store.root / bundle.version)
    with pytest.raises(BundleError, match=r"known answer|tables do not fit"):
        Champion(lambda: store.root / bundle.version)


def test_whatever_goes_wrong_with_one_look_the_next_one_is_taken(
    champion: Champion, store: BundleStore, other_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A double: nothing else raises what no bundle is known to."""

    def broken(_: object) -> Path:
        raise RuntimeError("out of threads")

    store.make_champion(other_bundle.version)
    with monkeypatch.context() as patched:
        patched.setattr(BundleStore, "find", broken)
        assert not champion.follow()
    assert champion.refused is not None
    assert champion.follow()


def test_a_look_that_fails_does_not_end_the_looking(
    start_service: Starter, store: BundleStore, other_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A double: `follow` is not known to raise anything."""
    failed = threading.Event()
    follow = Champion.follow

    def failing_once(champion: Champion) -> bool:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("broken")
        return follow(champion)

    monkeypatch.setattr(Champion, "follow", failing_once)
    service = start_service(find=lambda: store.find("champion"))
    assert failed.wait(30)
    store.make_champion(other_bundle.version)
    while service.champion.predictor.version != other_bundle.version:
        pass  # the service looks every 50 ms; pytest's own time-out ends a wait that has no end


def model_of(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.get("/model").json()
    return found


def test_the_model_page_says_what_serves_and_where_it_comes_from(service: Service, bundle: Bundle) -> None:
    found = model_of(service)
    assert found["version"] == bundle.version
    assert found["recipe"] == "light"
    assert found["lineage"] == bundle.json("lineage.json")
    assert found["metrics"] == bundle.json("metrics.json")
    assert {"code": "2583", "label": "Piscine et accessoires"} in found["types"]
    assert "#" in found["card"]
    assert found["refused"] is None


@pytest.mark.parametrize("harm", [damaged, *MALFORMED])
def test_a_service_shows_what_it_refused_and_follows_the_pointer_on(
    start_service: Starter, store: BundleStore, bundle: Bundle, other_bundle: Bundle, harm: Harm
) -> None:
    service = start_service(find=lambda: store.find("champion"))
    harm(store.root / other_bundle.version)
    (store.root / POINTER_FILE).write_text(json.dumps({"champion": other_bundle.version, "challenger": None}))
    while (refused := model_of(service)["refused"]) is None:
        pass  # the service looks every 50 ms; pytest's own time-out ends a wait that has no end
    assert refused["version"] == other_bundle.version
    assert model_of(service)["version"] == bundle.version
    metrics = service.client.get("/metrics").text
    assert "aisle_model_reload_failures_total 0.0" not in metrics
    assert "aisle_model_refused 1.0" in metrics
    assert f'aisle_model{{version="{bundle.version}"}} 1.0' in metrics
    shutil.rmtree(store.root / other_bundle.version)
    store.add(other_bundle)
    while model_of(service)["version"] == bundle.version:
        pass
    answer = service.post("/predict", json={"designation": "piscine"})
    assert answer.json()["model"] == other_bundle.version
    assert "aisle_model_refused 0.0" in service.client.get("/metrics").text
