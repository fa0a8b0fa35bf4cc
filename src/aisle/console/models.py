"""The models: who serves and what it is worth, who would like to, who served before; promoting and rolling back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from aisle.console import verbs, work
from aisle.console.asking import AForm, AnAdmin, AReviewer, TheDesk, go_to, page, text_of
from aisle.console.desk import Desk
from aisle.errors import UsageError
from aisle.files import read_json
from aisle.model.bundle import LINEAGE_FILE, METRICS_FILE, Bundle, label_of
from aisle.monitoring.labels import Labelled, from_labels
from aisle.store import audit, experiments, predictions, reviews
from aisle.store.audit import Filter
from aisle.store.engine import reading
from aisle.store.experiments import Experiment
from aisle.store.users import Role
from aisle.web.problems import Problem, Refusal

HERE = "/console/models"
LIVE_DAYS = 30
MOST_LABELS = 2000
MOST_VERSIONS = 20
LONGEST_REASON = 500

router = APIRouter(prefix="/models")


@dataclass(frozen=True)
class Version:
    """One bundle of the store; `metrics` of all inputs together, empty where it was not measured, or is damaged."""

    version: str
    recipe: str
    trained_at: datetime
    metrics: Mapping[str, Any]
    place: str
    """`champion`, `challenger`, `before`, `rolled_back`, or none."""


@dataclass(frozen=True)
class TypeFigures:
    code: str
    label: str
    rows: int
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Store:
    champion: Version
    types: list[TypeFigures]
    versions: list[Version]
    before: str | None
    experiment: Experiment | None
    work: work.Work | None
    has_failed: bool
    live: Labelled | None


@router.get("")
async def ask(request: Request, who: AReviewer, desk: TheDesk) -> Response:
    found = await run_in_threadpool(_read, desk)
    _, since = desk.champion()
    return page(
        request,
        "models.html",
        place="models",
        found=found,
        since=since,
        live_days=LIVE_DAYS,
        is_admin=who.identity.role is Role.ADMIN,
        can_write=verbs.can_write(desk),
        can_measure=verbs.can_measure(),
    )


@router.post("/promote")
async def promote(who: AnAdmin, form: AForm, desk: TheDesk) -> Response:
    """Ask the gate, or, with `force`, do without it. The page that comes next shows how it goes, or what else."""
    version, reason, force = text_of(form, "version"), _reason(form), bool(text_of(form, "force"))
    if version not in await run_in_threadpool(desk.store.versions):
        raise UsageError(f"there is no version {version[:LONGEST_REASON]!r} in the store")
    words = ("registry", "promote", version, "--who", who.name, "--force" if force else "--note", reason)
    more = {"reason": reason, "forced": force}
    await work.start(desk, work.PROMOTE, version, *words, who=who.name, more=more)
    return go_to(HERE)


@router.post("/rollback")
async def roll_back(who: AnAdmin, form: AForm, desk: TheDesk) -> Response:
    to = text_of(form, "to")
    why_not = await verbs.roll_back(desk, to, who=who.name, reason=_reason(form))
    if why_not and (await run_in_threadpool(desk.store.serving)).champion != to:  # else it was asked for twice
        raise Refusal(Problem.UNUSABLE, reason=why_not)
    return go_to(HERE)


def _reason(form: Any) -> str:
    reason = text_of(form, "reason").strip()
    if not reason:
        raise Refusal(Problem.FIELD_MISSING, field="reason")
    if len(reason) > LONGEST_REASON:
        raise Refusal(Problem.FIELD_TOO_LONG, field="reason", limit=LONGEST_REASON)
    return reason


def _read(desk: Desk) -> Store:
    bundle, _ = desk.champion()
    serving = desk.store.serving()
    places = dict.fromkeys(serving.before, "before") | dict.fromkeys(serving.rolled_back, "rolled_back")
    places |= {str(serving.challenger): "challenger", bundle.version: "champion"}
    newest = desk.store.versions()[::-1][:MOST_VERSIONS]
    named = [bundle.version, *filter(None, [serving.challenger]), *newest]
    versions = [_version(desk, one, places.get(one, "")) for one in dict.fromkeys(named)]
    asked = work.latest(desk)
    with reading(desk.engine) as connection:
        experiment = experiments.current(connection)
    return Store(
        champion=versions[0],
        types=_types(bundle),
        versions=versions,
        before=serving.before[-1] if serving.before else None,
        experiment=experiment,
        work=asked,
        has_failed=asked is not None and _has_failed(desk, asked),
        live=_live(desk, bundle.version),
    )


def _has_failed(desk: Desk, asked: work.Work) -> bool:
    """Whether it was a promotion, is over, and made nobody champion: the verb enters that before it ends."""
    if asked.kind != work.PROMOTE or asked.is_running:
        return False
    wanted = Filter(any_of=(f"{work.PROMOTE}.ask", work.PROMOTE), subject=asked.subject)
    with reading(desk.engine) as connection:
        return any(one.what != work.PROMOTE for one in audit.newest(connection, wanted, count=1))


def _version(desk: Desk, version: str, place: str) -> Version:
    folder = desk.store.root / version
    metrics, recipe, at = {}, "", datetime.fromtimestamp(0, tz=desk.clock().tzinfo)
    try:
        metrics = read_json(folder / METRICS_FILE).get("all", {})
        recipe = str(read_json(folder / LINEAGE_FILE).get("configuration", {}).get("name", ""))
        at = datetime.fromtimestamp((folder / METRICS_FILE).stat().st_mtime, tz=desk.clock().tzinfo)
    except (OSError, ValueError, AttributeError):  # not of this store, or damaged: it is listed all the same
        pass
    return Version(version, recipe, at, metrics, place)


def _types(bundle: Bundle) -> list[TypeFigures]:
    """The weakest first."""
    found, types = bundle.json(METRICS_FILE).get("all", {}).get("per_type", {}), bundle.types()
    rows = [
        TypeFigures(code, label_of(types, code).label, one["rows"], one["f1"], one["precision"], one["recall"])
        for code, one in found.items()
    ]
    return sorted(rows, key=lambda one: (one.f1, -one.rows))


def _live(desk: Desk, version: str) -> Labelled | None:
    """By the last words of people; predictions are counted from the first that one of them is about."""
    since = desk.clock() - timedelta(days=LIVE_DAYS)
    with reading(desk.engine) as connection:
        labels = reviews.recent_labels(connection, version, MOST_LABELS, since=since)
        first = min((one.created_at for one in labels), default=since)
        decided = predictions.decided(connection, version, since=first) if labels else {}
    return from_labels(labels, decided)
