"""Which table of types an answer is from, and which types people may give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.service.conftest import Starter, replace_file
from tests.service.test_feedback import correct, predicted

from aisle.catalog import CHANGES_FILE, TYPES_FILE, ProductType, ProductTypes, TypeChanges
from aisle.files import sha256_bytes
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.store.users import Role


@pytest.fixture
def store(bundle: Bundle, tmp_path: Path) -> BundleStore:
    """With the bundle of all tests, and one before it whose table has the type 3000, too."""
    folder = Path(shutil.copytree(bundle.path, tmp_path / "earlier"))
    earlier = ProductTypes([*bundle.types().values(), ProductType("3000", "Cabines téléphoniques")])
    replace_file(folder, TYPES_FILE, earlier.to_csv().encode())
    store = BundleStore(tmp_path / "models")
    for one in (Bundle.load(folder), bundle):
        store.add(one)
        store.make_champion(one.version)
    return store


def test_an_answer_names_the_table_that_it_is_from(
    bundle: Bundle, store: BundleStore, start_service: Starter
) -> None:
    [earlier] = store.serving().before
    serving = [store.root / earlier]
    service = start_service(lambda: serving[0])
    before = predicted(service)
    assert before["types"] == service.get("/model").json()["types_id"]
    serving[0] = store.find("champion")
    assert service.champion.follow()
    after = predicted(service)
    assert after["types"] == service.get("/model").json()["types_id"] != before["types"]
    assert after["types"] == sha256_bytes(bundle.contents[TYPES_FILE])[:12]


def test_the_model_tells_what_became_of_earlier_types(bundle: Bundle, tmp_path: Path, start_service: Starter) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    replace_file(folder, CHANGES_FILE, TypeChanges({"2584": "2583", "3000": None}).to_csv().encode())
    assert start_service(lambda: folder).get("/model").json()["type_changes"] == {"2584": "2583", "3000": None}
    assert start_service().get("/model").json()["type_changes"] == {}


def test_a_person_may_give_a_type_of_the_model_that_answered_or_of_the_one_that_serves(
    store: BundleStore, start_service: Starter
) -> None:
    [earlier] = store.serving().before
    serving = [store.root / earlier]
    service = start_service(lambda: serving[0], models_path=store.root)
    old = predicted(service)["prediction_id"]
    serving[0] = store.find("champion")
    assert service.champion.follow()
    new = predicted(service)["prediction_id"]
    given = correct(service, Role.ADMIN, "anne", old, "3000")
    assert (given.status_code, given.json()["label"]) == (201, "Cabines téléphoniques")
    assert correct(service, Role.ADMIN, "anne", old, "2583").status_code == 201
    assert correct(service, Role.ADMIN, "anne", old, "3001").json()["type"] == "urn:aisle:problem:no-such-type"
    assert correct(service, Role.ADMIN, "anne", new, "3000").json()["type"] == "urn:aisle:problem:no-such-type"
    shutil.rmtree(store.root / earlier)
    assert correct(service, Role.ADMIN, "anne", old, "3000").json()["type"] == "urn:aisle:problem:no-such-type"


@pytest.mark.parametrize("version", ["none", "../earlier", ""])
def test_a_version_that_is_not_in_the_store_has_no_types(store: BundleStore, version: str) -> None:
    assert store.types_of(version) == {}


def test_a_table_that_was_altered_has_no_types(store: BundleStore) -> None:
    [earlier] = store.serving().before
    assert "3000" in store.types_of(earlier)
    (store.root / earlier / TYPES_FILE).write_text("prdtypecode,label\n1,a\n")
    assert store.types_of(earlier) == {}
