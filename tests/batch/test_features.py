"""The cache of image features, filled ahead of a training."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest
from tests.end_to_end.conftest import image_path, write_shop

from aisle.batch.features import (
    Encoded,
    EncodeImages,
    FeatureEngine,
    FeaturesResult,
    Wanted,
    fill_cache,
    local_encoding,
)
from aisle.data.prepare import PRODUCTS_FILE, Prepared
from aisle.files import sha256_file
from aisle.model.bundle import Bundle

in_threads_of_two = local_encoding(2)


def pickled_and_alone(job: EncodeImages, pieces: Sequence[Wanted]) -> Iterator[Encoded]:
    """What a worker does, in this process."""
    do = pickle.loads(pickle.dumps(job)).start()  # noqa: S301
    return (pickle.loads(pickle.dumps(do(piece))) for piece in pieces)  # noqa: S301


@pytest.mark.parametrize("engine", [in_threads_of_two, pickled_and_alone])
def test_an_image_that_is_gone_is_counted_and_the_others_are_kept(
    engine: FeatureEngine, tmp_path: Path, bundle: Bundle
) -> None:
    shop = write_shop(tmp_path / "shop", products=24, images=20)
    image_path(shop, 3).unlink()
    graph = bundle.encoder_graph()
    assert graph is not None
    rows = [
        (sha256_file(image_path(shop, key)) if key != 3 else "0" * 64, image_path(shop, key).stem)
        for key in range(20)
    ]
    products = pl.DataFrame(rows, schema=["image_sha256", "image"], orient="row")
    folder = tmp_path / "prepared"
    folder.mkdir()
    products.write_parquet(folder / PRODUCTS_FILE)
    prepared = Prepared(folder, "", "../shop", {}, {})
    first = fill_cache(prepared, graph, tmp_path / "cache", engine)
    assert (first.images, first.encoded, first.broken) == (20, 19, 1)
    image_path(shop, 4).unlink()
    assert fill_cache(prepared, graph, tmp_path / "cache", engine) == FeaturesResult(20, 19, 0, 1)
