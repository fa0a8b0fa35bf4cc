"""The evaluation report: how good a bundle is, as figures (JSON) and as a page (HTML).

    evaluation.json   the figures, the bundle's version and the confusion matrix
    evaluation.html   the same for people, with the products on which the model is wrong: one file, without
                      script, that loads nothing

Titles, descriptions and images come from merchants: the page shows them as text and as small re-encoded pictures.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from aisle.catalog import Product, ProductType, ProductTypes
from aisle.errors import ImageError
from aisle.files import write_json
from aisle.inputs.image import Pixels, decode
from aisle.model.bundle import label_of
from aisle.model.calibration import Array
from aisle.model.explain import Explanation
from aisle.pages import write_page
from aisle.training.evaluate import Evaluation, reliability
from aisle.training.plots import Matrix, confusion_plot, coverage_plot, reliability_plot
from aisle.training.terminal import HEADLINES, UNKNOWN, UNKNOWN_LABEL, by_f1

JSON_FILE = "evaluation.json"
HTML_FILE = "evaluation.html"

WORST_TYPES = 5
FEWEST_ROWS = 5
"""The F1 of a type with fewer products says little."""
CONFUSIONS = 10
THUMBNAIL = 112
REASONS = 3
HEAT = np.array([232, 108, 20])
HEAT_AT_MOST = 0.75
SMALLEST_HEAT = 1e-3
"""Where no part of the image matters, none is shown as if it did."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A product that the model put into the wrong type. `thumbnail` is a data URI, "" without one."""

    key: str
    product: Product
    true_type: ProductType
    known: bool
    guess: ProductType
    confidence: float
    thumbnail: str
    image_note: str
    reasons: Reasons | None


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why the model guessed as it did: words that spoke for it, each model's share of what was said, products like it
    that were learnt from, and the image (a data URI, "" without one) with the parts that spoke for it."""

    words: Sequence[str]
    shares: Mapping[str, float]
    neighbours: Sequence[tuple[str, ProductType]]
    heat: str


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many products of one type the model put into another, and their share of the true type's products."""

    true_type: ProductType
    known: bool
    guess: ProductType
    rows: int
    share: float


Explain = Callable[[Product], Explanation]


def write_evaluation_report(
    folder: Path, evaluation: Evaluation, *, examples: int = 3, explain: Explain | None = None
) -> None:
    """Write both reports to `folder`, with at most `examples` mistakes for each of the worst types, and why they were
    made where `explain` says so.

    An evaluation without rows gives a page that says so.
    """
    write_json(folder / JSON_FILE, _as_json(evaluation))
    write_page(folder / HTML_FILE, "evaluation_report.html", **_page(evaluation, examples, explain))


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    unknown = [code for code, target in _truths(evaluation) if target < 0]
    return {
        "model_version": evaluation.model_version,
        "figures": evaluation.figures,
        "confusion": {"codes": list(evaluation.codes), "counts": _confusion(evaluation).tolist()},
        "unknown_types": dict(Counter(unknown)),
    }


def _page(evaluation: Evaluation, examples: int, explain: Explain | None) -> dict[str, Any]:
    figures = evaluation.figures
    context = {"figures": figures, "model_version": evaluation.model_version, "rows": len(evaluation.targets)}
    if not len(evaluation.targets):
        return context
    unknown = Counter(code for code, target in _truths(evaluation) if target < 0)
    return {
        **context,
        "headlines": [(one, one.shown(figures[one.key])) for one in HEADLINES if one.key in figures],
        "per_type": [(*_named(evaluation, code), one) for code, one in by_f1(figures)],
        "unknown": [(label_of(evaluation.types, code), rows) for code, rows in unknown.most_common()],
        "confusion_plot": _confusion_plot(evaluation),
        "reliability_plot": reliability_plot(evaluation.probabilities, evaluation.targets),
        "bin_rows": [rows for _, _, rows in reliability(evaluation.probabilities, evaluation.targets)],
        "coverage_plot": coverage_plot(evaluation.probabilities, evaluation.targets),
        "worst": list(_worst_types(evaluation, examples, explain)),
        "fewest_rows": FEWEST_ROWS,
        "confusions": _confusions(evaluation),
    }


def _truths(evaluation: Evaluation) -> Iterator[tuple[str, int]]:
    return zip(evaluation.true_codes, evaluation.targets.tolist(), strict=True)


def _named(evaluation: Evaluation, code: str) -> tuple[ProductType, bool]:
    """The type of a line of `per_type`, and whether the model knows it."""
    if code in evaluation.codes:
        return label_of(evaluation.types, code), True
    label = UNKNOWN_LABEL if code == UNKNOWN else code
    return ProductType(label, label), False


def _confusion(evaluation: Evaluation) -> Matrix:
    """Types that the model knows, true x predicted."""
    known = evaluation.targets >= 0
    size = len(evaluation.codes)
    cells = evaluation.targets[known] * size + evaluation.probabilities[known].argmax(axis=1)
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def _confusion_plot(evaluation: Evaluation) -> Markup:
    """Only types that occur, and one more row for the products of types that the model does not know."""
    counts, codes = _confusion(evaluation), list(evaluation.codes)
    strange = evaluation.probabilities[evaluation.targets < 0].argmax(axis=1)
    rows = codes
    if len(strange):
        counts = np.vstack([counts, np.bincount(strange, minlength=len(codes))])
        rows = [*codes, UNKNOWN]
    columns = np.flatnonzero(counts.any(axis=0) | counts[: len(codes)].any(axis=1))
    kept = [*columns, *range(len(codes), len(rows))]
    return confusion_plot(
        counts[np.ix_(kept, columns)], [rows[row] for row in kept], [codes[column] for column in columns]
    )


def _confusions(evaluation: Evaluation) -> list[Confusion]:
    guesses = evaluation.probabilities.argmax(axis=1).tolist()
    pairs = Counter(
        (code, target, guess)
        for (code, target), guess in zip(_truths(evaluation), guesses, strict=True)
        if target != guess
    )
    totals = Counter(evaluation.true_codes)
    return [
        Confusion(
            true_type=label_of(evaluation.types, code),
            known=target >= 0,
            guess=label_of(evaluation.types, evaluation.codes[guess]),
            rows=rows,
            share=rows / totals[code],
        )
        for (code, target, guess), rows in pairs.most_common(CONFUSIONS)
    ]


def _worst_types(
    evaluation: Evaluation, examples: int, explain: Explain | None
) -> Iterator[tuple[ProductType, Mapping[str, Any], list[Mistake]]]:
    """The known types with the lowest F1, with their mistakes."""
    column = {code: position for position, code in enumerate(evaluation.codes)}
    candidates = [
        (code, one)
        for code, one in by_f1(evaluation.figures)
        if code in column and one["rows"] >= FEWEST_ROWS and one["f1"] < 1
    ]
    for code, one in candidates[:WORST_TYPES]:
        rows = _mistaken_rows(evaluation, column[code])[:examples]
        yield label_of(evaluation.types, code), one, [_mistake(evaluation, row, explain) for row in rows]


def _mistaken_rows(evaluation: Evaluation, column: int) -> list[int]:
    """Products of the type that went elsewhere, then those that came in wrongly; the surest mistakes first."""
    guesses = evaluation.probabilities.argmax(axis=1)
    confidence = evaluation.probabilities.max(axis=1)
    missed = evaluation.targets == column
    wrong = np.flatnonzero((guesses != evaluation.targets) & (missed | (guesses == column)))
    order = np.lexsort((-confidence[wrong], ~missed[wrong]))
    return [int(row) for row in wrong[order]]


def _mistake(evaluation: Evaluation, row: int, explain: Explain | None) -> Mistake:
    probabilities = evaluation.probabilities[row]
    guess = int(probabilities.argmax())
    product = evaluation.products[row]
    shown, note = thumbnail(product.image)
    return Mistake(
        key=evaluation.keys[row],
        product=product,
        true_type=label_of(evaluation.types, evaluation.true_codes[row]),
        known=bool(evaluation.targets[row] >= 0),
        guess=label_of(evaluation.types, evaluation.codes[guess]),
        confidence=float(probabilities[guess]),
        thumbnail=shown,
        image_note=note,
        reasons=None if explain is None else _reasons(explain(product), product, evaluation.types),
    )


def _reasons(found: Explanation, product: Product, types: ProductTypes) -> Reasons:
    words = sorted((one for said in found.words.values() for one in said), key=lambda one: -one.weight)
    total = sum(map(abs, found.weights.values())) or 1.0
    return Reasons(
        words=[one.text for one in words[:REASONS] if one.weight > 0],
        shares={name: abs(weight) / total for name, weight in found.weights.items()},
        neighbours=[(one.title, label_of(types, one.code)) for one in found.neighbours[:REASONS]],
        heat="" if found.heat_map is None or product.image is None else _heat(product.image, found.heat_map),
    )


def _heat(image: bytes, heat_map: Array) -> str:
    """The image, in grey but for the parts that spoke for the type: the more, the more orange."""
    grey = decode(image, THUMBNAIL).mean(axis=2, keepdims=True)
    places = np.arange(THUMBNAIL) * len(heat_map) // THUMBNAIL
    weight = np.maximum(heat_map, 0)[np.ix_(places, places)][..., np.newaxis]
    share = HEAT_AT_MOST * weight / max(float(weight.max()), SMALLEST_HEAT)
    return _data_uri(np.round(grey * (1 - share) + HEAT * share).astype(np.uint8))


def thumbnail(image: bytes | None) -> tuple[str, str]:
    """A data URI of the decoded and newly encoded image, never of the merchant's bytes; else why there is none."""
    if image is None:
        return "", "no image"
    try:
        pixels = decode(image, THUMBNAIL)
    except ImageError as error:
        return "", f"image not shown ({error.reason})"
    return _data_uri(pixels), ""


def _data_uri(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"
