"""Two models side by side on the labelled products of a catalogue: what the catalogue says, and who is right.

Figures are of the test side alone, from which a model does not learn that was trained on this catalogue as it is, and
of products whose type the earlier model can know. Of a model that was trained on another state of it, or elsewhere,
it is said that it may have learnt some of them. Answers are followed to the types of today.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from aisle.catalog import Prediction, ProductTypes
from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import InputError
from aisle.model.bundle import LINEAGE_FILE, Bundle, label_of
from aisle.model.calibration import calibration_error
from aisle.model.predictor import Outcome, Predictor
from aisle.training.evaluate import paired_gain

COLUMNS = ("label", "label_name", "side")
"""What the list of changes says besides: the catalogue's own type of a product, empty without one, and its side."""
DIGITS = 6
TOP = 3


@dataclass(frozen=True, slots=True)
class _Answer:
    """`top` are the likeliest types, of today; empty where there was nothing to look at."""

    top: tuple[str | None, ...] = ()
    confidence: float = 0.0

    @property
    def code(self) -> str:
        return (self.top[0] or "") if self.top else ""


class Measuring:
    """Takes what the `old` and the `new` model say of each product, and says how good they are."""

    def __init__(self, prepared: Prepared, old: Predictor, new: Predictor) -> None:
        self._prepared = prepared
        self._elsewhere = {"before": self._learnt_elsewhere(old.bundle), "after": self._learnt_elsewhere(new.bundle)}
        self._types = ProductTypes({**new.bundle.types(), **prepared.types()}.values())
        self._changes = prepared.changes().then(new.bundle.changes())
        self._known_before = {self._changes.now(code) for code in old.classifier.codes}
        table = prepared.products().select("key", "type_code", "side")
        self._labels = {key: (self._changes.now(code) or "", str(side)) for key, code, side in table.iter_rows()}
        self._true: list[str] = []
        self._answers: list[tuple[_Answer, _Answer]] = []
        self._added: Counter[str] = Counter()

    def cells(self, key: str, part: str) -> tuple[str, str, str]:
        """The `COLUMNS` of a product."""
        code, side = self._label(key, part)
        return code, label_of(self._types, code).label if code else "", side

    def add(self, key: str, part: str, before: Outcome, after: Outcome) -> None:
        code, side = self._label(key, part)
        if (
            not code
            or side != Side.TEST.value
            or not (isinstance(before, Prediction) or isinstance(after, Prediction))
        ):
            return
        if code not in self._known_before:
            self._added[code] += 1
            return
        self._true.append(code)
        self._answers.append((self._answer(before), self._answer(after)))

    def figures(self) -> dict[str, Any]:
        """Of both, in the shape of a bundle's metrics; `gain` is in points of weighted F1, with its 95 % interval.

        `added` counts products of types that the earlier model cannot know. `learnt_elsewhere`: whether a model is of
        another catalogue than this; None where its lineage does not say. Raises InputError without a product.
        """
        if not self._true:
            raise InputError("has no product on its test side to measure on", where=self._prepared.folder)
        codes, true = np.unique(self._true, return_inverse=True)
        before, after = zip(*self._answers, strict=True)
        column = {code: number for number, code in enumerate(codes.tolist())}
        guesses = [np.array([column.get(one.code, -1) for one in answers]) for answers in (before, after)]
        gain, interval = paired_gain(true, *guesses)
        return {
            "data_hash": self._prepared.data_hash,
            "learnt_elsewhere": self._elsewhere,
            "rows": len(true),
            "added": dict(sorted(self._added.items())),
            "before": self._measured(true, guesses[0], before, codes.tolist()),
            "after": self._measured(true, guesses[1], after, codes.tolist()),
            "gain": round(gain, 4),
            "interval": [round(one, 4) for one in interval],
            "types": {code: label_of(self._types, code).label for code in column},
        }

    def _learnt_elsewhere(self, bundle: Bundle) -> bool | None:
        learnt = bundle.json(LINEAGE_FILE).get("data_hash")
        return learnt != self._prepared.data_hash if learnt else None

    def _label(self, key: str, part: str) -> tuple[str, str]:
        return self._labels.get(key, ("", "")) if part == "train" else ("", "")

    def _answer(self, outcome: Outcome) -> _Answer:
        if not isinstance(outcome, Prediction):
            return _Answer()
        top = tuple(self._changes.now(one.type.code) for one in outcome.candidates[:TOP])
        return _Answer(top, outcome.confidence)

    def _measured(
        self,
        true: NDArray[np.intp],
        guesses: NDArray[np.intp],
        answers: Sequence[_Answer],
        codes: Sequence[str],
    ) -> dict[str, Any]:
        columns = precision_recall_fscore_support(true, guesses, labels=np.arange(len(codes)), zero_division=0)
        precision, recall, f1, rows = columns
        right = true == guesses
        in_top = [codes[at] in one.top for at, one in zip(true.tolist(), answers, strict=True)]
        figures = {
            "accuracy": right.mean(),
            "weighted_f1": np.average(f1, weights=rows),
            "macro_f1": f1.mean(),
            "top_3": np.mean(in_top),
            "calibration_error": calibration_error(np.array([one.confidence for one in answers]), right),
        }
        return {
            "rows": len(true),
            **{name: round(float(value), DIGITS) for name, value in figures.items()},
            "per_type": {
                code: {
                    "precision": round(float(precision[at]), DIGITS),
                    "recall": round(float(recall[at]), DIGITS),
                    "f1": round(float(f1[at]), DIGITS),
                    "rows": int(rows[at]),
                }
                for at, code in enumerate(codes)
            },
        }
