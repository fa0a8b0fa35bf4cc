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
    operator,
    print_result,
    recipe_options,
    start,
    start_mirror,
    wait_for_mirror,
)
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
    weights: str | None,
    fine_tune: int | None,
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
        choose_recipe(recipe_name, settings, weights=weights, fine_tune=fine_tune),
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
    required=True,
    help="CSV or parquet with the column prdtypecode, or a raw or prepared folder: its test side.",
)
@click.option("--images", type=FILE, default=None, help="Folder or zip of the images.")
@click.option("--fields", default="title,description,image", show_default=True, help="What the model may look at.")
@click.option("--report", type=FOLDER, default=None, help="Default: data/reports/VERSION-FILE.")
@as_json
def evaluate(model: str, data: Path, images: Path | None, fields: str, report: Path | None, as_json: bool) -> None:
    """Measure a bundle on labelled products: a table, JSON and an HTML report."""
    settings = start(LogFile.TEST)
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


@click.command()
@click.argument("source", type=FILE, metavar="INPUT")
@click.option("--output", type=FILE, required=True, help="CSV or parquet to write.")
@click.option("--images", type=FILE, default=None, help="Folder or zip of the images; without it: text alone.")
@click.option("--model", default="champion", show_default=True, help="champion, challenger, a version or a folder.")
@as_json
def predict(source: Path, output: Path, images: Path | None, model: str, as_json: bool) -> None:
    """Predict every row of INPUT, a CSV or parquet file: one row out for each row in, in order."""
    settings = start(LogFile.TEST)
    from aisle.batch.local import predict_file
    from aisle.data.images import open_given_images
    from aisle.model.bundle import Bundle
    from aisle.model.predictor import Predictor
    from aisle.monitoring.stages import stage
    from aisle.registry.bundles import BundleStore

    with stage("predict", settings):
        bundle = Bundle.load(BundleStore(settings.models_path).find(model))
        found = open_given_images(images) if images is not None else None
        with Predictor(bundle, threads=settings.threads) as predictor:
            result = predict_file(predictor, source, output, images=found)
    print_result(
        result.as_dict(),
        as_json,
        lambda found: (
            f"{found['predicted']} of {found['rows']} rows predicted by {bundle.version} "
            f"({found['accepted']} to accept, {found['errors']} with an error): {found['output']}"
        ),
    )
