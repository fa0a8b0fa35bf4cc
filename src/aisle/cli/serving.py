"""The verbs that serve: run, which does the whole way first, serve, auth, and migrate before both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aisle.cli.common import contract_options, operator, recipe_options, start, start_mirror, wait_for_mirror
from aisle.logs import LogFile
from aisle.settings import override

if TYPE_CHECKING:
    from aisle.auth.bootstrap import FirstAdmin


@click.command()
@recipe_options
@click.option("--source", default="", help="Catalogue to import first; default: data/raw, or the sample if empty.")
@click.option("--rows", default=2700, show_default=True, help="Products of the generated sample.")
@click.option("--seed", default=0, show_default=True, help="Seed of the generated sample.")
@click.option("--serve/--no-serve", default=True, help="Serve the trained model at the end.")
@click.option("--once", is_flag=True, help="Train only where there is no champion yet.")
@contract_options
def run(
    recipe_name: str,
    choices: dict[str, Any],
    source: str,
    rows: int,
    seed: int,
    serve: bool,
    once: bool,
    max_bad: float,
    allow_missing_types: bool,
) -> None:
    """Import, validate, prepare, train, evaluate, register, then serve."""
    settings = start(LogFile.TRAIN)
    from aisle.data.validate import ContractOptions
    from aisle.pipeline import choose_recipe, run_all
    from aisle.registry.bundles import BundleStore

    if not once or BundleStore(settings.models_path).serving().champion is None:
        chosen, contract = (
            choose_recipe(recipe_name, settings, **choices),
            ContractOptions(max_bad, allow_missing_types),
        )
        run_all(chosen, source, settings, who=operator(), rows=rows, seed=seed, contract=contract)
    mirroring = start_mirror(settings)
    if not serve:
        wait_for_mirror(mirroring, settings)
    else:
        settings = start(LogFile.SERVING)
        from aisle.batch.worker import worker_beside
        from aisle.service.serve import serve_with_tokens

        with worker_beside():
            serve_with_tokens(settings, tell=_show_first_admin)


@click.command()
@click.option(
    "--model", default=None, help="champion, which is followed, a version or a folder; default: SERVE_MODEL."
)
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Processes; default: SERVE_WORKERS.")
def serve(model: str | None, workers: int | None) -> None:
    """Serve a bundle over HTTP; another process is the token service, `aisle auth`."""
    given = {"serve_model": model, "serve_workers": workers}
    override(**{name: value for name, value in given.items() if value is not None})  # workers see it as well
    settings = start(LogFile.SERVING)
    from aisle.service.serve import serve as serve_model

    serve_model(settings)


@click.command()
def auth() -> None:
    """Serve tokens over HTTP: sign-in, refresh, the keys to verify with."""
    settings = start(LogFile.SERVING)
    from aisle.auth.serve import serve as serve_tokens

    serve_tokens(settings)


@click.command()
@click.option("--processes", type=click.IntRange(1, 256), default=None, help="Default: WORKER_PROCESSES.")
@click.option(
    "--heartbeat",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="A file to touch every second, for a probe: an old one is of a worker that hangs.",
)
def worker(processes: int | None, heartbeat: Path | None) -> None:
    """Predict what is asked for by POST /batches; several workers share the work."""
    settings = start(LogFile.SERVING)
    from aisle.batch.worker import run_workers

    run_workers(settings, processes=processes or settings.worker_processes or settings.cores, heartbeat=heartbeat)


@click.command()
def migrate() -> None:
    """Bring the database up to date; both services do so at their start, too."""
    settings = start(LogFile.SERVING)
    from aisle.logs import get_logger
    from aisle.store.engine import open_database
    from aisle.store.migrate import migrate as migrate_database

    migrate_database(open_database(settings.database_url))
    get_logger(__name__).info("the database is up to date")


def _show_first_admin(admin: FirstAdmin) -> None:
    if admin.password is None:
        click.echo(f"First administrator: {admin.name}, with the password of BOOTSTRAP_ADMIN_PASSWORD")
        return
    click.echo(f"First administrator: {admin.name}  password: {admin.password}  (kept in {admin.file})")
