"""The verb `changes`: after a promotion, which products of the catalogue would change their type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aisle.cli.common import FILE, FOLDER, as_json, print_result, start
from aisle.logs import LogFile

SHOWN = 10


@click.command()
@click.option("--before", default="", help="A version, or a folder.  [default: the champion before]")
@click.option("--model", default="champion", show_default=True, help="champion, challenger, a version or a folder.")
@click.option("--data", type=FOLDER, default=None, help="Raw folder of the catalogue; default: data/raw.")
@click.option("--output", type=FILE, default=None, help="Default: data/reports/VERSION/changes.csv.")
@click.option("--measure", is_flag=True, help="Also measure both on the test side, and list the catalogue's types.")
@click.option("--webhook", metavar="URL", default=None, help="Whom to tell.  [default: CHANGES_WEBHOOK_URL]")
@as_json
def changes(
    before: str,
    model: str,
    data: Path | None,
    output: Path | None,
    measure: bool,
    webhook: str | None,
    as_json: bool,
) -> None:
    """Predict the whole catalogue again, and list the products whose type would change: a CSV, and a webhook."""
    settings = start(LogFile.TEST)
    from aisle.batch.changes import list_changes, notify, versions_to_compare
    from aisle.monitoring.stages import stage
    from aisle.settings import override

    if webhook is not None:
        settings = override(changes_webhook_url=webhook)
    with stage("changes", settings):
        old, new = versions_to_compare(settings, before=before, model=model)
        report = list_changes(settings, before=old, after=new, data=data, output=output, measure=measure)
        told = notify(report, settings)
    print_result({**report.as_dict(), "told": told}, as_json, _sentence)


def _sentence(found: dict[str, Any]) -> str:
    from aisle.training.terminal import printable

    transitions = found["transitions"]
    lines = [
        f"  {one['products']:6} {printable(one['old_label'] or 'none')} → {printable(one['new_label'] or 'none')}"
        for one in transitions[:SHOWN]
    ]
    if len(transitions) > SHOWN:
        lines.append(f"         and {len(transitions) - SHOWN} other ways")
    if measured := found.get("measured"):
        low, high = measured["interval"]
        old, new = (measured[one]["weighted_f1"] for one in ("before", "after"))
        lines.append(
            f"  weighted F1 {new:.4f} instead of {old:.4f} on {measured['rows']} products of the test side: "
            f"{measured['gain']:+.2f} points ({low:+.2f} to {high:+.2f})"
        )
        lines += [
            f"  {found[one]} learnt from another catalogue, and may have learnt some of these"
            for one, is_elsewhere in measured["learnt_elsewhere"].items()
            if is_elsewhere
        ]
    told = "; the webhook was told" if found["told"] else ""
    return "\n".join(
        [
            f"{found['count']} of {found['products']} products would change their type ({found['share']:.1%}) from "
            f"{found['before']} to {found['after']}, {found['accepted']} of them to accept",
            *lines,
            f"{found['csv']}{told}",
        ]
    )
