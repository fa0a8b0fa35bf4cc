"""The drift report: what was seen, as figures (JSON), as a page (HTML) and as lines for the terminal.

    drift.json   what `aisle drift --json` prints
    drift.html   the same for people, with plots and the most unusual products of the window: one file, without
                 script, that loads nothing

What merchants wrote is shown as text; an image, where there still is one, as a small re-encoded picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aisle.catalog import ImageTraits, ProductType
from aisle.errors import ImageError
from aisle.files import write_json
from aisle.model.bundle import label_of
from aisle.monitoring.detection import FEWEST_PRODUCTS, Moved
from aisle.monitoring.drift import Look
from aisle.monitoring.drift_plots import feature_plot
from aisle.pages import write_page
from aisle.training.report import thumbnail

JSON_FILE = "drift.json"
HTML_FILE = "drift.html"
EXAMPLES = 8

NAMES = {
    "title_missing": "Title missing",
    "title_length": "Length of the title",
    "title_language": "Language of the title",
    "title_words": "Words of the title",
    "title_unknown_words": "Unknown words in the title",
    "description_missing": "Description missing",
    "description_length": "Length of the description",
    "description_language": "Language of the description",
    "description_words": "Words of the description",
    "description_unknown_words": "Unknown words in the description",
    "image_missing": "Image missing",
    "image_size": "Size of the image",
    "image_shape": "Shape of the image",
    "image_brightness": "Brightness",
    "image_saturation": "Saturation",
    "image_embedding": "Looks of the image",
    "predicted": "Predicted types",
    "confidence": "Confidence",
}
_MEANINGS = {
    "title_length": "characters",
    "description_length": "characters",
    "title_words": "share of titles with a word, of those that are frequent and moved most; each digit is a 0",
    "description_words": "share of descriptions with a word, of those that are frequent and moved most",
    "title_unknown_words": "share of a title's words that no product had that the model learnt from",
    "description_unknown_words": "share of a description's words that no product had that the model learnt from",
    "image_size": "longer side in pixels",
    "image_shape": "width by height",
    "image_brightness": "0 black, 1 white",
    "image_saturation": "0 grey, 1 pure colours",
    "image_embedding": "principal components of what the encoder sees; the two that moved most",
    "confidence": "of the first proposal",
}


@dataclass(frozen=True, slots=True)
class UnusualProduct:
    """A product that is like the window and unlike the reference. `thumbnail` is a data URI, "" without one."""

    key: str
    title: str
    description: str
    guess: ProductType
    confidence: float
    thumbnail: str
    image_note: str


def write_drift_report(folder: Path, seen: Look, *, examples: int = EXAMPLES) -> None:
    """Write both files to `folder`, with at most `examples` products."""
    write_json(folder / JSON_FILE, seen.as_dict())
    write_page(folder / HTML_FILE, "drift_report.html", **_page(seen, examples))


def as_table(seen: Look) -> str:
    """What was seen, as lines: the verdict, every feature, the labels."""
    drift = seen.drift
    lines = [f"model {seen.version}, {drift.window_products:,} products against {drift.reference_products:,}"]
    if drift.too_few:
        return "\n".join([*lines, f"not compared: {drift.too_few}", *_how_good(seen)])
    lines += ["", f"{'feature':<34} {'effect':>6} {'p':>7}"]
    lines += [
        f"{NAMES[one.name]:<34} {one.effect:>6.3f} {one.adjusted_p_value:>7.4f}{'  DRIFT' if one.alarm else ''}"
        for one in _by_effect(seen)
    ]
    verdict = f"drift in {', '.join(NAMES[one.name] for one in seen.alarms)}" if seen.detected else "no drift"
    return "\n".join([*lines, "", verdict, *_how_good(seen)])


def _how_good(seen: Look) -> Iterator[str]:
    if seen.estimate is not None:
        one = seen.estimate
        yield f"estimated accuracy, by confidence: {one.value:.1%} ({one.low:.1%} to {one.high:.1%})"
    if seen.labelled is not None:
        one, labels = seen.labelled.accuracy, sum(seen.labelled.labels.values())
        yield f"accuracy by {labels:,} labels: {one.value:.1%} ({one.low:.1%} to {one.high:.1%})"
    if seen.measured is not None:
        yield f"accuracy when it was trained: {seen.measured:.1%}"


def _by_effect(seen: Look) -> list[Moved]:
    """Alarms first."""
    return sorted(seen.drift.features, key=lambda one: (not one.alarm, -one.effect))


def _page(seen: Look, examples: int) -> dict[str, Any]:
    features = _by_effect(seen)
    plots = [
        (one, NAMES[one.name], _MEANINGS.get(one.name, ""), plot)
        for one in features
        if (plot := feature_plot(one.name, seen.reference, seen.observed, seen.types)) is not None
    ]
    return {
        "seen": seen,
        "drift": seen.drift,
        "names": NAMES,
        "features": features,
        "plots": plots,
        "products": list(_unusual_products(seen, examples)),
        "fewest": FEWEST_PRODUCTS,
    }


def _unusual_products(seen: Look, examples: int) -> Iterator[UnusualProduct]:
    """The most unusual first; of products that read the same one."""
    shown: set[tuple[str, str]] = set()
    for row in np.argsort(-seen.drift.unusual, kind="stable").tolist():
        product, example = seen.window.products[row], seen.window.examples[row]
        if len(shown) == examples or (product.title, product.description) in shown:
            continue
        shown.add((product.title, product.description))
        picture, note = _picture(example.image, product.traits, has_image=product.has_image)
        yield UnusualProduct(
            key=example.key,
            title=product.title,
            description=product.description,
            guess=label_of(seen.types, product.predicted),
            confidence=product.confidence,
            thumbnail=picture,
            image_note=note,
        )


def _picture(read: Any, traits: ImageTraits | None, *, has_image: bool) -> tuple[str, str]:
    """A thumbnail, or what is known of an image that was not kept."""
    if read is not None and has_image:
        try:
            return thumbnail(read())
        except ImageError as error:
            return "", f"image not shown ({error.reason})"
    if traits is None:
        return "", "image not kept" if has_image else "no image"
    return "", f"image of {traits.width} x {traits.height}, not kept"
