"""`POST /alerts`: an alert asks for a retraining, once, and only for whoever may."""

from __future__ import annotations

from typing import Any

import pytest
from tests.service.conftest import Service, Starter

from aisle.store import retrainings
from aisle.store.engine import reading
from aisle.store.retrainings import Cause, Request
from aisle.store.users import Role

FIRING = {
    "status": "firing",
    "labels": {"alertname": "DriftDetected", "severity": "ticket"},
    "annotations": {"summary": "What is served has drifted"},
    "startsAt": "2026-11-25T10:00:00Z",
}


def notify(service: Service, *alerts: Any, role: Role = Role.REVIEWER) -> Any:
    body = {"version": "4", "status": "firing", "receiver": "retrain", "alerts": list(alerts)}
    return service.post("/alerts", role, "alertmanager", json=body)


def asked(service: Service) -> list[Request]:
    with reading(service.engine) as connection:
        return retrainings.requests(connection)


@pytest.fixture
def fresh(start_service: Starter) -> Service:
    return start_service()


def test_a_firing_alert_asks_for_a_retraining(fresh: Service) -> None:
    answer = notify(fresh, FIRING)
    assert (answer.status_code, answer.json()) == (202, {"asked": 1})
    [request] = asked(fresh)
    assert (request.cause, request.asked_by) == (Cause.DRIFT, "alertmanager")
    assert request.reason == "DriftDetected: What is served has drifted"


def test_the_same_alert_again_asks_for_nothing_more(fresh: Service) -> None:
    assert notify(fresh, FIRING, FIRING).json() == {"asked": 1}
    assert notify(fresh, FIRING).json() == {"asked": 0}
    assert len(asked(fresh)) == 1


def test_an_alert_that_is_over_asks_for_nothing(fresh: Service) -> None:
    assert notify(fresh, {**FIRING, "status": "resolved"}).json() == {"asked": 0}
    assert not asked(fresh)


def test_a_client_may_not_ask(fresh: Service) -> None:
    assert notify(fresh, FIRING, role=Role.CLIENT).status_code == 403
    assert not asked(fresh)


def test_nobody_asks_without_a_token(fresh: Service) -> None:
    assert fresh.client.post("/alerts", json={"alerts": [FIRING]}).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"alerts": "firing"},
        {"alerts": [{"status": "firing"}]},
        {"alerts": [{"status": "on fire", "labels": {}}]},
        {"alerts": [{"status": "firing", "labels": {"alertname": "x" * 1001}}]},
        {"alerts": [FIRING] * 1001},
    ],
)
def test_what_alertmanager_never_sends_is_refused(fresh: Service, body: dict[str, Any]) -> None:
    assert fresh.post("/alerts", Role.ADMIN, json=body).status_code == 422
    assert not asked(fresh)


def test_names_with_zeros_are_stored(fresh: Service) -> None:
    assert notify(fresh, {"status": "firing", "labels": {"alertname": "a\0b"}}).status_code == 202
    assert [one.reason for one in asked(fresh)] == ["a b"]
