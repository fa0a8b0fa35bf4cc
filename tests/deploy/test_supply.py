"""What `make audit` and `make licences` make of what their tools say."""

from __future__ import annotations

import datetime
import importlib.util
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.deploy_tools import REPOSITORY

TODAY = datetime.date(2026, 11, 28)
HOLE = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.0"]}
FOUND = [{"name": "one", "version": "1.0", "vulns": [HOLE]}, {"name": "two", "version": "3.1", "vulns": []}]


@pytest.fixture(scope="module")
def supply() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply", REPOSITORY / "deploy" / "supply.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(**more: Any) -> dict[str, Any]:
    until = TODAY + datetime.timedelta(days=1)
    return {"package": "one", "id": "CVE-2026-1", "reason": "not reached", "date": TODAY, "until": until, **more}


def test_a_known_hole_is_a_finding_with_what_closes_it(supply: ModuleType) -> None:
    assert list(supply.unanswered(FOUND, [], TODAY)) == ["one 1.0: PYSEC-2026-1, fixed in 2.0"]


def test_an_answer_holds_by_any_id_of_the_hole(supply: ModuleType) -> None:
    assert list(supply.unanswered(FOUND, [answer()], TODAY)) == []


@pytest.mark.parametrize(
    "more",
    [{"until": datetime.date(2026, 11, 27)}, {"reason": " "}, {"package": "two"}, {"id": "CVE-2026-2"}],
    ids=["over", "no reason", "another package", "another hole"],
)
def test_an_answer_that_does_not_hold_is_none(supply: ModuleType, more: dict[str, Any]) -> None:
    assert len(list(supply.unanswered(FOUND, [answer(**more)], TODAY))) == 1


def test_an_audit_that_could_not_look_up_is_no_clean_one(
    supply: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skipped = [{"name": "one", "skip_reason": "not found"}]
    monkeypatch.setattr(supply, "_asked", lambda *_: skipped)
    assert supply.audit("pip-audit", ["lock.txt"]) == supply.MISSING
    assert "1 of 1 packages could not be looked up" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        ("MIT", True), ("mit license", True), ("MIT OR GPL-3.0-only", True), ("MIT AND GPL-3.0-only", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True), ("Apache Software License; BSD License", True),
        ("GNU General Public License v3", False), ("UNKNOWN", False),
    ],
)  # fmt: skip
def test_every_part_of_a_licence_has_to_be_allowed(supply: ModuleType, licence: str, may: bool) -> None:
    rules = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["aisle"]["licences"]
    assert supply.may_come_in("some-package", licence, rules) is may


def test_what_was_looked_at_by_hand_is_installed_still(supply: ModuleType) -> None:
    rules = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["aisle"]["licences"]
    there = {supply.canonical(str(one.metadata["Name"])) for one in distributions()}
    assert set(rules["looked-at"]) - there == set()


def test_every_answer_says_what_why_and_until_when() -> None:
    for one in tomllib.loads((REPOSITORY / "requirements" / "answered.toml").read_text()).get("finding", []):
        assert set(one) == {"package", "id", "reason", "date", "until"}
        assert one["date"] < one["until"] <= one["date"] + datetime.timedelta(days=366)


def test_the_tool_needs_nothing_but_python() -> None:
    """It runs before anything is installed."""
    text = (REPOSITORY / "deploy" / "supply.py").read_text()
    names = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert names <= set(sys.stdlib_module_names)
    assert Path(REPOSITORY / "requirements" / "supply.txt").is_file()
