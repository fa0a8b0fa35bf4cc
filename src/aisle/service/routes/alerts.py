"""`POST /alerts`: Alertmanager's webhook. An alert that fires asks for a retraining; whoever retrains decides."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from aisle.auth.access import needs
from aisle.auth.tokens import Identity
from aisle.logs import get_logger
from aisle.service.parts import TheParts
from aisle.store import retrainings
from aisle.store.engine import writing
from aisle.store.retrainings import Cause
from aisle.store.users import Role
from aisle.web.answers import answered, documented
from aisle.web.problems import Problem

PATH = "/alerts"
MAX_BODY_BYTES = 1 << 20
_PROBLEMS = (
    Problem.NOT_SIGNED_IN, Problem.NOT_ALLOWED, Problem.FIELD_MISSING, Problem.FIELD_INVALID, Problem.FIELD_TOO_LONG,
    Problem.BROKEN_JSON, Problem.BODY_TOO_LARGE, Problem.UNAVAILABLE,
)  # fmt: skip
Word = Annotated[str, Field(max_length=1000)]


class Alert(BaseModel):
    """As Alertmanager describes one; what else it says is not needed."""

    model_config = ConfigDict(extra="ignore")

    status: Literal["firing", "resolved"]
    labels: dict[str, Word] = Field(max_length=100, examples=[{"alertname": "DriftDetected", "severity": "ticket"}])
    annotations: dict[str, Word] = Field(default={}, max_length=100)


class Alerts(BaseModel):
    """The body of Alertmanager's webhook, version 4."""

    model_config = ConfigDict(extra="ignore")

    alerts: list[Alert] = Field(max_length=1000)


class AlertsBody(BaseModel):
    asked: int = Field(description="How many retrainings were asked for; what was asked for already counts no more.")


router = APIRouter(tags=["monitoring"])


@router.post(PATH, status_code=202, responses=answered({"asked": 1}, status=202) | documented(*_PROBLEMS))
def alerts(
    form: Alerts, parts: TheParts, who: Annotated[Identity, Depends(needs(Role.REVIEWER, Role.ADMIN))]
) -> AlertsBody:
    """Ask for a retraining for each alert that fires: drift, or an accuracy that went down."""
    asked = 0
    with writing(parts.engine) as connection:
        for reason in dict.fromkeys(_reason(one) for one in form.alerts if one.status == "firing"):
            asked += retrainings.ask(connection, Cause.DRIFT, asked_by=who.user, reason=reason, at=parts.clock())
    if asked:
        get_logger(__name__).info("retraining asked for", by=who.user, count=asked)
    return AlertsBody(asked=asked)


def _reason(alert: Alert) -> str:
    name = alert.labels.get("alertname", "an alert without a name")
    summary = alert.annotations.get("summary")
    return (f"{name}: {summary}" if summary else name).replace("\0", " ")
