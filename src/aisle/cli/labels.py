"""The verbs of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aisle.cli.common import FILE, FOLDER, as_json, print_result, start
from aisle.errors import UsageError
from aisle.logs import LogFile


@click.group()
def labels() -> None:
    """Look after the labels that are learnt from."""


@labels.command()
@click.option("--data", type=FOLDER, default=None, help="Raw or prepared folder; default: data/raw.")
@click.option("--report", type=FOLDER, default=None, help="Default: data/reports/labels.")
@click.option(
    "--top", default=200, show_default=True, type=click.IntRange(min=1), help="Suspects that the page shows."
)
@click.option("--compare", is_flag=True, help="Also learn with and without the suspects, and measure both.")
@click.option("--measure", type=FILE, default=None, help="With --compare: also on this table with prdtypecode.")
@as_json
def audit(
    data: Path | None, report: Path | None, top: int, compare: bool, measure: Path | None, as_json: bool
) -> None:
    """Which products are likely labelled wrongly: ranked, with the reason, as a table and a page with images.

    Each is judged by models that learnt from the others. Nothing is changed.
    """
    settings = start(LogFile.TRAIN)
    if measure is not None and not compare:
        raise UsageError("--measure says on what to --compare")
    from aisle.labels import audit_catalogue

    report = report or settings.reports_path / "labels"
    catalogue = data or settings.data_path / "raw"
    found = audit_catalogue(catalogue, settings, report, top=top, compare=compare, measure=measure)
    print_result({**found, "report": str(report)}, as_json, _sentence)


def _sentence(found: dict[str, Any]) -> str:
    lines = [
        f"  on {one['on']} ({one['rows']} products): F1 {one['before']:.4f}, without {one['left_out']} suspects "
        f"{one['after']:.4f}: {one['gain']:+.2f} points ({one['interval'][0]:+.2f} to {one['interval'][1]:+.2f})"
        for one in found["comparisons"]
    ]
    return "\n".join(
        [
            f"{found['suspects']} of {found['products']} labels are suspect ({found['share']:.1%}); "
            f"{found['contradictions']} times the same product has different types",
            *lines,
            f"{found['report']}/labels.html",
        ]
    )
