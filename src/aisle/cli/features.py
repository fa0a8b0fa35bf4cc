"""The verb of image features: features."""

from __future__ import annotations

from pathlib import Path

import click

from aisle.cli.common import FOLDER, as_json, contract_options, engine_option, print_result, start
from aisle.logs import LogFile


@click.command()
@click.option("--data", type=FOLDER, default=None, help="Raw or prepared folder; default: data/raw.")
@click.option("--model", default=None, help="Encode as this bundle does.  [default: as the recipe light]")
@engine_option
@contract_options
@as_json
def features(
    data: Path | None, model: str | None, engine: str, max_bad: float, allow_missing_types: bool, as_json: bool
) -> None:
    """Encode the images of a catalogue into the cache, from which a training takes them."""
    settings = start(LogFile.TRAIN)
    from aisle.batch.features import cluster_encoding, fill_cache, local_encoding
    from aisle.data.prepare import ensure_prepared
    from aisle.data.validate import ContractOptions
    from aisle.errors import UsageError
    from aisle.model.bundle import Bundle
    from aisle.registry.bundles import BundleStore
    from aisle.training import efficientnet
    from aisle.training.recipes import light

    bundle = None if model is None else Bundle.load(BundleStore(settings.models_path).find(model))
    graph = None if bundle is None else bundle.encoder_graph()
    if bundle is not None and graph is None:
        raise UsageError("has no image model", where=bundle.path, hint="It was trained without images.")
    contract = ContractOptions(max_bad, allow_missing_types)
    prepared = ensure_prepared(
        data or settings.data_path / "raw", settings, contract=contract, threads=settings.cores
    )
    if graph is None:
        graph = efficientnet.encoder(light().image.of(prepared.image_count()).networks)
    cores = settings.cores
    run = cluster_encoding(settings.ray_address, cores) if engine == "ray" else local_encoding(cores)
    result = fill_cache(prepared, graph, settings.cache_path, run)
    print_result(
        result.as_dict(),
        as_json,
        lambda found: (
            f"{found['encoded']} images encoded, {found['known']} were known, {found['broken']} cannot be read: "
            f"{settings.cache_path / 'features'}"
        ),
    )
