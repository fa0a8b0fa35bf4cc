"""The bundle store and its pointer."""

from __future__ import annotations

from pathlib import Path

import pytest

from aisle.errors import BundleError, InputError
from aisle.model.bundle import Bundle
from aisle.registry.bundles import POINTER_FILE, BundleStore, Serving


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "models")


def test_an_empty_store_serves_nothing_and_says_so(store: BundleStore) -> None:
    assert store.versions() == []
    assert store.serving() == Serving()
    with pytest.raises(InputError, match="there is no champion"):
        store.find("champion")


def test_a_bundle_is_stored_once_under_its_version(store: BundleStore, bundle: Bundle) -> None:
    assert store.add(bundle) == store.add(bundle) == store.root / bundle.version
    assert store.versions() == [bundle.version]
    assert Bundle.load(store.find(bundle.version)).version == bundle.version


def test_the_champion_is_the_one_pointed_to(store: BundleStore, bundle: Bundle) -> None:
    store.add(bundle)
    store.make_champion(bundle.version)
    assert store.find("champion") == store.root / bundle.version


def test_a_damaged_bundle_does_not_become_champion(store: BundleStore, bundle: Bundle) -> None:
    (store.add(bundle) / "model.json").write_text("{}")
    with pytest.raises(BundleError, match=r"model\.json"):
        store.make_champion(bundle.version)
    assert store.serving() == Serving()


def test_a_version_that_is_not_there_does_not_become_champion(store: BundleStore) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        store.make_champion("0123456789ab")


def test_a_path_to_a_bundle_outside_the_store_is_found(store: BundleStore, bundle: Bundle) -> None:
    assert store.find(str(bundle.path)) == bundle.path


def test_an_unknown_name_is_refused_with_what_there_is(store: BundleStore, bundle: Bundle) -> None:
    store.add(bundle)
    with pytest.raises(InputError, match=bundle.version):
        store.find("nothing")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"other": 1}'])
def test_a_damaged_pointer_is_an_error_and_not_no_champion(store: BundleStore, content: str) -> None:
    store.root.mkdir()
    (store.root / POINTER_FILE).write_text(content)
    with pytest.raises(BundleError, match="pointer"):
        store.serving()


def test_a_half_written_bundle_is_no_version(store: BundleStore, bundle: Bundle) -> None:
    store.add(bundle).rename(store.root / ".tmp-half")
    assert store.versions() == []


def test_a_damaged_bundle_is_passed_over_and_replaced_by_a_whole_one(store: BundleStore, bundle: Bundle) -> None:
    lineage = bundle.json("lineage.json")
    damaged = store.add(bundle) / "model.json"
    assert store.with_lineage(lineage) is not None
    damaged.write_text("{}")
    assert store.with_lineage(lineage) is None
    store.add(bundle)
    assert Bundle.load(store.root / bundle.version).version == bundle.version


def test_another_lineage_is_not_found(store: BundleStore, bundle: Bundle) -> None:
    store.add(bundle)
    assert store.with_lineage({**bundle.json("lineage.json"), "seed": 1}) is None
