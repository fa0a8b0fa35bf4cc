"""What a bundle says of a few fixed products: computed when it is written, checked when it is to serve.

A bundle whose sums fit may still answer wrongly: on a processor or with a library on which the encoder computes
something else, or because whoever made it made it wrong. The check also warms the models up.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from aisle.catalog import Product
from aisle.errors import BundleError
from aisle.files import sha256_json
from aisle.inputs.text import clean
from aisle.model.bundle import KNOWN_ANSWER_FILE, Bundle, refused_if_malformed
from aisle.model.calibration import Array
from aisle.model.classifier import Classifier, Inputs
from aisle.model.image import ImageEncoder
from aisle.model.predictor import Observe, Predictor

TOLERANCE = 1e-3
"""In probability. Another processor's arithmetic differs by less; another model does not."""

_IMAGE = (  # 16 x 16 pixels of a colour gradient: a constant, so that it is the same bytes on every machine
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6j"
    "q62rZ4C8ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSk"
    "pKSkpKSkpKT/wAARCAAQABADASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAABAX/xAAXEAADAQAAAAAAAAAAAAAAAAAAAwRh"
    "/8QAFAEBAAAAAAAAAAAAAAAAAAAAAP/EABYRAAMAAAAAAAAAAAAAAAAAAAACBP/aAAwDAQACEQMRAD8AlJmwambBaZsHJmwKwmpP"
    "/9k="
)
_PRODUCTS = {
    "title": Product("Piscine gonflable ronde 3 m"),
    "title and description": Product("Livre ancien relié", "Édition de 1920, couverture en cuir."),
    "image": Product("", "", base64.b64decode(_IMAGE)),
    "all": Product("Coussin décoratif 40x40", "Housse en coton, lavable à 30 °C.", base64.b64decode(_IMAGE)),
}


def known_answer(classifier: Classifier, encoder: ImageEncoder | None) -> dict[str, Any]:
    """The probabilities of each product, or None where no model can look at it."""
    products = _PRODUCTS.values()
    inputs = Inputs(
        [clean(product.title) for product in products],
        [clean(product.description) for product in products],
        [encoder(product.image) if encoder and product.image else None for product in products],
    )
    answers = classifier.probabilities(inputs)
    return {
        "products": _hash_of_products(),
        "probabilities": {
            name: [round(float(one), 6) for one in row] if np.isfinite(row).all() else None
            for name, row in zip(_PRODUCTS, answers, strict=True)
        },
    }


def load_checked(path: Path, *, threads: int = 0, observe: Observe = lambda *_: None) -> Predictor:
    """A predictor that may serve: warmed up, and it gave its known answer. Raises BundleError for any other."""
    predictor = Predictor(Bundle.load(path), threads=threads, observe=observe)
    try:
        check_known_answer(predictor)
    except BaseException:
        predictor.close()
        raise
    return predictor


def check_known_answer(predictor: Predictor) -> None:
    """Raises BundleError when a loaded bundle does not answer as it did when it was written."""
    bundle = predictor.bundle
    known = bundle.json(KNOWN_ANSWER_FILE)
    if known.get("products") != _hash_of_products():
        raise BundleError(
            f"{KNOWN_ANSWER_FILE} is about other products than this aisle asks for",
            where=bundle.path,
            hint="Train again with this version.",
        )
    with refused_if_malformed(bundle.path):
        inputs, _ = predictor.inputs(list(_PRODUCTS.values()))
        answers = predictor.classifier.probabilities(inputs)
        for name, row in zip(_PRODUCTS, answers, strict=True):
            if not _agree(row, known["probabilities"][name]):
                raise BundleError(
                    f"it does not give its known answer for the product {name!r}",
                    where=bundle.path,
                    hint="Bundle or libraries are broken: train again, or install what the lock names.",
                )


def _agree(answer: Array, known: object) -> bool:
    if known is None:
        return bool(np.isnan(answer).all())
    expected = np.asarray(known, dtype=np.float64)
    return expected.shape == answer.shape and bool((np.abs(expected - answer) <= TOLERANCE).all())  # NaN is neither


def _hash_of_products() -> str:
    return sha256_json([[one.title, one.description, bool(one.image)] for one in _PRODUCTS.values()] + [_IMAGE])
