"""The verbs that serve: run, which does the whole way first, serve and auth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aisle.cli.common import contract_options, recipe_options, start, start_mirror
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
@contract_options
def run(
    recipe_name: str,
    weights: str | None,
    source: str,
    rows: int,
    seed: int,
    serve: bool,
    max_bad: float,
    allow_missing_types: bool,
) -> None:
    """Import, validate, prepare, train, evaluate, register, then serve."""
    settings = start(LogFile.TRAIN)
    from aisle.data.validate import ContractOptions
    from aisle.pipeline import choose_recipe, run_all

    contract = ContractOptions(max_bad, allow_missing_types)
    run_all(choose_recipe(recipe_name, weights, settings), source, settings, rows=rows, seed=seed, contract=contract)
    mirroring = start_mirror(settings)
    if not serve and mirroring is not None:
        mirroring.wait()
    if serve:
        settings = start(LogFile.SERVING)
        from aisle.service.serve import serve_with_tokens

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


def _show_first_admin(admin: FirstAdmin) -> None:
    if admin.password is None:
        click.echo(f"First administrator: {admin.name}, with the password of BOOTSTRAP_ADMIN_PASSWORD")
        return
    click.echo(f"First administrator: {admin.name}  password: {admin.password}  (kept in {admin.file})")
