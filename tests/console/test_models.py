"""The models on a page: what they are worth, promoting and rolling back."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.console.conftest import Site, shown, start_site

from aisle.console import work
from aisle.experiments.judge import Rules, judge
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.store import audit, experiments
from aisle.store.engine import reading, writing
from aisle.store.experiments import Kind

WAIT_SECONDS = 60


@pytest.fixture
def two(bundle: Bundle, other_bundle: Bundle, tmp_path: Path) -> Iterator[Site]:
    """A service with two versions, the first of which serves."""
    with start_site(tmp_path, [bundle, other_bundle]) as site:
        yield site


def store_of(site: Site) -> BundleStore:
    return BundleStore(site.settings.models_path)


def entries(site: Site, what: str) -> list[audit.Entry]:
    with reading(site.engine) as connection:
        return list(audit.newest(connection, audit.Filter(what=what)))


def test_the_page_says_what_serves_and_what_it_is_worth(two: Site, bundle: Bundle, other_bundle: Bundle) -> None:
    page = shown(two.browser("rita").get("/console/models").text)
    assert f"Champion {bundle.version}" in page
    assert other_bundle.version in page
    assert f"{100 * bundle.json('metrics.json')['all']['weighted_f1']:.1f}" in page
    assert "Piscine et accessoires" in page
    assert "Nobody has reviewed" in page


def test_the_live_accuracy_is_what_people_said(two: Site) -> None:
    rita = two.browser("rita")
    for number in range(2):
        told = two.predict(designation=f"Produit {number}")
        code = told["predicted"] if number else "10" if told["predicted"] != "10" else "2583"
        rita.post("/console/classify/correct", {"prediction_id": told["prediction_id"], "type": code})
    page = shown(rita.get("/console/models").text)
    assert "Accuracy 50.0" in page
    assert "Reviews 2 of 2 predictions" in page


def test_only_an_administrator_changes_what_serves(two: Site, other_bundle: Bundle) -> None:
    rita = two.browser("rita")
    assert "Promote" not in rita.get("/console/models").text
    form = {"version": other_bundle.version, "reason": "because", "force": "1"}
    assert rita.post("/console/models/promote", form).status_code == 403
    assert rita.post("/console/models/rollback", form).status_code == 403


def test_the_experiment_that_runs_is_shown_as_the_verb_shows_it(
    two: Site, bundle: Bundle, other_bundle: Bundle
) -> None:
    with writing(two.engine) as connection:
        begun = experiments.start(
            connection, kind=Kind.SHADOW, champion=bundle.version, challenger=other_bundle.version, share=1.0,
            rules=asdict(Rules()), who="anne", at=two.clock(),
        )  # fmt: skip
    rita = two.browser("rita")
    assert "Running experiment Shadow" in shown(rita.get("/console/models").text)
    with writing(two.engine) as connection:
        experiments.keep_findings(connection, begun.id, judge(connection, begun).as_dict())
    text = shown(rita.get("/console/models").text)
    assert "goes on 0 of 200 products seen" in text
    assert f"{other_bundle.version} challenger 0 0 – 0 –" in text
    assert "Latency worse in 0 of 0 that tell; evidence 1.00, 80 needed" in text


@pytest.mark.parametrize("path", ["promote", "rollback"])
@pytest.mark.parametrize(("reason", "status"), [("", 422), ("  ", 422), ("a" * 501, 422)])
def test_a_change_needs_a_reason(two: Site, other_bundle: Bundle, path: str, reason: str, status: int) -> None:
    form = {"version": other_bundle.version, "reason": reason, "force": "1"}
    assert two.browser("anne").post(f"/console/models/{path}", form).status_code == status


def test_an_unknown_version_is_refused(two: Site) -> None:
    form = {"version": "../models", "reason": "because", "force": "1"}
    answer = two.browser("anne").post("/console/models/promote", form)
    assert (answer.status_code, "there is no version" in answer.text) == (422, True)


def test_there_is_nothing_to_roll_back_to_at_first(two: Site, bundle: Bundle) -> None:
    anne = two.browser("anne")
    refused = anne.post("/console/models/rollback", {"to": "another", "reason": "because"})
    assert (refused.status_code, "there was no champion before" in refused.text) == (422, True)
    assert store_of(two).serving().champion == bundle.version


@pytest.fixture
def asked(two: Site, other_bundle: Bundle) -> Path:
    """What another worker of the service has left of a promotion that it was asked for, and that has ended."""
    path = two.settings.cache_path / "console" / "work.log"
    path.parent.mkdir(parents=True)
    said = {"kind": work.PROMOTE, "subject": other_bundle.version, "who": "zoe", "at": two.clock().isoformat()}
    hint = "`aisle registry promote --force REASON` promotes it all the same."
    line = f"aisle: {two.settings.data_path}/reports/gate.json: the gate refuses it: f1: fell by 2 points. {hint}"
    path.write_text(json.dumps(said | {"began": time.time(), "more": {}}) + f"\n{line}\n")
    with writing(two.engine) as connection:
        audit.record(connection, who="zoe", what="model.promote.ask", subject=other_bundle.version, at=two.clock())
    return path


def test_what_the_gate_said_against_a_version_outlives_the_worker_that_was_asked(two: Site, asked: Path) -> None:
    text = shown(two.browser("anne").get("/console/models").text)
    assert "Not promoted:" in text
    assert "the gate refuses it: f1: fell by 2 points. If there is good reason, “Without asking the gate”" in text
    assert "aisle registry" not in text


def test_a_promotion_that_was_done_is_no_failed_one(two: Site, asked: Path, other_bundle: Bundle) -> None:
    with writing(two.engine) as connection:  # as the verb does it
        audit.record(connection, who="zoe", what="model.promote", subject=other_bundle.version, at=two.clock())
    assert "Not promoted:" not in two.browser("anne").get("/console/models").text


def test_while_one_worker_promotes_no_other_begins(two: Site, asked: Path, other_bundle: Bundle) -> None:
    anne = two.browser("anne")
    with asked.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "The gate measures" in anne.get("/console/models").text
        form = {"version": other_bundle.version, "reason": "a second click", "force": "1"}
        assert anne.post("/console/models/promote", form).headers["location"] == "/console/models"
    assert [one.who for one in entries(two, "model.promote.ask")] == ["zoe"]
    assert store_of(two).serving().champion != other_bundle.version


def test_a_promotion_and_a_rollback_are_the_registrys_own(two: Site, bundle: Bundle, other_bundle: Bundle) -> None:
    anne = two.browser("anne")
    form = {"version": other_bundle.version, "reason": "the class is sold no more", "force": "1"}
    assert anne.post("/console/models/promote", form).headers["location"] == "/console/models"
    deadline = time.monotonic() + WAIT_SECONDS
    while "data-running" in anne.get("/console/health/work", headers={"X-Part": "1"}).text:
        assert time.monotonic() < deadline
    [promoted] = entries(two, "model.promote")
    assert (promoted.who, promoted.subject) == ("anne", other_bundle.version)
    assert (promoted.after or {})["forced"] == "the class is sold no more"
    [asked] = entries(two, "model.promote.ask")
    assert (asked.who, asked.subject) == ("anne", other_bundle.version)
    assert asked.after == {"reason": "the class is sold no more", "forced": True}
    assert store_of(two).serving().champion == other_bundle.version
    undo = {"to": bundle.version, "reason": "it was wrong"}
    assert f'name="to" value="{bundle.version}"' in anne.get("/console/models").text
    for _ in range(2):  # clicks
        assert anne.post("/console/models/rollback", undo).headers["location"] == "/console/models"
    [undone] = entries(two, "model.rollback")
    assert (undone.who, (undone.after or {})["note"]) == ("anne", "it was wrong")
    assert store_of(two).serving().champion == bundle.version
