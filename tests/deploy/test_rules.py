"""The rules of alerts: promtool takes them, each is tried when it has to fire and when it must not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.deploy_tools import REPOSITORY
from tests.servers import find_program

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
RULES = sorted(PROMETHEUS.glob("rules/*.yaml"))
TESTS = sorted(PROMETHEUS.glob("rules/tests/*.yaml"))


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
