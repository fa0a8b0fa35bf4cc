"""The audit trail for administrators: who did what, filtered, paged, as CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Connection

from aisle.console.asking import AnAdmin, TheDesk, page, speech_of
from aisle.console.desk import Desk
from aisle.console.rendering import Speech
from aisle.console.tables import PAGE, as_csv, before_of, name_of, one_page
from aisle.store import audit
from aisle.store.audit import Filter
from aisle.store.engine import reading

COLUMNS = ("at", "who", "what", "subject", "before", "after")

router = APIRouter(prefix="/audit")


@router.get("")
async def ask(request: Request, _: AnAdmin, desk: TheDesk) -> Response:
    asked = request.query_params
    wanted = _filter(asked)
    found = await run_in_threadpool(_read, desk, wanted, before_of(asked.get("before", "")))
    fields = {name: asked.get(name, "") for name in ("who", "what", "subject", "since", "until")}
    query = urlencode({name: value for name, value in fields.items() if value})
    said = partial(_said, speech_of(request))
    return page(request, "audit.html", place="audit", **found, query=query, wanted=fields, said=said)


@router.get(".csv")
async def export(request: Request, _: AnAdmin, desk: TheDesk) -> Response:
    wanted = _filter(request.query_params)

    def rows(connection: Connection) -> Iterator[Sequence[Any]]:
        for one in audit.newest(connection, wanted):
            yield one.at.isoformat(), one.who, one.what, one.subject, _json(one.before), _json(one.after)

    return as_csv(desk.engine, "audit.csv", COLUMNS, rows)


def _read(desk: Desk, wanted: Filter, before: int | None) -> dict[str, Any]:
    with reading(desk.engine) as connection:
        entries, more = one_page(audit.newest(connection, wanted, before=before, count=PAGE + 1))
        newer = None if before is None else audit.newer_page(connection, wanted, before=before, count=PAGE) or ""
        kinds = audit.kinds(connection)
    return {"entries": entries, "newer": newer, "older": entries[-1].id if more else None, "kinds": kinds}


def _filter(asked: Any) -> Filter:
    until = _day(asked.get("until", ""))
    return Filter(
        who=name_of(asked.get("who", "")),
        what=name_of(asked.get("what", "")),
        subject=name_of(asked.get("subject", "")),
        since=_day(asked.get("since", "")),
        until=None if until is None else until + timedelta(days=1),
    )


def _day(text: str) -> datetime | None:
    """The beginning of a day, in UTC; None for what is no day."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return datetime(day.year, day.month, day.day, tzinfo=UTC) if day < date.max else None


def _said(speech: Speech, value: object) -> str:
    """A value of an entry: a truth in words, what has parts as JSON."""
    if isinstance(value, bool):
        return str(speech("yes" if value else "no"))
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
