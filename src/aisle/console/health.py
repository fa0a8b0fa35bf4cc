"""The health of the catalogue: what its last import and the last audit of its labels found, and who may start one.

Everything here was found by the verbs (`aisle validate`, `aisle labels audit`, `aisle changes --measure`) and lies in
files beside the service; a page reads the rows that it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from aisle.console import comparing, work
from aisle.console.asking import AForm, AnAdmin, AReviewer, Console, TheDesk, console_of, go_to, page, part
from aisle.console.desk import labels_of
from aisle.console.listings import Facets, Listing, Page, Row
from aisle.console.pictures import name_of
from aisle.console.tables import csv_of, page_of
from aisle.errors import InputError
from aisle.files import read_json
from aisle.settings import Settings
from aisle.store.users import Role
from aisle.web.problems import Problem, Refusal

HERE = "/console/health"
CATALOGUE = "data/raw"
"""What people call the folder of the service's own catalogue, wherever it is."""
MOST_CHOICES = 200
MOST_REASONS = 12
KEPT_BY_BROWSERS = "private, max-age=3600"

router = APIRouter(prefix="/health")


def _reasons(row: Row) -> Iterable[str]:
    return (one for one in row["reasons"].split("; ") if one)


def _types(row: Row) -> Iterable[str]:
    return (row[name] for name in ("label", "suggested") if row[name])


@dataclass(frozen=True, slots=True)
class Table:
    """A list of the page: in which file it is, by what it is filtered, and which rows belong together."""

    path: Callable[[Settings], Path]
    facets: Facets
    group: str = ""


def _quarantine(settings: Settings) -> Path:
    """Of the last import: of one that was refused, where there is one, because the next that is not removes it."""
    refused = settings.data_path / "validated.refused" / "quarantine.csv"
    return refused if refused.is_file() else settings.data_path / "validated" / "quarantine.csv"


TABLES: Mapping[str, Table] = {
    "quarantine": Table(_quarantine, _reasons),
    "suspects": Table(lambda settings: settings.reports_path / "labels" / "suspects.csv", _types),
    "duplicates": Table(lambda settings: settings.reports_path / "labels" / "contradictions.csv", _types, "group"),
}


@dataclass(frozen=True, slots=True)
class Import:
    """What the data contract let in. `reasons` counts quarantined rows; `hash` is that of the prepared catalogue."""

    at: datetime
    is_refused: bool
    rows: int | None
    accepted: int | None
    quarantined: int
    reasons: list[tuple[str, int]]
    hash: str


@dataclass(frozen=True, slots=True)
class Audit:
    """`is_of_today`: the catalogue is still the one that was judged, as far as that is known."""

    at: datetime
    products: int
    suspects: int
    contradictions: int
    hash: str
    is_of_today: bool
    types: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Found:
    """`unreadable` names the reports that are there and cannot be read."""

    imported: Import | None
    audited: Audit | None
    comparisons: list[comparing.Known]
    labels: Mapping[str, str]
    unreadable: list[str]
    work: work.Work | None
    has_failed: bool
    has_catalogue: bool


@router.get("")
async def ask(request: Request, who: AReviewer, desk: TheDesk) -> Response:
    found = await run_in_threadpool(_read, console_of(request))
    is_admin = who.identity.role is Role.ADMIN
    can_learn = work.can_learn()
    return page(request, "health.html", place="health", found=found, is_admin=is_admin, can_learn=can_learn)


@router.get("/work")
async def progress(request: Request, _: AReviewer, desk: TheDesk) -> Response:
    """How the work that was asked for goes; a script asks until it is over."""
    asked = await run_in_threadpool(work.latest, desk)
    return part(request, "parts/work.html", asked=asked, has_failed=False)


@router.post("/audit")
async def audit(who: AnAdmin, _: AForm, desk: TheDesk) -> Response:
    """Judge the labels. The page that comes next shows how it goes, or what else is under way."""
    await work.start(desk, work.AUDIT, CATALOGUE, "labels", "audit", who=who.name)
    return go_to(HERE)


@router.get("/image")
async def image(request: Request, _: AReviewer, name: str = "") -> Response:
    """A small picture of a product of the catalogue, by the name that a table has for it."""
    found = await run_in_threadpool(console_of(request).pictures.small, name)
    if found is None:
        raise Refusal(Problem.NOT_FOUND)
    return Response(found, media_type="image/jpeg", headers={"cache-control": KEPT_BY_BROWSERS})


@router.get("/{name}.csv")
async def export(request: Request, _: AReviewer, desk: TheDesk, name: str, only: str = "") -> Response:
    found = await run_in_threadpool(_listing, console_of(request), _table(name))
    if found is None:
        raise Refusal(Problem.NOT_FOUND)
    return csv_of(f"{name}.csv", found.columns, found.rows(only))


@router.get("/{name}")
async def show(request: Request, _: AReviewer, desk: TheDesk, name: str, only: str = "") -> Response:
    wanted = page_of(request.query_params.get("page", ""))
    context = await run_in_threadpool(_shown, console_of(request), name, only, wanted)
    return page(request, "health_list.html", place="health", name=name, only=only, **context)


def _table(name: str) -> Table:
    if name not in TABLES:
        raise Refusal(Problem.NOT_FOUND)
    return TABLES[name]


def _listing(console: Console, table: Table) -> Listing | None:
    return console.shelf.find(table.path(console.desk.settings), table.facets, table.group)


def _shown(console: Console, name: str, only: str, wanted: int) -> dict[str, Any]:
    found = _listing(console, _table(name))
    shown = found.page(wanted, only) if found is not None else Page([], 1, 0)
    choices = sorted(found.facets(), key=lambda one: (-one[1], one[0])) if found is not None else []
    pictures = {stem for rows in shown.rows for row in rows if (stem := _stem(row)) and console.pictures.has(stem)}
    return {
        "found": found,
        "shown": shown,
        "choices": choices[:MOST_CHOICES],
        "labels": labels_of(console.desk),
        "stem": _stem,
        "pictures": pictures,
        "query": urlencode({"only": only}) if only else "",
    }


def _stem(row: Row) -> str:
    """The name of a product's image; empty where it has none, or one that could not be decoded."""
    if "reasons" in row:
        is_bad = any(one.startswith("image_") for one in _reasons(row))
        return "" if is_bad else name_of(row["product_id"], row["image_id"])
    return row["image"]


def _read(console: Console) -> Found:
    desk, settings = console.desk, console.desk.settings
    unreadable: list[str] = []

    def tried(read: Callable[[Console], Any], path: Path) -> Any:
        try:
            return read(console)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
            unreadable.append(str(path))
            return None

    asked = work.latest(desk)
    result = settings.reports_path / "labels" / "labels.json"
    return Found(
        imported=tried(_imported, settings.data_path / "validated"),
        audited=tried(_audited, result),
        comparisons=comparing.known(desk, desk.champion()[0].version),
        labels=labels_of(desk),
        unreadable=unreadable,
        work=asked,
        has_failed=asked is not None and asked.kind == work.AUDIT and asked.has_failed(result),
        has_catalogue=(settings.data_path / "raw").is_dir(),
    )


def _imported(console: Console) -> Import | None:
    listing = _listing(console, TABLES["quarantine"])
    if listing is None:
        return None
    data = console.desk.settings.data_path
    is_refused = "refused" in _quarantine(console.desk.settings).parent.name
    result = {} if is_refused else read_json(data / "validated" / "validated.json")["result"]
    reasons = sorted(listing.facets(), key=lambda one: (-one[1], one[0]))
    return Import(
        at=listing.at,
        is_refused=is_refused,
        rows=result.get("rows"),
        accepted=result.get("accepted"),
        quarantined=len(listing),
        reasons=reasons[:MOST_REASONS],
        hash=_catalogue_hash(data),
    )


def _catalogue_hash(data: Path) -> str:
    try:
        return str(read_json(data / "preprocessed" / "prepared.json")["result"]["data_hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _audited(console: Console) -> Audit | None:
    path = console.desk.settings.reports_path / "labels" / "labels.json"
    try:
        counts = read_json(path)
    except FileNotFoundError:
        return None
    listing = _listing(console, TABLES["suspects"])
    types = sorted(listing.facets(), key=lambda one: (-one[1], one[0])) if listing is not None else []
    judged, today = str(counts.get("data_hash", "")), _catalogue_hash(console.desk.settings.data_path)
    return Audit(
        at=datetime.fromtimestamp(path.stat().st_mtime, tz=UTC),
        products=int(counts["products"]),
        suspects=int(counts["suspects"]),
        contradictions=int(counts["contradictions"]),
        hash=judged,
        is_of_today=not judged or not today or judged == today,
        types=types[:MOST_REASONS],
    )
