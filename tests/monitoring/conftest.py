"""Observations of products that do not exist: what a test of drift compares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aisle.model.reference import Axes, Observations, Reference, Words

WORDS = tuple(f"word{place}" for place in range(60))
TYPES = ("10", "40", "60", "1280", "2583")
COMPONENTS = 4


def observations(n: int, seed: int, **changed: Any) -> Observations:
    """n products of one shop; `changed` replaces columns by name."""
    chance = np.random.default_rng(seed)
    has_image = chance.random(n) < 0.9
    described = chance.random(n) < 0.65
    kind = chance.choice(len(TYPES), n, p=(0.1, 0.15, 0.15, 0.25, 0.35))
    often = 1 / np.arange(2, 2 + len(WORDS))

    def where(there: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.where(there, values, np.nan).astype(np.float32)

    columns: dict[str, Any] = {
        "title_length": chance.lognormal(4, 0.4, n).round().astype(np.float32),
        "description_length": where(described, chance.lognormal(6, 0.8, n).round()),
        "title_unknown": chance.beta(1, 8, n).astype(np.float32),
        "description_unknown": where(described, chance.beta(1, 8, n)),
        "has_image": has_image.astype(np.float32),
        "width": where(has_image, np.full(n, 500.0)),
        "height": where(has_image, np.full(n, 500.0)),
        "brightness": where(has_image, chance.beta(6, 2, n)),
        "saturation": where(has_image, chance.beta(2, 6, n)),
        "confidence": chance.beta(6, 1, n).astype(np.float32),
        "title_language": chance.choice(["fr", "en", "unclear"], n, p=(0.7, 0.1, 0.2)).tolist(),
        "description_language": np.where(described, "fr", "").tolist(),
        "predicted": [TYPES[one] for one in kind],
        "title": chance.random((n, len(WORDS))) < often,
        "description": (chance.random((n, len(WORDS))) < often) & described[:, None],
        "components": where(has_image[:, None], chance.normal(size=(n, COMPONENTS)) + kind[:, None]),
    } | changed
    names = ("title_language", "description_language", "predicted")
    words = ("title", "description")
    return Observations(
        numbers={name: one for name, one in columns.items() if name not in (*names, *words, "components")},
        names={name: tuple(columns[name]) for name in names},
        words={field: columns[field] for field in words},
        components=columns["components"],
    )


def reference_of(rows: Observations, *, with_images: bool = True) -> Reference:
    """A reference that holds these rows; nine of ten were predicted rightly."""
    axes = Axes(np.zeros(8, np.float32), np.eye(8, COMPONENTS, dtype=np.float32)) if with_images else None
    known = np.arange(10, dtype=np.uint32)
    right = np.arange(len(rows)) % 10 > 0
    return Reference(rows, right, {field: Words(WORDS, known) for field in ("title", "description")}, axes)


@pytest.fixture(scope="session")
def reference() -> Reference:
    """1,000 products."""
    return reference_of(observations(1_000, seed=0))
