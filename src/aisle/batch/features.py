"""Fills the cache of image features, on whichever engine, so that a training encodes nothing.

The images are encoded in pieces, whose features come back here and are saved as one shard each: whole or absent. A
run that is stopped loses the pieces under way, and the next one goes on behind the last shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from aisle.batch.cluster import check_is_here, each
from aisle.batch.places import Place
from aisle.data.images import Images, map_bounded, open_given_images
from aisle.data.prepare import Prepared
from aisle.errors import ImageError
from aisle.logs import get_logger
from aisle.model.image import Features, ImageEncoder
from aisle.progress import Progress
from aisle.training.features import SHARD_IMAGES, FeatureCache, KnownFeatures, encode_image

Wanted = tuple[tuple[str, str], ...]
"""The content hash and the name of each image of a piece."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The features of a piece, by content hash, and what was wrong with the other images."""

    features: Mapping[str, Features]
    errors: tuple[str, ...]

    @property
    def images(self) -> int:
        return len(self.features) + len(self.errors)


@dataclass(frozen=True, slots=True)
class FeaturesResult:
    """Counts images by content: `images` = `known` + `encoded` + `broken`."""

    images: int
    known: int
    encoded: int
    broken: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EncodeImages:
    """`images` is a folder or a zip; `graph` the encoder."""

    images: Path
    graph: bytes
    threads: int = 1

    def start(self) -> Callable[[Wanted], Encoded]:
        check_is_here(Place(str(self.images)))
        return partial(self._encode, open_given_images(self.images), ImageEncoder(self.graph))

    def _encode(self, images: Images, encoder: ImageEncoder, wanted: Wanted) -> Encoded:
        def one(image: tuple[str, str]) -> Features | ImageError:
            try:
                return encode_image(images, encoder, image)
            except ImageError as error:
                return error

        done = dict(
            zip((sha256 for sha256, _ in wanted), map_bounded(one, wanted, threads=self.threads), strict=True)
        )
        return Encoded(
            {sha256: found for sha256, found in done.items() if not isinstance(found, ImageError)},
            tuple(str(found) for found in done.values() if isinstance(found, ImageError)),
        )


FeatureEngine = Callable[[EncodeImages, Sequence[Wanted]], Iterator[Encoded]]
"""Encodes the pieces in any order."""


def in_threads(job: EncodeImages, pieces: Sequence[Wanted], *, threads: int) -> Iterator[Encoded]:
    return map(replace(job, threads=threads).start(), pieces)


def local_encoding(cores: int) -> FeatureEngine:
    return partial(in_threads, threads=cores)


def cluster_encoding(address: str, cores: int) -> FeatureEngine:
    return partial(each, address=address, cores=cores)


def fill_cache(prepared: Prepared, graph: bytes, cache: Path, engine: FeatureEngine) -> FeaturesResult:
    """Encode with `graph` the images of a prepared catalogue that the `cache` of training does not know.

    An image that cannot be read any more is counted and logged. Raises InputError where the images are gone, and what
    the engine raises.
    """
    table = prepared.products().drop_nulls("image")
    wanted: dict[str, str] = dict(table.select("image_sha256", "image").iter_rows()) if prepared.images_path else {}
    features = FeatureCache(cache / "features", graph)
    known = KnownFeatures(features)
    unknown = ((sha256, name) for sha256, name in wanted.items() if sha256 not in known)
    todo = list(iter(lambda: tuple(islice(unknown, SHARD_IMAGES)), ()))
    missing, encoded, broken = sum(map(len, todo)), 0, 0
    if todo and prepared.images_path:
        job = EncodeImages((prepared.folder / prepared.images_path).resolve(), graph)
        done = len(wanted) - missing
        with Progress("encoding images", total=len(wanted), done=done, unit="images") as progress:
            for one in engine(job, todo):
                if one.features:
                    features.save(one.features)
                for error in one.errors:
                    get_logger(__name__).warning("no features of an image", reason=error)
                encoded, broken = encoded + len(one.features), broken + len(one.errors)
                progress.add(one.images)
    return FeaturesResult(len(wanted), len(wanted) - missing, encoded, broken)
