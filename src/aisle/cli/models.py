"""The verbs of models: train, evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aisle.cli.common import (
    FILE,
    FOLDER,
    as_json,
    contract_options,
    engine_option,
    operator,
    print_result,
    recipe_options,
    start,
    start_mirror,
    wait_for_mirror,
)
from aisle.errors import UsageError
from aisle.logs import LogFile


@click.command()
@recipe_options
@click.option("--data", type=FOLDER, default=None, help="Raw or prepared folder; default: data/raw.")
@click.option("--out", type=FOLDER, default=None, help="Folder of the bundle; default: its version in the store.")
@click.option("--again", is_flag=True, help="Train though the store has a bundle of the same lineage.")
@contract_options
@as_json
def train(
    recipe_name: str,
    choices: dict[str, Any],
    data: Path | None,
    out: Path | None,
    again: bool,
    max_bad: float,
    allow_missing_types: bool,
    as_json: bool,
) -> None:
    """Train a bundle; goes on where a run that was killed stopped."""
    settings = start(LogFile.TRAIN)
    from aisle.data.validate import ContractOptions
    from aisle.pipeline import choose_recipe, train_bundle
    from aisle.registry.bundles import BundleStore

    trained = train_bundle(
        choose_recipe(recipe_name, settings, **choices),
        data or settings.data_path / "raw",
        settings,
        who=operator(),
        out=out,
        contract=ContractOptions(max_bad, allow_missing_types),
        again=again,
    )
    wait_for_mirror(start_mirror(settings, outside=out), settings, outside=out)
    champion = BundleStore(settings.models_path).serving().champion
    found = {
        "version": trained.bundle.version,
        "bundle": str(trained.bundle.path),
        "new": trained.new,
        "champion": champion,
    }

    def sentence(found: dict[str, Any]) -> str:
        line = f"bundle {found['version']} in {found['bundle']}"
        if champion in (None, found["version"]) or out is not None:
            return line
        return f"{line}; the champion is still {champion}: `aisle registry promote {found['version']}` replaces it"

    print_result(found, as_json, sentence)


@click.command()
@click.option("--model", default="champion", show_default=True, help="champion, challenger, a version or a folder.")
@click.option(
    "--data",
    type=FILE,
    default=None,
    help="CSV or parquet with the column prdtypecode, or a raw or prepared folder: its test side.",
)
@click.option("--probabilities", type=FILE, default=None, help="An .npz of what models said: measure their fusion.")
@click.option("--fit", type=FILE, default=None, help="With --probabilities: the .npz to fit fusion and decisions on.")
@click.option("--models", default="", help="With --probabilities: the models to join, with commas.  [default: all]")
@click.option("--images", type=FILE, default=None, help="Folder or zip of the images.")
@click.option("--fields", default="title,description,image", show_default=True, help="What the model may look at.")
@click.option("--report", type=FOLDER, default=None, help="Default: data/reports/VERSION-FILE.")
@as_json
def evaluate(
    model: str,
    data: Path | None,
    probabilities: Path | None,
    fit: Path | None,
    models: str,
    images: Path | None,
    fields: str,
    report: Path | None,
    as_json: bool,
) -> None:
    """Measure a bundle on labelled products (--data): a table, JSON and an HTML report.

    Or fit a fusion of what any models said of products (--fit) and measure it on others (--probabilities).
    """
    settings = start(LogFile.TEST)
    if (data is None) == (probabilities is None):
        raise UsageError("one of --data and --probabilities says what to measure")
    if (probabilities is None) != (fit is None):
        raise UsageError("--probabilities and --fit go together")
    if probabilities is not None and fit is not None:
        _evaluate_fusion(probabilities, fit, [name for name in models.split(",") if name], as_json)
    if data is None:
        return
    from aisle.batch.table import parse_fields
    from aisle.data.prepare import ensure_prepared
    from aisle.measuring import evaluate_file, evaluate_side
    from aisle.model.bundle import Bundle
    from aisle.monitoring.stages import stage
    from aisle.registry.bundles import BundleStore
    from aisle.training.terminal import format_table

    with stage("evaluate", settings):
        bundle = Bundle.load(BundleStore(settings.models_path).find(model))
        report = report or settings.reports_path / f"{bundle.version}-{data.stem}"
        if data.is_dir():
            prepared = ensure_prepared(data, settings, threads=settings.cores)
            found = evaluate_side(bundle, prepared, settings, fields=parse_fields(fields), report=report)
        else:
            found = evaluate_file(bundle, data, settings, images=images, fields=parse_fields(fields), report=report)
    figures = {**found.figures, "model_version": bundle.version, "report": str(report)}
    table = f"model {bundle.version}\n{format_table(found.figures, found.types)}\nreport: {report}/evaluation.html"
    print_result(figures, as_json, lambda _: table)


def _evaluate_fusion(scored: Path, fitted: Path, models: list[str], as_json: bool) -> None:
    from aisle.training.probabilities import evaluate_probabilities, read_probabilities
    from aisle.training.terminal import format_decisions, format_table

    if scored.samefile(fitted):
        raise UsageError("what is fitted on a file is not measured on the same one")
    figures = evaluate_probabilities(read_probabilities(scored, models), read_probabilities(fitted, models))
    print_result(figures, as_json, lambda found: f"{format_table(found)}\n\n{format_decisions(found['decisions'])}")


@click.command()
@click.argument("source", metavar="INPUT")
@click.option("--output", required=True, help="CSV or parquet to write, a path or s3://…")
@click.option("--images", default=None, help="Folder or zip of the images, or s3://…; default: the table's own.")
@click.option("--model", default="champion", show_default=True, help="champion, challenger, a version or a folder.")
@click.option("--fields", default="title,description,image", show_default=True, help="What the model may look at.")
@engine_option
@click.option("--partitioned", is_flag=True, help="Write a folder of parquet files.")
@click.option("--resume", is_flag=True, help="Go on where the same command was interrupted.")
@click.option("--piece-rows", type=click.IntRange(min=0), default=0, help="Rows of a piece.  [default: as suits]")
@as_json
def predict(
    source: str,
    output: str,
    images: str | None,
    model: str,
    fields: str,
    engine: str,
    partitioned: bool,
    resume: bool,
    piece_rows: int,
    as_json: bool,
) -> None:
    """Predict every row of INPUT, CSV or parquet, one file or a folder of them: one row out for each row in."""
    settings = start(LogFile.TEST)
    from aisle.batch.bulk import BulkOptions, local_engine, predict_table
    from aisle.batch.cluster import cluster_engine
    from aisle.batch.places import place_of
    from aisle.batch.table import parse_fields
    from aisle.model.bundle import Bundle
    from aisle.monitoring.stages import stage
    from aisle.registry.bundles import BundleStore

    with stage("predict", settings):
        bundle = Bundle.load(BundleStore(settings.models_path).find(model))
        endpoint = settings.s3_endpoint_url
        pictures = place_of(images, endpoint) if images is not None else None
        options = BulkOptions(pictures, parse_fields(fields), piece_rows, partitioned, resume)
        on_ray = engine == "ray"
        run = cluster_engine(settings.ray_address, settings.cores) if on_ray else local_engine(settings.cores)
        result = predict_table(bundle, place_of(source, endpoint), place_of(output, endpoint), run, options)
    print_result(
        result.as_dict(),
        as_json,
        lambda found: (
            f"{found['predicted']} of {found['rows']} rows predicted by {bundle.version} "
            f"({found['accepted']} to accept, {found['errors']} with an error): {found['output']}"
        ),
    )
