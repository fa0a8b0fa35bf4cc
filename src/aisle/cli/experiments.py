"""The verbs of experiments: start one, look at it, give it more, end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from aisle.cli.common import as_json, operator, print_result, start
from aisle.logs import LogFile

if TYPE_CHECKING:  # the database takes its time to load
    from aisle.store.experiments import Experiment


@click.group()
def experiment() -> None:
    """A challenger beside the champion: shown what was answered, or answering for a share."""


@experiment.command("start")
@click.argument("kind", type=click.Choice(["shadow", "canary", "ab"]))
@click.option(
    "--challenger", metavar="VERSION", default="challenger", show_default=True, help="Which bundle of the store."
)
@click.option(
    "--share",
    type=float,
    default=None,
    help="Of the products, that are the challenger's.  [default: shadow 1, canary 0.1, ab 0.5]",
)
@click.option(
    "--unit",
    type=click.Choice(["product", "user"]),
    default="product",
    show_default=True,
    help="Whom an A/B test gives always the same model.",
)
@click.option("--products", type=int, default=200, show_default=True, help="How many different ones are enough.")
@click.option(
    "--agreement", type=float, default=0.5, show_default=True, help="Of a shadow with the champion; 0: not judged."
)
@click.option(
    "--slower", type=float, default=1.5, show_default=True, help="Worse is who takes so many times the seconds."
)
@click.option(
    "--alpha", type=float, default=0.05, show_default=True, help="Chance of stopping a challenger that is not worse."
)
@as_json
def start_(
    kind: str,
    challenger: str,
    share: float | None,
    unit: str,
    products: int,
    agreement: float,
    slower: float,
    alpha: float,
    as_json: bool,
) -> None:
    """Let a challenger run beside the champion: a shadow, a canary or an A/B test.

    Services take part within seconds. One that is worse is stopped by itself.
    """
    settings = start(LogFile.TRAIN)
    from aisle.experiments import run
    from aisle.experiments.judge import Rules

    rules = Rules(alpha=alpha, products=products, agreement=agreement, slower=slower, unit=unit)
    print_result(
        _shown(run.start(settings, kind, challenger, who=operator(), share=share, rules=rules)), as_json, _line
    )


@experiment.command()
@click.argument("number", type=int, required=False)
@as_json
def status(number: int | None, as_json: bool) -> None:
    """What is known of an experiment by now; default: the one that runs, or the last one."""
    settings = start(LogFile.TRAIN)
    from aisle.experiments import run

    found = run.get(settings, number) if number is not None else next(iter(run.latest(settings, count=1)), None)
    if found is None:
        print_result({"experiment": None}, as_json, lambda _: "there was no experiment yet")
        return
    findings = found.findings if found.outcome else run.findings(settings, found).as_dict()
    print_result({**_shown(found), "findings": findings}, as_json, _status)


@experiment.command()
@click.argument("share", type=float)
@as_json
def share(share: float, as_json: bool) -> None:
    """Let more products get the challenger: SHARE of them. Nobody who got it loses it again."""
    settings = start(LogFile.TRAIN)
    from aisle.experiments import run

    print_result(_shown(run.set_share(settings, share, who=operator())), as_json, _line)


@experiment.command()
@click.option("--reason", default="by hand", show_default=True, help="For the audit trail.")
@as_json
def stop(reason: str, as_json: bool) -> None:
    """End the experiment that runs: every product is the champion's again, at once."""
    settings = start(LogFile.TRAIN)
    from aisle.experiments import run

    print_result(_shown(run.stop(settings, reason=reason, who=operator())), as_json, _line)


@experiment.command("list")
@click.option("--count", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@as_json
def list_(count: int, as_json: bool) -> None:
    """The last experiments, the newest first."""
    settings = start(LogFile.TRAIN)
    from aisle.experiments import run

    found = {"experiments": [_shown(one) for one in run.latest(settings, count=count)]}

    def lines(found: dict[str, Any]) -> str:
        return "\n".join(_line(one) for one in found["experiments"]) or "there was no experiment yet"

    print_result(found, as_json, lines)


def _shown(experiment: Experiment) -> dict[str, Any]:
    shown = asdict(experiment)
    del shown["findings"], shown["looked_at"]
    return {**shown, "outcome": experiment.outcome or "running"}


def _line(found: Mapping[str, Any]) -> str:
    what = (
        f"{found['id']}  {found['kind']}  {found['challenger']} beside {found['champion']}  share {found['share']:g}"
    )
    return f"{what}  {found['outcome']}" + (f": {found['reason']}" if found["reason"] else "")


def _status(found: Mapping[str, Any]) -> str:
    findings, lines = found["findings"], [_line(found)]
    if not findings:
        return lines[0]
    lines.append(f"  {findings['verdict']}: {findings['reason']}")
    for name, arm in findings["arms"].items():
        seconds = "" if arm["mean_seconds"] is None else f", {arm['mean_seconds'] * 1000:.1f} ms on average"
        right = "" if arm["accuracy"] is None else f", right in {_interval(arm['accuracy'])} of {arm['labelled']}"
        lines.append(f"  {name}: {arm['products']} products, failed at {arm['failed']}{seconds}{right}")
    if findings["agreement"] is not None:
        lines.append(f"  agreement: {_interval(findings['agreement'])}")
    for name, one in findings["criteria"].items():
        told = f"worse in {one['worse']} of {one['worse'] + one['better']}"
        lines.append(f"  {name}: {told} that tell; evidence {one['evidence']:.3g}, {one['needed']:.0f} needed")
    if findings["is_more_accurate"]:
        lines.append("  the challenger is the more accurate one")
    return "\n".join(lines)


def _interval(share: Mapping[str, float]) -> str:
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"
