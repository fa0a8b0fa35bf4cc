"""The verbs of the bundle store: what is there, what serves, and what may."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from aisle.cli.common import FOLDER, as_json, operator, print_result, start, start_mirror
from aisle.errors import UsageError
from aisle.logs import LogFile, get_logger


@click.group()
def registry() -> None:
    """The bundle store: what is there, what serves, and what may serve."""


@registry.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Every bundle of the store, the oldest first."""
    settings = start(LogFile.TRAIN)
    from aisle.registry.bundles import BundleStore

    store = BundleStore(settings.models_path)
    serving = store.serving()
    found = {"champion": serving.champion, "challenger": serving.challenger, "versions": store.versions()}

    def lines(found: dict[str, Any]) -> str:
        names = {found["challenger"]: "  challenger", found["champion"]: "  champion"}
        marked = (f"{one}{names.get(one, '')}" for one in found["versions"])
        return "\n".join(marked) or f"{settings.models_path} has no bundle yet"

    print_result(found, as_json, lines)


@registry.command()
@click.argument("bundle", metavar="BUNDLE")
@as_json
def register(bundle: str, as_json: bool) -> None:
    """Put BUNDLE, a folder or a version of the store, up as the challenger."""
    settings = start(LogFile.TRAIN)
    from aisle.model.bundle import Bundle
    from aisle.registry.bundles import BundleStore
    from aisle.registry.promotion import register as register_bundle

    found = Bundle.load(BundleStore(settings.models_path).find(bundle))
    before = register_bundle(found, settings, who=operator())
    start_mirror(settings)
    print_result(
        {"challenger": found.version, "before": before},
        as_json,
        lambda found: f"challenger: {found['challenger']}; `aisle registry promote` asks the gate",
    )


@registry.command()
@click.argument("version", default="challenger")
@click.option("--data", type=FOLDER, default=None, help="Raw or prepared folder to measure on; default: data/raw.")
@click.option(
    "--force", metavar="REASON", default=None, help="Promote whatever the gate would say; REASON is recorded."
)
@as_json
def promote(version: str, data: Path | None, force: str | None, as_json: bool) -> None:
    """Make VERSION the champion, if the gate lets it pass; default: the challenger.

    The gate measures it beside the champion on products that neither learnt from.
    """
    settings = start(LogFile.TRAIN)
    from aisle.model.bundle import Bundle
    from aisle.registry.bundles import BundleStore
    from aisle.registry.promotion import promote as promote_bundle

    challenger = Bundle.load(BundleStore(settings.models_path).find(version))
    judge = None
    if force is None:
        from aisle.measuring import judge_challenger

        judge = functools.partial(judge_challenger, data=data or settings.data_path / "raw", settings=settings)
    done = promote_bundle(challenger, settings, who=operator(), judge=judge, reason=force)
    start_mirror(settings)

    def sentence(found: dict[str, Any]) -> str:
        gate = found["gate"] or {"criteria": []}
        lines = [f"  {one['name']}: {one['finding']}" for one in gate["criteria"]]
        return "\n".join([*lines, f"champion: {found['champion']}, before: {found['before'] or 'none'}"])

    print_result({**done.entry(), "before": done.before}, as_json, sentence)


@registry.command()
@as_json
def rollback(as_json: bool) -> None:
    """Make the champion before this one the champion again; `aisle run` does not undo it."""
    settings = start(LogFile.TRAIN)
    from aisle.registry.promotion import roll_back

    before, now = roll_back(settings, who=operator())
    start_mirror(settings)
    print_result(
        {"champion": now, "before": before},
        as_json,
        lambda found: f"champion: {found['champion']}, rolled back from: {found['before']}",
    )


@registry.command()
@click.option("--data", type=FOLDER, default=None, help="Raw or prepared folder; default: data/raw.")
@as_json
def freeze(data: Path | None, as_json: bool) -> None:
    """Choose anew the products that the gate measures on: the catalogue's test side of today."""
    settings = start(LogFile.TRAIN)
    from aisle.data.prepare import ensure_prepared
    from aisle.data.validate import ContractOptions
    from aisle.registry.bundles import BundleStore
    from aisle.registry.frozen import frozen_products
    from aisle.registry.trail import trail

    raw = data or settings.data_path / "raw"
    prepared = ensure_prepared(raw, settings, contract=ContractOptions(), threads=settings.cores)
    with trail(settings, operator()) as record:
        rows = len(frozen_products(BundleStore(settings.models_path).root, prepared, again=True))
        record(what="gate.freeze", subject=str(raw), before=None, after={"products": rows})
    print_result({"products": rows}, as_json, lambda found: f"{found['products']} products are frozen for the gate")


@registry.command("mirror")
@click.argument("bundle", metavar="[BUNDLE]", type=FOLDER, required=False)
@as_json
def mirror_(bundle: Path | None, as_json: bool) -> None:
    """Bring MLflow up to date: runs, registered versions, aliases; and the run of BUNDLE, a folder of its own.

    Training, registering, promoting and rolling back start this by themselves.
    """
    settings = start(LogFile.TRAIN)
    if not settings.mlflow_uri:
        raise UsageError("there is no MLflow to mirror to: MLFLOW_TRACKING_URI is off")
    from aisle.model.bundle import Bundle
    from aisle.registry.mirror import mirror

    found = mirror(settings, Bundle.load(bundle) if bundle is not None else None)
    get_logger(__name__).info("mirrored in MLflow", logged=found.logged, **found.aliases)
    print_result(
        {"logged": found.logged, "aliases": found.aliases, "mlflow": settings.mlflow_uri},
        as_json,
        lambda done: (
            f"{len(done['logged'])} new runs in {done['mlflow']}; "
            + (", ".join(f"{alias}: {version}" for alias, version in done["aliases"].items()) or "no alias")
        ),
    )
