"""Several models of one text, blended by what they say after calibration: one model to everybody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aisle.model.calibration import Array, calibrated
from aisle.model.fusion import WeightedSum
from aisle.model.sequence import SequenceModel
from aisle.model.text import Scores, TextModel

SingleTextModel = TextModel | SequenceModel


class BlendedModel:
    """p(type) = sum over the parts of weight x p_part(type), each with its temperature; the scores are log p.

    (A sum of probabilities, where stacking adds logarithms: of texts that look otherwise than those it was fitted on,
    a part that is sure and wrong does less harm.)
    """

    def __init__(
        self, parts: Mapping[str, SingleTextModel], temperatures: Mapping[str, float], weights: Mapping[str, float]
    ) -> None:
        self.parts = dict(parts)
        self.temperatures = dict(temperatures)
        self.weights = dict(weights)
        self._sum = WeightedSum(list(self.parts), self.weights)

    def with_part(self, name: str, part: SingleTextModel) -> BlendedModel:
        """The same with another model for one of its parts."""
        return BlendedModel({**self.parts, name: part}, self.temperatures, self.weights)

    def scores(self, texts: Sequence[str]) -> Scores:
        return self._joined(self._logs(texts)).astype(np.float32)

    def weights_of_words(self, text: str, type_: int) -> Scores:
        """Those of the parts, each by its share in the probability of the type (its column): to a first order what
        the words add to its log-probability."""
        logs = self._logs([text])
        whole = self._joined(logs)[0, type_]
        total = np.zeros(len(text.split()), dtype=np.float32)
        for name, part in self.parts.items():
            share = self.weights[name] * np.exp(logs[name][0, type_] - whole)
            total += np.float32(share / self.temperatures[name]) * part.weights_of_words(text, type_)
        return total

    def _logs(self, texts: Sequence[str]) -> dict[str, Array]:
        return calibrated({name: part.scores(texts) for name, part in self.parts.items()}, self.temperatures)

    def _joined(self, logs: Mapping[str, Array]) -> Array:
        present = np.ones((len(next(iter(logs.values()))), len(self.parts)), dtype=bool)
        return self._sum.log_probabilities(logs, present)


AnyTextModel = SingleTextModel | BlendedModel
