"""Image features, computed once and kept: by content, decoder and encoder.

The cache is a folder of shards, `<encoder>/<name>.safetensors`, each whole or absent, with the hashes and the
features of a few hundred images. A run that is killed loses at most the shard it was filling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from aisle import inputs
from aisle.data.images import Images, map_bounded
from aisle.errors import ImageError
from aisle.files import TEMPORARY_PREFIX, sha256_bytes, sha256_json, sources_hash, write_bytes
from aisle.logs import get_logger
from aisle.model.image import Features
from aisle.progress import Progress

SHARD_IMAGES = 256
SHARDS_IN_MEMORY = 64


class FeatureCache:
    """The features known for one encoder, on disk under `folder`."""

    def __init__(self, folder: Path, encoder_graph: bytes) -> None:
        decoder = [sources_hash(inputs), *(version(name) for name in ("pillow", "simplejpeg"))]
        self._folder = folder / sha256_json([sha256_bytes(encoder_graph), decoder])[:16]

    def load(self, wanted: Iterable[str]) -> dict[str, Features]:
        """The cached features of the images with these content hashes; a damaged shard counts as absent."""
        missing = set(wanted)
        found: dict[str, Features] = {}
        for path in self.shards():
            shard = _read_shard(path)
            found.update({sha256: features for sha256, features in shard if sha256 in missing})
        return found

    def shards(self) -> list[Path]:
        """Without those that are being written, or were left by a run that was killed."""
        paths = sorted(self._folder.glob("*.safetensors"))
        return [path for path in paths if not path.name.startswith(TEMPORARY_PREFIX)]

    def save(self, features: Mapping[str, Features]) -> None:
        hashes = np.frombuffer(bytes.fromhex("".join(features)), np.uint8).reshape(-1, 32)
        content = save({"sha256": hashes, "features": np.stack(list(features.values()))})
        write_bytes(self._folder / f"{sha256_bytes(hashes.tobytes())[:16]}.safetensors", content)


class KnownFeatures:
    """What a cache knows, asked for one image after the other: only the shards asked last are in memory.

    Not for several threads at once.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self._shard_of: dict[str, tuple[Path, int]] = {}
        for path in cache.shards():
            hashes = _read(path, "sha256")
            if hashes is not None:
                self._shard_of |= {one.tobytes().hex(): (path, row) for row, one in enumerate(hashes)}
        self._features = lru_cache(maxsize=SHARDS_IN_MEMORY)(partial(_read, name="features"))

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._shard_of

    def get(self, sha256: str) -> Features | None:
        """The features of the image with this content hash, None where they have to be computed."""
        found = self._shard_of.get(sha256)
        if found is None:
            return None
        path, row = found
        shard = self._features(path)
        return None if shard is None else shard[row]


def compute_features(
    images: Images,
    encoder: Callable[[bytes], Features],
    wanted: Mapping[str, str],
    cache: FeatureCache,
    *,
    threads: int,
) -> dict[str, Features]:
    """The features of each image in `wanted` (content hash → image name), from the cache or computed now.

    Raises ImageError when an image changed or vanished since the catalogue was validated.
    """
    found = cache.load(wanted)
    todo = {sha256: stem for sha256, stem in wanted.items() if sha256 not in found}
    if not todo:
        return found
    get_logger(__name__).info("encoding images", cached=len(found), to_encode=len(todo))
    shard: dict[str, Features] = {}
    encode = partial(encode_image, images, encoder)
    with Progress("encoding images", total=len(wanted), done=len(found), unit="images") as progress:
        for sha256, features in zip(todo, map_bounded(encode, todo.items(), threads=threads), strict=True):
            shard[sha256] = features
            progress.add()
            if len(shard) == SHARD_IMAGES:
                cache.save(shard)
                found |= shard
                shard = {}
    if shard:
        cache.save(shard)
    return found | shard


def encode_image(images: Images, encoder: Callable[[bytes], Features], wanted: tuple[str, str]) -> Features:
    """The features of the image with this content hash and name.

    Raises ImageError when it changed or vanished since the catalogue was validated.
    """
    sha256, stem = wanted
    content = images.read(stem)
    if sha256_bytes(content) != sha256:
        raise ImageError(
            "the image is another one than when the catalogue was validated",
            reason="changed",
            where=stem,
            hint="Run `aisle validate` and `aisle prepare` again.",
        )
    return encoder(content)


def _read(path: Path, name: str) -> NDArray[Any] | None:
    """One array of a shard; None where the shard is damaged, or gone."""
    try:
        with safe_open(path, "numpy") as shard:
            array: NDArray[Any] = shard.get_tensor(name)
    except (SafetensorError, OSError) as error:
        get_logger(__name__).warning("damaged shard of image features ignored", path=str(path), reason=str(error))
        return None
    return array


def _read_shard(path: Path) -> Iterator[tuple[str, Features]]:
    try:
        content: dict[str, NDArray[np.float32]] = load_file(path)
        hashes, features = content["sha256"], content["features"]
    except (SafetensorError, OSError, KeyError) as error:
        get_logger(__name__).warning("damaged shard of image features ignored", path=str(path), reason=str(error))
        return
    for row, sha256 in enumerate(hashes):
        yield sha256.tobytes().hex(), features[row]
