"""`aisle registry`: who becomes champion, who does not, and the way back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.service.conftest import MALFORMED, Harm, answering_wrongly, make_unsure

from aisle.data.prepare import Prepared
from aisle.errors import AisleError, BundleError, CheckFailed, InputError, UsageError
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.registry.frozen import FROZEN_FILE
from aisle.registry.gate import Limits, Verdict, judge
from aisle.settings import get_settings
from aisle.store.audit import Entry, entries
from aisle.store.engine import open_database, reading
from aisle.training.behaviour import Behaviour
from aisle.training.evaluate import Evaluation

Verb = Callable[..., dict[str, Any]]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    from aisle.cli.registry import registry

    def verb(*words: str) -> dict[str, Any]:
        registry.main([*words, "--json"], standalone_mode=False)
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return verb


@pytest.fixture
def store(bundle: Bundle) -> BundleStore:
    """With a champion."""
    store = BundleStore(get_settings().models_path)
    store.add(bundle)
    store.make_champion(bundle.version)
    return store


@pytest.fixture
def other_folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the champion, to be changed."""
    return Path(shutil.copytree(bundle.path, tmp_path / "other"))


@pytest.fixture
def unsure(other_folder: Path) -> Bundle:
    """The champion, far too unsure of what it says."""
    make_unsure(other_folder)
    return Bundle.load(other_folder)


def trail() -> list[Entry]:
    with reading(open_database(get_settings().database_url)) as connection:
        return entries(connection)


@pytest.mark.slow
def test_a_challenger_that_the_gate_refuses_does_not_become_champion(
    verb: Verb, store: BundleStore, unsure: Bundle, prepared: Prepared
) -> None:
    champion = store.serving().champion
    assert verb("register", str(unsure.path))["challenger"] == unsure.version
    with pytest.raises(CheckFailed, match=r"calibration: .* the limit is") as refused:
        verb("promote", "--data", str(prepared.folder))
    report = json.loads(Path(refused.value.where).read_text())
    assert (report["challenger"], report["champion"], report["passed"]) == (unsure.version, champion, False)
    assert store.serving().champion == champion
    assert [one.what for one in trail()] == ["model.register", "model.promote.refuse"]


def test_force_promotes_for_a_reason_that_is_recorded_and_rollback_undoes_it(
    verb: Verb, store: BundleStore, unsure: Bundle
) -> None:
    champion = store.serving().champion
    assert verb("promote", str(unsure.path), "--force", "shown to the board")["champion"] == unsure.version
    assert store.serving().champion == unsure.version
    assert verb("rollback") == {"champion": champion, "before": unsure.version}
    assert store.serving().champion == champion
    promotion, rollback = trail()
    assert promotion.before == {"champion": champion}
    assert promotion.after == {"champion": unsure.version, "forced": "shown to the board", "gate": None}
    assert (rollback.what, rollback.after) == ("model.rollback", {"champion": champion})


@pytest.mark.parametrize("harm", [answering_wrongly, *MALFORMED])
@pytest.mark.parametrize("words", [["register"], ["promote"], ["promote", "--force", "it is the newest"]])
def test_a_bundle_that_does_not_give_its_known_answer_is_not_even_a_challenger(
    verb: Verb, store: BundleStore, other_folder: Path, words: list[str], harm: Harm
) -> None:
    before = store.serving()
    harm(other_folder)
    with pytest.raises(BundleError, match=r"known answer|tables do not fit"):
        verb(words[0], str(other_folder), *words[1:])
    assert store.serving() == before
    assert store.versions() == [before.champion]


def test_force_without_a_reason_is_wrong_use(verb: Verb, store: BundleStore, unsure: Bundle) -> None:
    with pytest.raises(UsageError, match="needs a reason"):
        verb("promote", str(unsure.path), "--force", " ")


@pytest.mark.slow
def test_what_passes_becomes_champion_and_is_challenger_no_more(
    verb: Verb, bundle: Bundle, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aisle.measuring.judge", passing)
    store = BundleStore(get_settings().models_path)
    verb("register", str(bundle.path))
    found = verb("promote", "--data", str(prepared.folder))
    assert (found["champion"], found["before"], found["gate"]["passed"]) == (bundle.version, None, True)
    assert (store.serving().champion, store.serving().challenger) == (bundle.version, None)


def passing(challenger: Evaluation, champion: Evaluation | None, behaviours: Sequence[Behaviour]) -> Verdict:
    """The gate with budgets that a small sample and a slow machine keep."""
    return judge(challenger, champion, behaviours, Limits(calibration_error=1, latency_ms=1e6))


def test_there_is_no_way_back_from_the_first(verb: Verb, store: BundleStore) -> None:
    with pytest.raises(CheckFailed, match="no champion before"):
        verb("rollback")
    assert trail() == []


def test_rolled_back_twice_is_two_steps_back(store: BundleStore, bundle: Bundle, unsure: Bundle) -> None:
    store.add(unsure)
    for version in (unsure.version, bundle.version):
        store.make_champion(version)
    assert [store.roll_back().champion for _ in range(2)] == [unsure.version, bundle.version]


def test_rolled_back_twice_to_the_same_one_is_one_step(store: BundleStore, bundle: Bundle, unsure: Bundle) -> None:
    store.add(unsure)
    for version in (unsure.version, bundle.version):
        store.make_champion(version)
    assert store.roll_back(unsure.version).champion == unsure.version
    with pytest.raises(CheckFailed, match=f"is {bundle.version}, not {unsure.version}"):
        store.roll_back(unsure.version)
    assert store.serving().champion == unsure.version


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(
    store: BundleStore, bundle: Bundle, unsure: Bundle
) -> None:
    store.add(unsure)
    store.make_champion(unsure.version, instead_of=bundle.version)
    with pytest.raises(CheckFailed, match=f"was to replace {bundle.version}, but {unsure.version} is the champion"):
        store.make_champion(bundle.version, instead_of=bundle.version)


@pytest.mark.parametrize("harm", ["gone", "relabelled", "unreadable", "of no kind"])
def test_the_gate_does_not_measure_on_other_products_than_it_froze(
    verb: Verb, store: BundleStore, bundle: Bundle, prepared: Prepared, harm: str
) -> None:
    frozen = verb("freeze", "--data", str(prepared.folder))["products"]
    path = store.root / FROZEN_FILE
    content = json.loads(path.read_text())
    products = content["products"]
    assert len(products) == frozen == prepared.counts["test"]
    first = next(iter(products))
    harmed = {
        "gone": {**content, "products": {**products, "no key": products[first]}},
        "relabelled": {**content, "products": {**products, first: {**products[first], "type_code": "9999"}}},
        "unreadable": "{",
        "of no kind": {**content, "products": [first]},
    }[harm]
    path.write_text(harmed if isinstance(harmed, str) else json.dumps(harmed))
    with pytest.raises(InputError, match="aisle registry freeze"):
        verb("promote", bundle.version, "--data", str(prepared.folder))
    assert verb("freeze", "--data", str(prepared.folder))["products"] == frozen


def test_an_unknown_challenger_is_said(verb: Verb, store: BundleStore) -> None:
    with pytest.raises(AisleError, match="there is no challenger"):
        verb("promote")
