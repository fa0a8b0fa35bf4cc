"""The verb `retrain`: begin a retraining or go on with it, watch what asks for one, decide, undo."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import click

from aisle.cli.common import FOLDER, as_json, contract_options, operator, print_result, start, start_mirror
from aisle.errors import CheckFailed, UsageError
from aisle.logs import LogFile


@click.group(invoke_without_command=True)
@click.option("--recipe", "recipe_name", default=None, help="How to train.  [default: as the champion was]")
@click.option(
    "--data", type=FOLDER, default=None, help="Raw folder that corrections are added to.  [default: data/raw]"
)
@click.option("--reason", default="asked for by hand", help="Why, for the audit trail.")
@click.option("--if-due", is_flag=True, help="Begin only what an alert, corrections or the calendar ask for.")
@click.option("--watch", is_flag=True, help="Go on looking, every RETRAIN_POLL_SECONDS, until told to stop.")
@contract_options
@as_json
@click.pass_context
def retrain(
    context: click.Context,
    recipe_name: str | None,
    data: Path | None,
    reason: str,
    if_due: bool,
    watch: bool,
    max_bad: float,
    allow_missing_types: bool,
    as_json: bool,
) -> None:
    """Train with what people corrected, and bring the new model to serve: gate, shadow, canary, champion.

    Without a command: go on with the retraining under way as far as there is something to do, or begin one. Call it
    again while it waits for products, or let --watch do so.
    """
    if context.invoked_subcommand is not None:
        return
    settings = start(LogFile.TRAIN)
    from aisle.data.validate import ContractOptions
    from aisle.loop.retrain import Retrainings, Way, champions_recipe
    from aisle.loop.watch import run_due
    from aisle.loop.watch import watch as watch_for_ever
    from aisle.monitoring.stages import stage
    from aisle.store.retrainings import Cause, Retraining

    shop = Retrainings(settings, who=operator())

    def way() -> Way:
        recipe, choices = (recipe_name, {}) if recipe_name else champions_recipe(settings)
        contract = ContractOptions(max_bad, allow_missing_types)
        return Way(data or settings.data_path / "raw", recipe, contract, choices)

    def tell(now: Retraining) -> None:
        click.echo(_line(now), err=True)

    if watch:
        stop = threading.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, lambda *_: stop.set())

        def after() -> None:
            with stage("retrain", settings) as figures:
                _set_figures(figures, shop.active())
            start_mirror(settings)

        seconds = settings.retrain_poll_seconds
        watch_for_ever(shop, way, stop=stop, seconds=seconds, tell=tell, after=after)
        return
    with stage("retrain", settings) as figures:
        if if_due:
            found = run_due(shop, way, tell=tell)
        else:
            if shop.active() is None:
                shop.begin(Cause.HAND, reason=reason, way=way())
            found = shop.advance(tell=tell) or _latest(shop)
        _set_figures(figures, shop.active())
    start_mirror(settings)
    if not isinstance(found, Retraining):
        print_result({"retraining": None, "reason": found.reason}, as_json, lambda said: str(said["reason"]))
        return
    print_result(_as_dict(found), as_json, lambda _: _line(found))
    if found.stage in ("refused", "stopped", "failed"):
        raise CheckFailed(f"retraining {found.id} was {found.stage}: {found.detail.get('why', '')}")


@retrain.command()
@click.option("--count", default=5, show_default=True, help="How many of the last ones.")
@as_json
def status(count: int, as_json: bool) -> None:
    """The last retrainings, the newest first, and what asks for one."""
    shop = _shop()
    from aisle.store import retrainings
    from aisle.store.engine import reading

    with reading(shop.engine) as connection:
        found, asked = retrainings.latest(connection, count), retrainings.requests(connection)
    result = {
        "retrainings": [_as_dict(one) for one in found],
        "requests": [{"at": one.at, "cause": one.cause, "by": one.asked_by, "reason": one.reason} for one in asked],
    }
    lines = [_line(one) for one in found] + [f"asked for by {one.asked_by}: {one.reason}" for one in asked]
    print_result(result, as_json, lambda _: "\n".join(lines) or "there was no retraining yet")


@retrain.command()
@click.option("--reason", required=True, help="Why, for whoever asks later.")
def ask(reason: str) -> None:
    """Ask for a retraining, which whoever watches begins."""
    shop = _shop()
    from aisle.clock import utc_now
    from aisle.store import retrainings
    from aisle.store.engine import writing

    if not reason.strip():
        raise UsageError("--reason needs some words")
    with writing(shop.engine) as connection:
        retrainings.ask(connection, retrainings.Cause.HAND, asked_by=operator(), reason=reason.strip(), at=utc_now())
    click.echo("asked for; `aisle retrain --watch` or `aisle retrain --if-due` begins it")


@retrain.command()
@as_json
def approve(as_json: bool) -> None:
    """Let the retraining that waits for an administrator go on."""
    found = _shop().approve()
    print_result(_as_dict(found), as_json, lambda _: _line(found))


@retrain.command()
@as_json
def reject(as_json: bool) -> None:
    """End the retraining that waits for an administrator; the champion stays."""
    found = _shop().reject()
    print_result(_as_dict(found), as_json, lambda _: _line(found))


@retrain.command()
@as_json
def undo(as_json: bool) -> None:
    """Take back the last retraining: end its experiment, or make the champion before it the champion again."""
    shop = _shop()
    found = shop.undo()
    start_mirror(shop.settings)
    print_result(_as_dict(found), as_json, lambda _: _line(found))


def _shop() -> Any:
    settings = start(LogFile.TRAIN)
    from aisle.loop.retrain import Retrainings

    return Retrainings(settings, who=operator())


def _latest(shop: Any) -> Any:
    from aisle.store import retrainings
    from aisle.store.engine import reading

    with reading(shop.engine) as connection:
        return retrainings.latest(connection)[0]


def _set_figures(figures: Any, now: Any) -> None:
    from aisle.store.retrainings import Stage

    for one in Stage:
        at = now is not None and now.stage is one
        figures.set("aisle_retraining_stage", float(at), "1 for the stage that a retraining is in.", stage=one.value)
    waits = now is not None and now.stage is Stage.REVIEW
    figures.set("aisle_retraining_waiting_for_admin", float(waits), "1 while an administrator has to say.")


def _as_dict(one: Any) -> dict[str, Any]:
    return {
        "id": one.id,
        "cause": one.cause,
        "asked_by": one.asked_by,
        "stage": one.stage,
        "started_at": one.started_at,
        "ended_at": one.ended_at,
        **one.detail,
    }


def _line(one: Any) -> str:
    """`retraining 3 (drift): shadow, version 4f87a77479ab; why`."""
    words = f"retraining {one.id} ({one.cause.value}): {one.stage.value}"
    version, why = one.detail.get("version"), one.detail.get("why")
    return "".join([words, f", version {version}" if version else "", f"; {why}" if why else ""])
