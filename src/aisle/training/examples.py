"""The labelled products of a prepared catalogue as models look at them: clean texts, image features, columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from aisle.data.images import Images
from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.files import sha256_bytes
from aisle.model.calibration import Array
from aisle.model.classifier import DESCRIPTION, IMAGE, TITLE, Inputs
from aisle.model.image import Features, ImageEncoder
from aisle.training.features import FeatureCache, compute_features

T = TypeVar("T")

ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled products after the one way in. `targets` are columns of n x types arrays.

    `wanted`, n x types, is what a model is to say of them where a teacher had its say; else it is the label.
    """

    inputs: Inputs
    targets: NDArray[np.intp]
    weights: Array
    wanted: Array | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: NDArray[np.intp]) -> Rows:
        def pick(values: Sequence[Any]) -> list[Any]:
            return [values[row] for row in rows]

        inputs = self.inputs
        picked = Inputs(pick(inputs.titles), pick(inputs.descriptions), pick(inputs.features))
        return Rows(picked, self.targets[rows], self.weights[rows], self.wanted_at(rows))

    def wanted_at(self, rows: NDArray[np.intp]) -> Array | None:
        return None if self.wanted is None else self.wanted[rows]

    def looked_at_by(self, fields: frozenset[str]) -> Rows:
        """The same products with these fields alone."""
        n, inputs = len(self), self.inputs
        titles = inputs.titles if TITLE in fields else [""] * n
        descriptions = inputs.descriptions if DESCRIPTION in fields else [""] * n
        features = inputs.features if IMAGE in fields else [None] * n
        return Rows(Inputs(titles, descriptions, features), self.targets, self.weights, self.wanted)


def in_parts(say: Callable[[Rows], T], rows: Rows, threads: int) -> list[T]:
    """What is said of the rows, part after part, on several threads: of a row it is the same in whichever part."""
    parts = np.array_split(np.arange(len(rows)), max(1, len(rows) // ROWS_AT_ONCE) if threads > 1 else 1)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda part: say(rows.at(part)), parts))


@dataclass
class Examples:
    """`codes` are the types with a product, in the order of every n x types array. Features are cached on disk."""

    prepared: Prepared
    cache: Path
    threads: int
    table: pl.DataFrame = field(init=False)
    codes: tuple[str, ...] = field(init=False)
    image_count: int = field(init=False)
    _encoded: dict[str, dict[str, Features]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.table = self.prepared.products()
        self.image_count = self.prepared.image_count()
        self.codes = tuple(code for code in self.prepared.types() if code in set(self.table["type_code"]))

    def encode(self, graph: bytes, *sides: Side) -> None:
        """Compute the features of these sides' images (all, if none is named), or take them from the cache."""
        table = self._of(*sides).drop_nulls("image")
        known = self._encoded.setdefault(sha256_bytes(graph), {})
        wanted = {
            sha256: stem for sha256, stem in table.select("image_sha256", "image").iter_rows() if sha256 not in known
        }
        if wanted and self._images is not None:
            cache = FeatureCache(self.cache / "features", graph)
            known |= compute_features(self._images, ImageEncoder(graph), wanted, cache, threads=self.threads)

    def know(self, graph: bytes, features: Mapping[str, Features]) -> None:
        """Features by content hash that something faster computed; the cache, which others read, has the graph's."""
        self._encoded.setdefault(sha256_bytes(graph), {}).update(features)

    def rows(self, *sides: Side, graph: bytes | None) -> Rows:
        """The products of these sides, in the catalogue's order; without a graph no image is looked at."""
        table = self._of(*sides)
        features: list[Features | None] = [None] * len(table)
        if graph is not None:
            self.encode(graph, *sides)
            known = self._encoded[sha256_bytes(graph)]
            features = [known[sha256] if sha256 else None for sha256 in table["image_sha256"]]
        column = {code: index for index, code in enumerate(self.codes)}
        return Rows(
            Inputs(table["title"].to_list(), table["description"].to_list(), features),
            np.array([column[code] for code in table["type_code"]], dtype=np.intp),
            table["weight"].to_numpy().astype(np.float64),
        )

    def where(self, kept: pl.Expr) -> Examples:
        """The same catalogue with some of its products alone, and all its types."""
        fewer = copy(self)
        fewer.table = self.table.filter(kept)
        return fewer

    def keys(self, *sides: Side) -> list[str]:
        """The key of each product of these sides, in the order of `rows`."""
        return self._of(*sides)["key"].to_list()

    def image_names(self, *sides: Side) -> list[str | None]:
        """The image of each product of these sides, in the order of `rows`; None where there is none."""
        return self._of(*sides)["image"].to_list()

    def image(self, name: str) -> bytes:
        if self._images is None:
            raise LookupError("a catalogue without images has none to read")
        return self._images.read(name)

    @cached_property
    def _images(self) -> Images | None:
        """Opened once: to list the 85,000 files of a catalogue's zip takes a second."""
        return self.prepared.images()

    def _of(self, *sides: Side) -> pl.DataFrame:
        return self.table.filter(pl.col("side").is_in([side.value for side in sides])) if sides else self.table
