"""The features of images for bulk work: computed once, and shared by all bundles that have the same encoder."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aisle.catalog import Product
from aisle.errors import ImageError
from aisle.files import sha256_bytes
from aisle.model.image import Features, ImageEncoder
from aisle.model.predictor import Seen
from aisle.training.features import SHARD_IMAGES, FeatureCache, KnownFeatures


class Eyes:
    """One encoder, with what the cache of training knows already; what is computed here is kept there, too.

    Several threads may call it.
    """

    def __init__(self, graph: bytes, cache: Path, *, threads: int) -> None:
        self._encoder = ImageEncoder(graph)
        self._cache = FeatureCache(cache / "features", graph)
        self._known = KnownFeatures(self._cache)
        self._new: dict[str, Features] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    def look_at(self, products: Sequence[Product]) -> list[Seen]:
        return list(self._pool.map(self._seen, (product.image for product in products)))

    def close(self) -> None:
        """Keep what is not kept yet."""
        self._pool.shutdown()
        if self._new:
            self._cache.save(self._new)

    def __enter__(self) -> Eyes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _seen(self, image: bytes | None) -> Seen:
        if image is None:
            return None
        sha256 = sha256_bytes(image)
        with self._lock:
            known = self._known.get(sha256)
            found = self._new.get(sha256) if known is None else known
        if found is not None:
            return found
        try:
            features = self._encoder(image)
        except ImageError as error:
            return error
        self._keep(sha256, features)
        return features

    def _keep(self, sha256: str, features: Features) -> None:
        full: dict[str, Features] = {}
        with self._lock:
            self._new[sha256] = features
            if len(self._new) >= SHARD_IMAGES:
                full, self._new = self._new, {}
        if full:
            self._cache.save(full)
