"""The verbs of the bundle store: what is there, what serves, and what may."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from aisle.cli.common import FILE, FOLDER, as_json, operator, print_result, start, start_mirror
from aisle.errors import UsageError
from aisle.files import read_json
from aisle.logs import LogFile, get_logger


@click.group()
def registry() -> None:
    """The bundle store: what is there, what serves, and what may serve."""


def asked_by(function: Callable[..., Any]) -> Callable[..., Any]:
    """Who changes what serves, and why, for the audit trail: `who`, `note`."""
    function = click.option("--note", default=None, help="Why, for the audit trail.")(function)
    return click.option("--who", default=None, help="Who asks for it; default: whoever is at this terminal.")(
        function
    )


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
@click.argument("version", metavar="BUNDLE")
@click.option("--key", type=FILE, required=True, help="PEM file of an Ed25519 or P-256 private key.")
@as_json
def sign(version: str, key: Path, as_json: bool) -> None:
    """Sign BUNDLE, a folder or a version of the store: who has BUNDLE_PUBLIC_KEY set loads no other."""
    settings = start(LogFile.TRAIN)
    from aisle.model.bundle import MANIFEST_FILE, Bundle
    from aisle.model.signing import sign as sign_bundle
    from aisle.registry.bundles import BundleStore
    from aisle.registry.trail import trail

    found = Bundle.load(BundleStore(settings.models_path).find(version), signed=False)
    with trail(settings, operator()) as record:
        key_id = sign_bundle(found.path, found.version, read_json(found.path / MANIFEST_FILE)["files"], str(key))
        record(what="model.sign", subject=found.version, before=None, after={"key": key_id})
    print_result(
        {"version": found.version, "key": key_id},
        as_json,
        lambda done: f"{done['version']} is signed by the key {done['key']}",
    )


@registry.command()
@click.argument("bundle", metavar="BUNDLE")
@click.option("--output", type=FILE, default=None, help="File to write; default: standard output.")
def sbom(bundle: str, output: Path | None) -> None:
    """What BUNDLE is made of, as CycloneDX: files, packages, data, figures."""
    settings = start(LogFile.TRAIN)
    from aisle.files import to_json, write_json
    from aisle.model.bundle import Bundle
    from aisle.registry.bundles import BundleStore
    from aisle.registry.sbom import bill_of_materials

    found = bill_of_materials(Bundle.load(BundleStore(settings.models_path).find(bundle)))
    if output is None:
        click.echo(to_json(found))
        return
    write_json(output, found)
    click.echo(f"{output}", err=True)


@registry.command()
@click.argument("version", default="challenger")
@click.option("--data", type=FOLDER, default=None, help="Raw or prepared folder to measure on; default: data/raw.")
@click.option(
    "--force", metavar="REASON", default=None, help="Promote whatever the gate would say; REASON is recorded."
)
@asked_by
@as_json
def promote(
    version: str, data: Path | None, force: str | None, who: str | None, note: str | None, as_json: bool
) -> None:
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
    done = promote_bundle(challenger, settings, who=who or operator(), judge=judge, reason=force, note=note)
    start_mirror(settings)

    def sentence(found: dict[str, Any]) -> str:
        gate = found["gate"] or {"criteria": []}
        lines = [f"  {one['name']}: {one['finding']}" for one in gate["criteria"]]
        return "\n".join([*lines, f"champion: {found['champion']}, before: {found['before'] or 'none'}"])

    print_result({**done.entry(), "before": done.before}, as_json, sentence)


@registry.command()
@click.option("--to", metavar="VERSION", default=None, help="Only if this is the champion before.")
@asked_by
@as_json
def rollback(to: str | None, who: str | None, note: str | None, as_json: bool) -> None:
    """Make the champion before this one the champion again; `aisle run` does not undo it."""
    settings = start(LogFile.TRAIN)
    from aisle.registry.promotion import roll_back

    before, now = roll_back(settings, who=who or operator(), note=note, to=to)
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
