"""The neighbours that go into a bundle: the products that its models were fitted and calibrated on."""

from __future__ import annotations

from collections import Counter

import numpy as np

from aisle.data.split import Side
from aisle.model.neighbours import Neighbours, scaled
from aisle.model.ngrams import NGrams, rows_of
from aisle.model.reference import Axes
from aisle.model.text import fold
from aisle.training.examples import Examples
from aisle.training.recipes import STOP_WORDS

COMPONENTS = 64
ROWS_FOR_AXES = 2_000
MOST_CHARACTERS = 200
"""Of a title: what is kept is for people."""


def build_neighbours(examples: Examples, graph: bytes | None, seed: int) -> Neighbours:
    """A product without a title has its description for one."""
    sides = (Side.TRAIN, Side.VALIDATION)
    rows = examples.rows(*sides, graph=graph)
    titles = [title or text for title, text in zip(rows.inputs.titles, rows.inputs.descriptions, strict=True)]
    folded = [fold(title, frozenset(STOP_WORDS)) for title in titles]
    words = _words(folded)
    axes = None
    images = np.zeros((len(rows), COMPONENTS), dtype=np.float32)
    there = [(place, one) for place, one in enumerate(rows.inputs.features) if one is not None]
    if there:
        seen, features = [place for place, _ in there], np.stack([one for _, one in there])
        chosen = np.sort(np.random.default_rng(seed).permutation(len(seen))[:ROWS_FOR_AXES])
        axes = Axes.of(features[chosen], COMPONENTS, seed)
        images = np.zeros((len(rows), axes.axes.shape[1]), dtype=np.float32)
        images[seen] = scaled(axes.of_rows(features))
    return Neighbours(
        keys=examples.keys(*sides),
        titles=[title[:MOST_CHARACTERS] for title in titles],
        codes=[examples.codes[target] for target in rows.targets],
        stop_words=STOP_WORDS,
        words=words,
        texts=rows_of(folded, [words]),
        axes=axes,
        images=images,
    )


def _words(texts: list[str]) -> NGrams:
    """As scikit-learn's TfidfVectorizer weighs them."""
    counts = Counter(word for text in texts for word in set(text.split()))
    words = sorted(counts)
    idf = np.log((1 + len(texts)) / (1 + np.array([counts[word] for word in words], dtype=np.float64))) + 1
    return NGrams("words", (1, 1), {word: at for at, word in enumerate(words)}, idf.astype(np.float32))
