"""The verb `drift`: what is served now against what the model was measured on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from aisle.cli.common import FILE, FOLDER, as_json, print_result, start
from aisle.errors import CheckFailed, UsageError
from aisle.logs import LogFile


@click.command()
@click.option("--model", default="champion", show_default=True, help="champion, challenger, a version or a folder.")
@click.option(
    "--window",
    type=click.IntRange(1, 5000),
    default=None,
    help="So many of the last products.  [default: DRIFT_WINDOW; of a table: all, at most 5,000]",
)
@click.option("--since", metavar="TIME", default=None, help="Only what was served since then: 2026-11-25T08:00.")
@click.option("--input", "table", type=FILE, default=None, help="A CSV or parquet file instead of the database.")
@click.option("--images", type=FILE, default=None, help="Its images, a folder or zip; without: texts alone.")
@click.option("--report", type=FOLDER, default=None, help="Folder of drift.html and drift.json to write.")
@click.option("--fail-on-drift", is_flag=True, help="Exit code 4 where drift was found.")
@as_json
def drift(
    model: str,
    window: int | None,
    since: str | None,
    table: Path | None,
    images: Path | None,
    report: Path | None,
    fail_on_drift: bool,
    as_json: bool,
) -> None:
    """Compare the last products that were served with those that the model was measured on."""
    if table is not None and since is not None:
        raise UsageError("--since is about the database; a table has no times", hint="Leave one of the two out.")
    if table is None and images is not None:
        raise UsageError("--images belongs to --input", hint="What was served has its images' traits recorded.")
    moment = None if since is None else _moment(since)
    settings = start(LogFile.TEST)
    from aisle.monitoring.drift import look, tell
    from aisle.monitoring.drift_report import HTML_FILE, as_table, write_drift_report
    from aisle.monitoring.stages import stage

    with stage("drift", settings) as figures:
        seen = look(settings, model=model, count=window, since=moment, table=table, images=images)
        tell(figures, seen)
        if report is not None:
            write_drift_report(report, seen)

    def sentences(_: dict[str, Any]) -> str:
        return as_table(seen) if report is None else f"{as_table(seen)}\nreport: {report / HTML_FILE}"

    print_result(seen.as_dict(), as_json, sentences)
    if fail_on_drift and seen.detected:
        raise CheckFailed(f"drift in {', '.join(one.name for one in seen.alarms)}", hint="`--report DIR` shows it.")


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since takes a time like 2026-11-25 or 2026-11-25T08:00+01:00, not {text!r}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
