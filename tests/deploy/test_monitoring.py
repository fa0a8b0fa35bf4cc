"""The profile `monitoring`, started with a real engine: everything is watched, and an alert gets through.

Grafana is left out: it is in no package of Debian, and no image of it can be had where no image registry is reached.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml
from tests.deploy.application import Application, running_application, write_secrets
from tests.deploy.engine import Engine, provide_watching
from tests.deploy_tools import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # an image is built by whoever asks first

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
WATCHING = ("prometheus", "alertmanager", "pushgateway", "node-exporter")
SECONDS = 300


@pytest.fixture(scope="module")
def watched(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    provide_watching(docker)
    with running_application(docker, write_secrets(tmp_path_factory.mktemp("secrets"))) as application:
        application.compose("--profile", "monitoring", "up", "--detach", "--wait", "--no-build", *WATCHING)
        yield application


def asked(application: Application, what: str, **params: str) -> Any:
    answer = httpx.get(f"{application.url_of('PROMETHEUS')}/api/v1/{what}", params=params, timeout=30)
    return answer.raise_for_status().json()["data"]


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does in time; the scrapes are 15 seconds apart."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def value_of(application: Application, query: str) -> float | None:
    found = asked(application, "query", query=query)["result"]
    return float(found[0]["value"][1]) if found else None


def test_prometheus_reaches_every_target(watched: Application) -> None:
    jobs = {one["job_name"] for one in yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())["scrape_configs"]}

    def health() -> dict[str, set[str]]:
        found = asked(watched, "targets")["activeTargets"]
        return {job: {one["health"] for one in found if one["labels"]["job"] == job} for job in jobs}

    assert comes_true(lambda: health() == {job: {"up"} for job in jobs}), asked(watched, "targets")


def test_every_rule_is_loaded_and_none_fails(watched: Application) -> None:
    files = [yaml.safe_load(file.read_text()) for file in PROMETHEUS.glob("rules/*.yaml")]
    wanted = {group["name"]: len(group["rules"]) for file in files for group in file["groups"]}
    groups = asked(watched, "rules")["groups"]
    assert {group["name"]: len(group["rules"]) for group in groups} == wanted
    assert [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")] == []


def test_prometheus_sends_alerts_to_alertmanager(watched: Application) -> None:
    wanted = ["http://alertmanager:9093/api/v2/alerts"]
    assert [one["url"] for one in asked(watched, "alertmanagers")["activeAlertmanagers"]] == wanted


def test_what_a_verb_tells_is_there_after_a_restart_of_what_it_told(watched: Application) -> None:
    watched.compose("--profile", "verbs", "run", "--rm", "--no-deps", "train", "validate")
    query = 'aisle_stage_last_success_timestamp_seconds{job="aisle",stage="validate"}'
    assert comes_true(lambda: value_of(watched, query) is not None)
    watched.compose("--profile", "monitoring", "restart", "pushgateway")
    watched.compose("--profile", "monitoring", "up", "--detach", "--wait", "--no-build", "pushgateway")
    told = httpx.get(f"{watched.url_of('PUSHGATEWAY')}/metrics", timeout=30).text
    assert re.search(r'^aisle_stage_last_success_timestamp_seconds\{.*stage="validate"', told, re.MULTILINE)


def test_an_alert_that_wants_a_retraining_is_heard_by_the_service(watched: Application) -> None:
    labels = {"alertname": "DriftDetected", "severity": "warning", "action": "retrain"}
    body = [{"labels": labels, "annotations": {"summary": "a test"}}]
    httpx.post(f"{watched.url_of('ALERTMANAGER')}/api/v2/alerts", json=body, timeout=30).raise_for_status()
    psql = ("exec", "-T", "postgres", "psql", "-U", "aisle", "-d", "aisle", "-tAc")
    query = "select asked_by || ' ' || reason from retraining_requests"
    assert comes_true(lambda: watched.compose(*psql, query).strip() == "alertmanager DriftDetected: a test")


def test_the_key_of_alertmanager_is_made_once_and_read_by_it_alone(watched: Application) -> None:
    user = ("run", "--rm", "--no-deps", "alert-account", "user", "list", "--json")

    def keys() -> list[str]:
        said = watched.compose("--profile", "monitoring", *user)
        (found,) = [one for one in json.loads(said)["users"] if one["name"] == "alertmanager"]
        assert (found["kind"], found["role"]) == ("service", "reviewer")
        prefixes: list[str] = found["keys"]
        return prefixes

    before = keys()
    watched.compose("--profile", "monitoring", "up", "--detach", "--wait", "--no-build", "alertmanager")
    assert keys() == before
    assert len(before) == 1
    listed = watched.compose("exec", "-T", "alertmanager", "stat", "-c", "%a %u:%g", "/run/aisle/alertmanager_key")
    assert listed.strip() == "640 10001:10001"
    refused = watched.compose("exec", "-T", "alertmanager", "touch", "/run/aisle/other", check=False)
    assert "Read-only" in refused
