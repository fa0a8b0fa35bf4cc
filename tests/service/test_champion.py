"""The model that serves: replaced while running, and kept when the new one is bad."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.service.conftest import Service, Starter, answering_wrongly, damaged

from aisle.catalog import Product
from aisle.errors import BundleError, InputError
from aisle.model.bundle import Bundle
from aisle.registry.bundles import POINTER_FILE, BundleStore
from aisle.service.champion import Champion


@pytest.fixture
def store(tmp_path: Path, bundle: Bundle, other_bundle: Bundle) -> BundleStore:
    """Two versions, the first of which is the champion."""
    store = BundleStore(tmp_path / "models")
    for one in (bundle, other_bundle):
        store.add(one)
    store.make_champion(bundle.version)
    return store


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


def test_the_old_one_stays_open_until_it_is_given_back(
    champion: Champion, store: BundleStore, other_bundle: Bundle, photo: bytes
) -> None:
    with champion.lend() as old:
        store.make_champion(other_bundle.version)
        assert champion.follow()
        [outcome] = old.predict([Product("piscine", "", photo)])
        assert not isinstance(outcome, InputError)
    with pytest.raises(RuntimeError):  # closed: its threads have ended
        old.predict([Product("piscine", "", photo)])


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("harm", [damaged, answering_wrongly, gone])
def test_a_bad_bundle_leaves_the_old_one_serving(
    champion: Champion, store: BundleStore, bundle: Bundle, other_bundle: Bundle, harm: Any
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


def test_a_damaged_pointer_leaves_the_old_one_serving(champion: Champion, store: BundleStore, bundle: Bundle) -> None:
    (store.root / POINTER_FILE).write_text("{")
    assert not champion.follow()
    assert champion.predictor.version == bundle.version
    assert champion.refused is not None


def test_the_first_bundle_has_to_be_good(store: BundleStore, bundle: Bundle) -> None:
    answering_wrongly(store.root / bundle.version)
    with pytest.raises(BundleError, match="known answer"):
        Champion(lambda: store.root / bundle.version)


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


def test_a_service_follows_the_pointer_and_shows_what_it_refused(
    start_service: Starter, store: BundleStore, bundle: Bundle, other_bundle: Bundle
) -> None:
    service = start_service(find=lambda: store.find("champion"))
    damaged(store.root / other_bundle.version)
    (store.root / POINTER_FILE).write_text(json.dumps({"champion": other_bundle.version, "challenger": None}))
    while (refused := model_of(service)["refused"]) is None:
        pass  # the service looks every 50 ms; pytest's own time-out ends a wait that has no end
    assert refused["version"] == other_bundle.version
    assert model_of(service)["version"] == bundle.version
    metrics = service.client.get("/metrics").text
    assert "aisle_model_reload_failures_total 0.0" not in metrics
    assert f'aisle_model{{version="{bundle.version}"}} 1.0' in metrics
    shutil.rmtree(store.root / other_bundle.version)
    store.add(other_bundle)
    while model_of(service)["version"] == bundle.version:
        pass
    answer = service.post("/predict", json={"designation": "piscine"})
    assert answer.json()["model"] == other_bundle.version
