"""The rules of alerts: promtool takes them, each is tried when it has to fire and when it must not."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy_tools import REPOSITORY
from tests.servers import find_program

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
RULES = sorted(PROMETHEUS.glob("rules/*.yaml"))
TESTS = sorted(PROMETHEUS.glob("rules/tests/*.yaml"))
RUNBOOK = REPOSITORY / "docs" / "operations.md"


@pytest.fixture(scope="session")
def promtool() -> str:
    return find_program("promtool", "prometheus")


def finds_nothing(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration_with_every_rule(promtool: str) -> None:
    finds_nothing(promtool, "check", "config", PROMETHEUS / "prometheus.yaml")


def test_promtool_finds_nothing_in_the_rules(promtool: str) -> None:
    finds_nothing(promtool, "check", "rules", "--lint-fatal", *RULES)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_do_what_their_tests_say(promtool: str, file: Path) -> None:
    finds_nothing(promtool, "test", "rules", file)


def test_alertmanager_takes_its_configuration() -> None:
    finds_nothing(find_program("amtool", "prometheus-alertmanager"), "check-config", PROMETHEUS / "alertmanager.yaml")


def rules_of(file: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for file in RULES for rule in rules_of(file) if "alert" in rule}
EXPRESSIONS = {f"{rule.get('alert', rule.get('record'))}": rule["expr"] for file in RULES for rule in rules_of(file)}
alert = pytest.mark.parametrize("name", ALERTS)


def test_an_alert_of_a_name_is_there_once() -> None:
    names = [rule["alert"] for file in RULES for rule in rules_of(file) if "alert" in rule]
    assert sorted(names) == sorted(ALERTS)
    assert len(names) > 15


@alert
def test_each_alert_says_how_grave_it_is_what_and_how_much(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}


@alert
def test_an_alert_that_asks_for_a_retraining_says_the_same_for_as_long_as_it_goes_on(name: str) -> None:
    assert ALERTS[name]["labels"].get("action", "retrain") == "retrain"
    if "action" in ALERTS[name]["labels"]:
        assert "$value" not in ALERTS[name]["annotations"]["summary"]


@alert
def test_each_alert_is_tried_when_it_has_to_fire_and_when_it_must_not(name: str) -> None:
    cases = [
        bool(case["exp_alerts"])
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    assert set(cases) == {True, False}


@alert
def test_each_alert_has_a_section_of_its_own_in_the_runbook(name: str) -> None:
    page, _, section = ALERTS[name]["annotations"]["runbook"].partition("#")
    assert (REPOSITORY / page) == RUNBOOK
    assert section == name.lower()
    assert re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE).count(name) == 1


@alert
def test_each_section_goes_from_what_an_alert_means_to_how_to_undo_what_was_done(name: str) -> None:
    (section,) = re.findall(rf"^### {name}\n(.*?)(?=^### |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert re.findall(r"^- \*\*(\w+)\*\*", section, re.MULTILINE) == ["Means", "Look", "Do", "Undo"]


def test_each_section_of_the_runbook_that_is_named_like_an_alert_has_one() -> None:
    sections = re.findall(r"^### ([A-Z][a-z]+[A-Z]\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert set(sections) == set(ALERTS)


def test_each_figure_that_a_rule_asks_for_is_one_that_the_code_tells() -> None:
    told = told_figures()
    for name, expression in EXPRESSIONS.items():
        asked = set(re.findall(r"(?<![:\w])aisle_\w+(?![\w:])", expression))
        assert not {one for one in asked if not any(re.fullmatch(pattern, one) for pattern in told)}, name


def told_figures() -> set[str]:
    """Patterns of every name that the code gives to Prometheus, as it comes out there."""
    endings = {"Counter": ("_total",), "Histogram": ("_bucket", "_count", "_sum")}
    named: set[str] = set()
    ended: dict[str, tuple[str, ...]] = {}
    for file in (REPOSITORY / "src" / "aisle").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            named.add(_figure(node))
            if isinstance(node, ast.Call) and node.args and (name := _figure(node.args[0])):
                function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                ended |= {name: endings[function]} if function in endings else {}
    return {name + ending for name in named - {""} for ending in ended.get(name, ("",))}


def _figure(node: ast.AST) -> str:
    """The pattern of a name, or nothing; what a formatted one fills in is a word."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    words = [str(one.value) if isinstance(one, ast.Constant) else r"\w+" for one in parts]
    text = "".join(words)
    return text if re.fullmatch(r"aisle_[\w\\+]+", text) else ""
