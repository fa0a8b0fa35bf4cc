"""Alertmanager with our configuration: it signs in, asks for a retraining, and leaves out what only follows."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.deploy_tools import REPOSITORY
from tests.servers import alertmanager, find_program
from tests.service.processes import AISLE, Shop, wait_for

from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.store import retrainings
from aisle.store.engine import open_database, reading
from aisle.store.retrainings import Request

pytestmark = pytest.mark.slow

CONFIGURATION = REPOSITORY / "deploy" / "prometheus" / "alertmanager.yaml"
SERVE, AUTH, KEY = "http://serve:8000", "http://auth:8011", "/run/aisle/alertmanager_key"
DRIFT = {"alertname": "DriftDetected", "severity": "warning", "action": "retrain"}


@dataclass(frozen=True)
class Alertmanager:
    url: str

    def fire(self, *alerts: dict[str, str]) -> None:
        body = [{"labels": labels, "annotations": {"summary": "Products have changed"}} for labels in alerts]
        httpx.post(f"{self.url}/api/v2/alerts", json=body).raise_for_status()

    def alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/api/v2/alerts").raise_for_status().json()
        return found

    def metric(self, name: str, **labels: str) -> float:
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in httpx.get(f"{self.url}/metrics").text.splitlines() if line.startswith(f"{name}{{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(one in line for one in wanted))


def configuration(**places: str) -> str:
    """That of the repository, where only `places`, such as addresses, are others."""
    text = CONFIGURATION.read_text()
    for place, ours in places.items():
        given = {"serve": SERVE, "auth": AUTH, "key": KEY}[place]
        assert given in text
        text = text.replace(given, ours)
    return text


@pytest.fixture
def shop(tmp_path: Path, bundle: Bundle) -> Shop:
    store = BundleStore(tmp_path / "models")
    store.add(bundle)
    store.make_champion(bundle.version)
    return Shop.at(tmp_path)


def asked(shop: Shop) -> list[Request]:
    engine = open_database(f"sqlite:///{shop.folder}/data/aisle.db")
    with reading(engine) as connection:
        found = retrainings.requests(connection)
    engine.dispose()
    return list(found)


def test_drift_asks_for_a_retraining_once_alertmanager_has_its_key(shop: Shop, tmp_path: Path) -> None:
    key = tmp_path / "secrets" / "alertmanager_key"
    with (
        shop.running("auth") as auth,
        shop.running("serve") as serve,
        alertmanager(
            tmp_path / "alertmanager", configuration(serve=serve.url, auth=auth.url, key=str(key))
        ) as address,
    ):
        running = Alertmanager(address)
        running.fire(DRIFT, {**DRIFT, "namespace": "aisle-staging"})
        failed = "alertmanager_notification_requests_failed_total"
        wait_for(lambda: running.metric(failed, integration="webhook"))
        assert asked(shop) == []
        words = ["user", "add", "alertmanager", "--service", "--role", "reviewer", "--key-file", str(key)]
        subprocess.run([*AISLE, *words], cwd=shop.folder, env={**os.environ, **shop.settings}, check=True)
        wait_for(lambda: asked(shop))
        (request,) = asked(shop)
        assert (request.asked_by, request.cause, request.reason) == (
            "alertmanager", "drift", "DriftDetected: Products have changed",
        )  # fmt: skip
        assert key.read_text() not in auth.log + serve.log
        # By HTTP Basic at the first attempt; it would try a form after that.
        assert set(re.findall(r"route=/token status=(\d+)", auth.log)) == {"200"}


ROUTES = [
    (DRIFT, ["retrain", "soon"]),
    ({**DRIFT, "namespace": "aisle"}, ["retrain", "soon"]),
    ({**DRIFT, "namespace": "aisle-staging"}, ["soon"]),
    ({"alertname": "ServiceDown", "severity": "critical"}, ["urgent"]),
    ({"alertname": "ChampionTooOld", "severity": "info"}, ["shown"]),
]


@pytest.mark.parametrize(("labels", "receivers"), ROUTES)
def test_each_alert_goes_to_whom_it_concerns(labels: dict[str, str], receivers: list[str]) -> None:
    words = [f"{name}={value}" for name, value in labels.items()]
    amtool = find_program("amtool", "prometheus-alertmanager")
    command = [amtool, "config", "routes", "test", f"--config.file={CONFIGURATION}", *words]
    assert subprocess.check_output(command, text=True).strip().split(",") == receivers


def test_what_follows_from_another_alert_is_not_sent_beside_it(tmp_path: Path) -> None:
    silenced = [
        {"alertname": "LatencyHigh", "severity": "warning"},
        {"alertname": "QueueFull", "severity": "warning"},
        {"alertname": "ErrorBudgetBurningFast", "severity": "critical", "slo": "predictions"},
        {"alertname": "DiskFilling", "severity": "warning", "instance": "a", "mountpoint": "/"},
    ]
    sent = [
        {"alertname": "ServiceDown", "severity": "critical", "job": "serve"},
        {"alertname": "DiskFull", "severity": "critical", "instance": "a", "mountpoint": "/"},
        {"alertname": "DiskFilling", "severity": "warning", "instance": "b", "mountpoint": "/"},
        {"alertname": "LatencyHigh", "severity": "warning", "namespace": "another"},
        {"alertname": "LoginAttack", "severity": "warning"},
    ]
    with alertmanager(tmp_path / "alertmanager", configuration()) as address:
        running = Alertmanager(address)
        running.fire(*sent, *silenced)

        def states() -> dict[frozenset[tuple[str, str]], str]:
            return {frozenset(one["labels"].items()): one["status"]["state"] for one in running.alerts()}

        wait_for(lambda: "unprocessed" not in states().values() and len(states()) == len(sent) + len(silenced))
        wait_for(lambda: list(states().values()).count("suppressed") == len(silenced))
        assert {one for one, state in states().items() if state == "suppressed"} == {
            frozenset(labels.items()) for labels in silenced
        }
