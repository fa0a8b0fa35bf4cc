"""The verbs of the catalogue: import, validate, prepare."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from aisle.cli.common import FOLDER, as_json, contract_options, print_result, start
from aisle.logs import LogFile


@click.command("import")
@click.option("--source", required=True, help="sample, huggingface, s3://BUCKET/PREFIX or a folder.")
@click.option("--to", type=FOLDER, default=None, help="Folder of raw data; default: data/raw.")
@click.option("--rows", default=2700, show_default=True, help="Products of the generated sample.")
@click.option("--seed", default=0, show_default=True, help="Seed of the generated sample.")
@click.option("--refresh", is_flag=True, help="Ask the source again for files that are already here.")
@as_json
def import_(source: str, to: Path | None, rows: int, seed: int, refresh: bool, as_json: bool) -> None:
    """Bring a catalogue into data/raw: resumable, checked, whole or not at all."""
    settings = start(LogFile.IMPORT)
    from aisle.data.source import import_catalogue
    from aisle.monitoring.stages import stage

    to = to or settings.data_path / "raw"
    with stage("import", settings):
        result = import_catalogue(source, to, settings=settings, rows=rows, seed=seed, refresh=refresh)
    print_result(result.as_dict(), as_json, lambda found: f"{len(found['files'])} files in {found['folder']}")


@click.command()
@click.option("--data", type=FOLDER, default=None, help="Raw folder; default: data/raw.")
@click.option("--out", type=FOLDER, default=None, help="Default: data/validated.")
@contract_options
@as_json
def validate(data: Path | None, out: Path | None, max_bad: float, allow_missing_types: bool, as_json: bool) -> None:
    """Check a raw catalogue against the data contract: a report, and a quarantine table with reasons."""
    settings = start(LogFile.IMPORT)
    from aisle.data.validate import ContractOptions
    from aisle.data.validate import validate as validate_catalogue
    from aisle.monitoring.stages import stage
    from aisle.monitoring.told import tell_rows

    with stage("validate", settings) as figures:
        result = validate_catalogue(
            data or settings.data_path / "raw",
            out or settings.data_path / "validated",
            options=ContractOptions(max_bad, allow_missing_types),
            threads=settings.cores,
            counted=partial(tell_rows, figures),
        )
    print_result(
        result.as_dict(),
        as_json,
        lambda found: (
            f"{found['accepted']} of {found['rows']} rows accepted, {found['quarantined']} quarantined"
            f"{', {} of types that fell away'.format(found['retired']) if found['retired'] else ''}; "
            f"report: {found['folder']}/report.html"
        ),
    )


@click.command()
@click.option("--data", type=FOLDER, default=None, help="Validated folder; default: data/validated.")
@click.option("--out", type=FOLDER, default=None, help="Default: data/preprocessed.")
@as_json
def prepare(data: Path | None, out: Path | None, as_json: bool) -> None:
    """Clean the texts of a validated catalogue and split it into train, validation and test by group."""
    settings = start(LogFile.IMPORT)
    from aisle.data.prepare import prepare as prepare_catalogue
    from aisle.monitoring.stages import stage

    data, out = data or settings.data_path / "validated", out or settings.data_path / "preprocessed"
    with stage("prepare", settings):
        result = prepare_catalogue(data, out)
    print_result(result.as_dict(), as_json, lambda found: f"{found['folder']}: {found['counts']}")
