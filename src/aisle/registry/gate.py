"""The gate: whether a challenger may replace the champion, and which criterion decided.

Both models are measured on the same labelled products, which neither was fitted on. A difference between them is
judged by the paired bootstrap (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993): the products are
drawn again and again, and both models are measured on each draw, so that what is hard for both cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import InputError
from aisle.model.calibration import Array
from aisle.training.behaviour import Behaviour
from aisle.training.evaluate import Evaluation

Codes = NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gate asks for. Shares in [0, 1], milliseconds."""

    worse: float = 0.01
    """So much weighted F1 may be lost, at the lower end of what the bootstrap finds likely."""
    type_fall: float = 0.02
    """More than this no type's F1 may fall, unless it may be chance."""
    confidence: float = 0.95
    """One-sided, for both."""
    calibration_error: float = 0.05
    latency_ms: float = 250.0
    """95th percentile of one product alone."""
    resamples: int = 2000


@dataclass(frozen=True, slots=True)
class Criterion:
    """One question of the gate; `finding` answers it in a sentence, with the figures.

    `close`: it passed, and may have done so by chance. A person had better look.
    """

    name: str
    passed: bool
    finding: str
    close: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of `challenger` against `champion`, None where there is none yet."""

    challenger: str
    champion: str | None
    rows: int
    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.criteria)

    @property
    def failed(self) -> tuple[Criterion, ...]:
        return tuple(one for one in self.criteria if not one.passed)

    @property
    def borderline(self) -> tuple[Criterion, ...]:
        """What passed, and may have done so by chance."""
        return tuple(one for one in self.criteria if one.close)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def judge(
    challenger: Evaluation,
    champion: Evaluation | None,
    behaviours: Sequence[Behaviour],
    limits: Limits = Limits(),
    *,
    seed: int = 0,
) -> Verdict:
    """Measure the challenger's `behaviours` and its evaluation, beside the champion's, against `limits`.

    Without a champion there is nothing to be worse than. Raises InputError if the two were measured on different
    products.
    """
    compared = () if champion is None else _compare(challenger, champion, limits, np.random.default_rng(seed))
    return Verdict(
        challenger=challenger.model_version,
        champion=None if champion is None else champion.model_version,
        rows=len(challenger.keys),
        criteria=(
            *compared,
            _within("calibration", challenger.figures["calibration_error"], limits.calibration_error, ""),
            _within("latency", challenger.figures["latency_ms"]["p95"], limits.latency_ms, " ms"),
            *(Criterion(f"behaviour: {one.name}", one.holds, one.finding) for one in behaviours),
        ),
    )


def _compare(
    challenger: Evaluation, champion: Evaluation, limits: Limits, random: np.random.Generator
) -> tuple[Criterion, Criterion]:
    if list(challenger.keys) != list(champion.keys) or list(challenger.true_codes) != list(champion.true_codes):
        raise InputError("the two models were measured on different products")
    true = np.array(challenger.true_codes)
    types = np.unique(true)
    guesses = [np.array(one.codes)[one.probabilities.argmax(axis=1)] for one in (challenger, champion)]
    weights = random.multinomial(len(true), np.full(len(true), 1 / len(true)), size=limits.resamples)
    # The first row is the products themselves, each once.
    drawn = np.concatenate([np.ones((1, len(true))), weights])
    by_type, by_type_before = (_f1(drawn, true, guess, types) for guess in guesses)
    share = (drawn @ (true[:, None] == types)) / len(true)
    return (
        _not_worse((share * (by_type - by_type_before)).sum(axis=1), limits),
        _no_type_falls(by_type - by_type_before, types, limits),
    )


def _f1(weights: Array, true: Codes, guesses: Codes, types: Codes) -> Array:
    """F1 of each of `types`, draws x types, for draws x products `weights`; 0 for a type that is not in a draw."""
    is_true, is_guessed = true[:, None] == types, guesses[:, None] == types
    both = weights @ (is_true & is_guessed)
    either = weights @ is_true + weights @ is_guessed
    found: Array = np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0)
    return found


def _not_worse(differences: Array, limits: Limits) -> Criterion:
    found, least = differences[0], np.quantile(differences[1:], 1 - limits.confidence)
    sentence = (
        f"{_points(found)}, at least {_points(least)} with {limits.confidence:.0%} confidence; "
        f"{_points(-limits.worse)} is the limit"
    )
    passed = bool(least >= -limits.worse)
    return Criterion("weighted F1", passed, sentence, close=passed and bool(found < 0))


def _no_type_falls(differences: Array, types: Codes, limits: Limits) -> Criterion:
    found, most = differences[0], np.quantile(differences[1:], limits.confidence, axis=0)
    lower = found < -limits.type_fall
    falls = lower & (most < 0)
    if falls.any():
        listed = ", ".join(f"{types[at]} {_points(found[at])}" for at in np.flatnonzero(falls))
        return Criterion("types", False, f"F1 falls by more than {limits.type_fall * 100:g} points: {listed}")
    sentence = f"no type's F1 falls by more than {limits.type_fall * 100:g} points"
    if lower.any():
        listed = ", ".join(f"{types[at]} {_points(found[at])}" for at in np.flatnonzero(lower))
        sentence += f", save by chance, perhaps: {listed}"
    return Criterion("types", True, sentence, close=bool(lower.any()))


def _within(name: str, found: float, limit: float, unit: str) -> Criterion:
    return Criterion(name, found <= limit, f"{found:.3g}{unit}, the limit is {limit:g}{unit}")


def _points(difference: float) -> str:
    return f"{difference * 100:+.2f} points"
