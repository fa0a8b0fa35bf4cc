"""What every contender serves: one bundle by one predictor, and the same answer."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aisle.catalog import Prediction, Product
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor

BUNDLE = "RIVALS_BUNDLE"
"""The variable that names the folder of the bundle."""
AT_ONCE = 16
"""The most products of a batch, where a contender makes any: what aisle's own BATCH_SIZE is."""


class Model:
    """The bundle, on one core."""

    def __init__(self) -> None:
        self._predictor = Predictor(Bundle.load(Path(os.environ[BUNDLE])), threads=1)

    def say(self, products: Sequence[Product]) -> list[dict[str, Any]]:
        return [_answer(one) for one in self._predictor.predict(products)]


def product(form: dict[str, str]) -> Product:
    """Of what was sent as JSON."""
    return Product(form["designation"], "", base64.b64decode(form["image"]))


def _answer(outcome: object) -> dict[str, Any]:
    assert isinstance(outcome, Prediction), outcome
    first = outcome.candidates[0]
    return {
        "predicted": first.type.code,
        "label": first.type.label,
        "confidence": first.confidence,
        "decision": outcome.decision.value,
        "predictions": [
            {"prediction": one.type.code, "label": one.type.label, "confidence": one.confidence}
            for one in outcome.candidates
        ],
        "model": outcome.model_version,
    }
