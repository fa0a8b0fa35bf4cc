"""The gate: whether a challenger may replace the champion, and which criterion decided.

Both models are measured on the same labelled products, which neither was fitted on. A difference between them is
judged by the paired bootstrap (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993): the products are
drawn again and again, and both models are measured on each draw, so that what is hard for both cancels out.

Where types have changed between the two, they are compared on what is common: products of a type that the champion
cannot know count for the challenger's own criteria alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import InputError
from aisle.model.calibration import Array, calibration_error_by_chance
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
    """One-sided, for both, and for what is chance in a calibration error."""
    calibration_error: float = 0.05
    latency_ms: float = 250.0
    """95th percentile of one product alone."""
    resamples: int = 2000


@dataclass(frozen=True, slots=True)
class Criterion:
    """One question of the gate; `finding` answers it in a sentence, with the figures.

    `close`: there were too few products, or none, to be sure either way; what was found lies within the limit, or may
    be chance.
    """

    name: str
    passed: bool
    finding: str
    close: bool = False


@dataclass(frozen=True, slots=True)
class Common:
    """What two models were compared on: `rows` products, without those whose type the champion cannot know.

    `added` counts the latter by type; `changed` has what became of earlier types that one of the models knows, None
    for one that fell away; `into_added` compared products are of an added type by the challenger, and wrong.
    """

    rows: int
    added: Mapping[str, int]
    changed: Mapping[str, str | None]
    into_added: int

    @property
    def sentence(self) -> str:
        """Empty where both know the same types."""
        fell_away = [code for code, now in self.changed.items() if now is None]
        mapped = [f"{code} → {now}" for code, now in self.changed.items() if now is not None]
        listed = ", ".join(f"{code} ({rows})" for code, rows in self.added.items())
        said = []
        if listed:
            said.append(f"not on {sum(self.added.values())} of types that the champion cannot know: {listed}")
        if self.into_added:
            said.append(f"{self.into_added} of those compared were given one of these types")
        if mapped:
            said.append(f"mapped: {', '.join(mapped)}")
        if fell_away:
            said.append(f"fell away: {', '.join(fell_away)}")
        return "; ".join([f"compared on {self.rows} products", *said]) if said else ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of `challenger` against `champion`, None where there is none yet.

    `rows` products were looked at; `common` says on which of them the two were compared.
    """

    challenger: str
    champion: str | None
    rows: int
    criteria: tuple[Criterion, ...]
    common: Common | None = None

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.criteria)

    @property
    def failed(self) -> tuple[Criterion, ...]:
        return tuple(one for one in self.criteria if not one.passed)

    @property
    def is_borderline(self) -> bool:
        """Nothing shows that it is worse, and too little that it is not: a person may decide."""
        return any(one.close for one in self.criteria) and all(one.close for one in self.failed)

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
    random = np.random.default_rng(seed)
    compared: tuple[Criterion, ...] = ()
    common = None
    if champion is not None:
        common, rows = _common(challenger, champion)
        compared = _compare(challenger, champion, rows, limits, random)
        if common.sentence:
            compared = (Criterion("common types", True, common.sentence, close=not common.rows), *compared)
    return Verdict(
        challenger=challenger.model_version,
        champion=None if champion is None else champion.model_version,
        rows=len(challenger.keys),
        criteria=(
            *compared,
            _calibrated(challenger, limits, random),
            _within("latency", challenger.figures["latency_ms"]["p95"], limits.latency_ms, " ms"),
            *(Criterion(f"behaviour: {one.name}", one.holds, one.finding) for one in behaviours),
        ),
        common=common,
    )


def _common(challenger: Evaluation, champion: Evaluation) -> tuple[Common, NDArray[np.bool_]]:
    """What to compare the two on, and which products those are."""
    if list(challenger.keys) != list(champion.keys) or list(challenger.true_codes) != list(champion.true_codes):
        raise InputError("the two models were measured on different products")
    true = np.array(challenger.true_codes)
    common = np.isin(true, champion.codes)
    added = Counter(true[~common].tolist())
    into_added = np.isin(_guesses(challenger)[common], list(added))
    found = Common(
        rows=int(common.sum()),
        added=dict(sorted(added.items())),
        changed={**challenger.changed, **champion.changed},
        into_added=int(into_added.sum()),
    )
    return found, common


def _compare(
    challenger: Evaluation,
    champion: Evaluation,
    rows: NDArray[np.bool_],
    limits: Limits,
    random: np.random.Generator,
) -> tuple[Criterion, ...]:
    """Nothing, where there are no `rows` to compare on."""
    if not rows.any():
        return ()
    true = np.array(challenger.true_codes)[rows]
    types = np.unique(true)
    guesses = [_guesses(one)[rows] for one in (challenger, champion)]
    weights = random.multinomial(len(true), np.full(len(true), 1 / len(true)), size=limits.resamples)
    # The first row is the products themselves, each once.
    drawn = np.concatenate([np.ones((1, len(true))), weights])
    by_type, by_type_before = (_f1(drawn, true, guess, types) for guess in guesses)
    share = (drawn @ (true[:, None] == types)) / len(true)
    return (
        _not_worse((share * (by_type - by_type_before)).sum(axis=1), limits),
        _no_type_falls(by_type - by_type_before, types, limits),
    )


def _guesses(evaluation: Evaluation) -> Codes:
    found: Codes = np.array(evaluation.codes)[evaluation.probabilities.argmax(axis=1)]
    return found


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
    return Criterion("weighted F1", passed, sentence, close=not passed and bool(found >= -limits.worse))


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
    return Criterion("types", True, sentence)


def _calibrated(challenger: Evaluation, limits: Limits, random: np.random.Generator) -> Criterion:
    """On a hundred products a model whose confidence is right is beyond the limit now and then: no refusal."""
    found = challenger.figures["calibration_error"]
    criterion = _within("calibration", found, limits.calibration_error, "")
    if criterion.passed:
        return criterion
    by_chance = calibration_error_by_chance(
        challenger.probabilities.max(axis=1),
        certainty=limits.confidence,
        resamples=limits.resamples,
        random=random,
    )
    if found > by_chance:
        return criterion
    sentence = f"{criterion.finding}; on {len(challenger.keys)} products chance alone gives up to {by_chance:.3g}"
    return replace(criterion, finding=sentence, close=True)


def _within(name: str, found: float, limit: float, unit: str) -> Criterion:
    return Criterion(name, found <= limit, f"{found:.3g}{unit}, the limit is {limit:g}{unit}")


def _points(difference: float) -> str:
    return f"{difference * 100:+.2f} points"
