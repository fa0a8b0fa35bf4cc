"""Two versions side by side: how good each is, type by type, and which products of the catalogue would change.

`aisle changes --measure` finds it out, in a process of its own, and keeps it in
`reports/VERSION/beside/EARLIER/changes.csv` and `.json`: for good, as neither version ever changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from aisle.console import verbs, work
from aisle.console.asking import AForm, AnAdmin, AReviewer, Console, TheDesk, console_of, go_to, page, text_of
from aisle.console.desk import Desk, labels_of
from aisle.console.listings import Listing, Page, Row
from aisle.console.pictures import name_of
from aisle.console.tables import csv_of, page_of
from aisle.errors import InputError
from aisle.files import read_json
from aisle.model.bundle import METRICS_FILE
from aisle.settings import Settings
from aisle.store.users import Role
from aisle.web.problems import Problem, Refusal

HERE = "/console/models/compare"
BESIDE, LIST_FILE, SUMMARY_FILE = "beside", "changes.csv", "changes.json"
FIGURES = ("weighted_f1", "macro_f1", "accuracy", "top_3", "calibration_error")
MOST_TYPES = 100
MOST_CHOICES = 200
MOST_KNOWN = 20
VERDICTS = ("now_right", "now_wrong", "both_wrong", "types_changed", "no_label")
BETWEEN = "|"
"""Between verdict and type in what a row can be found by."""

router = APIRouter(prefix="/models/compare")


@dataclass(frozen=True, slots=True)
class Known:
    """A comparison that was made: `changed` of `products` would change their type."""

    before: str
    after: str
    at: datetime
    products: int
    changed: int


@dataclass(frozen=True, slots=True)
class TypeBeside:
    """F1 of both versions in [0, 1], on `rows` products; None for what a version was not measured on."""

    code: str
    label: str
    rows: int | None
    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True)
class Beside:
    """`summary` is of the comparison, None where none was made yet: then figures are each version's own.

    `figures` are name, earlier, later version.
    """

    before: str
    after: str
    summary: Mapping[str, Any] | None
    at: datetime | None
    figures: list[tuple[str, float | None, float | None]]
    rows: tuple[int | None, int | None]
    types: list[TypeBeside]
    is_unreadable: bool

    @property
    def labels(self) -> dict[str, str]:
        """What the catalogue that was measured on calls its types."""
        return {} if self.summary is None else dict(self.summary["measured"]["types"])


def verdict_of(row: Row) -> str:
    """What a change would be, by the catalogue's own type of the product."""
    if row["reason"] == "types changed":
        return "types_changed"
    label = row["label"]
    if not label:
        return "no_label"
    return "now_right" if row["new"] == label else "now_wrong" if row["old"] == label else "both_wrong"


def _facets(row: Row) -> Iterable[str]:
    verdict, codes = verdict_of(row), [row[name] for name in ("old", "new", "label") if row[name]]
    yield verdict
    for code in codes:
        yield BETWEEN + code
        yield verdict + BETWEEN + code


@router.get("")
async def ask(request: Request, who: AReviewer, desk: TheDesk) -> Response:
    asked = request.query_params
    is_admin = who.identity.role is Role.ADMIN
    context = await run_in_threadpool(_shown, console_of(request), asked)
    can_compare = verbs.can_measure() and (desk.settings.data_path / "raw").is_dir()
    return page(request, "compare.html", place="models", is_admin=is_admin, can_compare=can_compare, **context)


@router.get(".csv")
async def export(request: Request, _: AReviewer, desk: TheDesk) -> Response:
    asked = request.query_params
    before, after, _versions = await run_in_threadpool(_pair, desk, asked.get("before", ""), asked.get("version", ""))
    found = await run_in_threadpool(_listing, console_of(request), before, after)
    if found is None:
        raise Refusal(Problem.NOT_FOUND)
    return csv_of(f"changes-{before}-{after}.csv", found.columns, found.rows(_facet(asked)))


@router.post("")
async def start(who: AnAdmin, form: AForm, desk: TheDesk) -> Response:
    """Compare. The page that comes next shows how it goes, or what else is under way."""
    before, after, _ = await run_in_threadpool(_pair, desk, text_of(form, "before"), text_of(form, "version"))
    if not after:
        raise Refusal(Problem.FIELD_MISSING, field="version")
    output = folder_of(desk.settings, before, after) / LIST_FILE
    words = ("changes", "--before", before, "--model", after, "--measure", "--output", str(output), "--webhook", "")
    await work.start(desk, work.COMPARE, f"{before} {after}", *words, who=who.name)
    return go_to(f"{HERE}?{urlencode({'before': before, 'version': after})}")


def folder_of(settings: Settings, before: str, after: str) -> Path:
    return settings.reports_path / after / BESIDE / before


def known(desk: Desk, before: str) -> list[Known]:
    """What the version `before` was compared with, the newest first."""
    found = []
    for path in desk.settings.reports_path.glob(f"*/{BESIDE}/{before}/{SUMMARY_FILE}"):
        try:
            summary, at = read_json(path), datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
            found.append(Known(before, path.parts[-4], at, int(summary["products"]), int(summary["count"])))
        except (OSError, ValueError, KeyError, TypeError):  # its own page says that it cannot be read
            continue
    return sorted(found, key=lambda one: one.at, reverse=True)[:MOST_KNOWN]


def _pair(desk: Desk, before: str, after: str) -> tuple[str, str, list[str]]:
    """Two versions of the store: by default the champion and the challenger, or the newest other one; "": none.

    And all there are, the newest first. Raises Refusal for one that is not there: no address becomes a path.
    """
    serving, versions = desk.store.serving(), desk.store.versions()[::-1]
    champion = desk.champion()[0].version
    before = before or champion
    if not after:
        others = [one for one in (serving.challenger, *versions) if one and one != before]
        after = others[0] if others else ""
    if before not in (champion, *versions) or after not in ("", *versions) or before == after:
        raise Refusal(Problem.NOT_FOUND)
    return before, after, versions


def _facet(asked: Mapping[str, str]) -> str:
    verdict, code = asked.get("show", ""), asked.get("type", "")
    return verdict + BETWEEN + code if code else verdict


def _listing(console: Console, before: str, after: str) -> Listing | None:
    return console.shelf.find(folder_of(console.desk.settings, before, after) / LIST_FILE, _facets)


def _shown(console: Console, asked: Mapping[str, str]) -> dict[str, Any]:
    desk = console.desk
    before, after, versions = _pair(desk, asked.get("before", ""), asked.get("version", ""))
    beside = _beside(desk, before, after)
    found = _listing(console, before, after) if beside.summary is not None else None
    facet = _facet(asked)
    shown = found.page(page_of(asked.get("page", "")), facet) if found is not None else Page([], 1, 0)
    counts = dict(found.facets()) if found is not None else {}
    codes = sorted(((code[1:], count) for code, count in counts.items() if code[:1] == BETWEEN), key=_by_count)
    rows = [(row, verdict_of(row), name_of(row["product_id"], row["imageid"]))
            for [row] in shown.rows]  # fmt: skip
    fields = {"before": before, "version": after, "show": asked.get("show", ""), "type": asked.get("type", "")}
    doing = work.latest(desk)
    return {
        "beside": beside,
        "versions": versions,
        "rows": rows,
        "pictures": {stem for _, _, stem in rows if console.pictures.has(stem)},
        "shown": shown,
        "verdicts": [(one, counts.get(one, 0)) for one in VERDICTS],
        "codes": codes[:MOST_CHOICES],
        "labels": labels_of(desk) | beside.labels,
        "wanted": fields,
        "query": urlencode({name: value for name, value in fields.items() if value}),
        "work": doing,
        "has_failed": doing is not None
        and (doing.kind, doing.subject) == (work.COMPARE, f"{before} {after}")
        and doing.has_failed(folder_of(desk.settings, before, after) / SUMMARY_FILE),
        "champion": desk.champion()[0].version,
    }


def _by_count(one: tuple[str, int]) -> tuple[int, str]:
    return -one[1], one[0]


def _beside(desk: Desk, before: str, after: str) -> Beside:
    path = folder_of(desk.settings, before, after) / SUMMARY_FILE
    summary, at, is_unreadable = None, None, False
    if after and path.is_file():
        try:
            summary, at = read_json(path), datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
            return _measured(before, after, summary, at)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
            is_unreadable = True
    both = [_own(desk, one) for one in (before, after)]
    return Beside(
        before, after, None, None, _figures(*both), (both[0].get("rows"), both[1].get("rows")),
        _types(*both, labels={}), is_unreadable,
    )  # fmt: skip


def _measured(before: str, after: str, summary: Mapping[str, Any], at: datetime) -> Beside:
    measured = summary["measured"]
    both = measured["before"], measured["after"]
    rows = int(measured["rows"])
    types = _types(*both, labels=measured["types"])
    return Beside(before, after, summary, at, _figures(*both), (rows, rows), types, is_unreadable=False)


def _own(desk: Desk, version: str) -> Mapping[str, Any]:
    """What a version was measured with when it was trained; empty where it was not, or its file is damaged."""
    try:
        found: Mapping[str, Any] = read_json(desk.store.root / version / METRICS_FILE)["all"] if version else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found


def _figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, float | None, float | None]]:
    return [(name, before.get(name), after.get(name)) for name in FIGURES if name in before or name in after]


def _types(before: Mapping[str, Any], after: Mapping[str, Any], *, labels: Mapping[str, str]) -> list[TypeBeside]:
    """Where the two differ most comes first."""
    old, new = before.get("per_type", {}), after.get("per_type", {})
    rows = [
        TypeBeside(
            code,
            labels.get(code, ""),
            (old.get(code) or new.get(code) or {}).get("rows"),
            old.get(code, {}).get("f1"),
            new.get(code, {}).get("f1"),
        )
        for code in dict.fromkeys([*old, *new])
    ]
    return sorted(rows, key=lambda one: (-abs(one.difference or 0.0), one.code))[:MOST_TYPES]
