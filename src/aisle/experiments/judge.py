"""Is the challenger worse? What the database has about an experiment, and what follows from it.

    errors     products that it failed at, against those that the champion failed at
    latency    pairs in which it took more than `slower` times the champion's seconds
    accuracy   products that people gave a type, and of which one of the two was right
    agreement  shown products of which both say the same (a shadow only: there both see the same products)

Each has a sequential test (`sequential.py`), so that the judge may be asked at any time and any number of times: a
challenger that is as good as the champion is called worse with a chance of at most `alpha` in the whole experiment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from aisle.catalog import TypeChanges
from aisle.errors import UsageError
from aisle.experiments.sequential import evidence, interval
from aisle.store.arms import ArmCounts, Comparison, Pairs, compare
from aisle.store.experiments import Experiment

UNITS = ("product", "user")
MOST_EVIDENCE = 1e9
"""Beyond, a number says no more."""


class Verdict(StrEnum):
    GO_ON = "go on"
    WORSE = "worse"
    ENOUGH = "enough"  # seen enough of it, and it is not worse


@dataclass(frozen=True, slots=True)
class Rules:
    """How an experiment is judged. Raises UsageError for a rule that cannot be kept.

    `alpha` is the chance, in (0, 1), of calling a challenger worse that is not; `products` how many different ones
    are enough; `agreement` how many of them, in [0, 1), both have to say the same of; `unit` who is assigned.
    """

    alpha: float = 0.05
    products: int = 200
    agreement: float = 0.5
    slower: float = 1.5
    unit: str = "product"

    def __post_init__(self) -> None:
        for name, is_kept, bound in (
            ("alpha", 0 < self.alpha < 1, "above 0 and below 1"),
            ("products", self.products >= 1, "at least 1"),
            ("agreement", 0 <= self.agreement < 1, "at least 0 and below 1"),
            ("slower", self.slower >= 1, "at least 1"),
            ("unit", self.unit in UNITS, " or ".join(UNITS)),
        ):
            if not is_kept:
                raise UsageError(f"{name} is {getattr(self, name)}: it has to be {bound}")

    @classmethod
    def of(cls, experiment: Experiment) -> Rules:
        return cls(**experiment.rules)


@dataclass(frozen=True, slots=True)
class Criterion:
    """`evidence` that the challenger is worse; from `needed` on it counts as proven."""

    name: str
    worse: int
    better: int
    evidence: float
    needed: float

    @property
    def is_worse(self) -> bool:
        return self.evidence >= self.needed

    @property
    def finding(self) -> str:
        of = self.worse + self.better
        return f"worse in {self.worse} of {of} that tell (evidence {self.evidence:.3g}, {self.needed:.0f} needed)"


@dataclass(frozen=True, slots=True)
class Findings:
    """`seen` is how many different products the challenger had; `agreed` is None but for a shadow.

    `is_more_accurate`: the same test, asked the other way round, says that the champion is the less accurate one.
    """

    verdict: Verdict
    reason: str
    seen: int
    wanted: int
    agreed: Pairs | None
    is_more_accurate: bool
    criteria: tuple[Criterion, ...]
    champion: ArmCounts
    challenger: ArmCounts

    @property
    def has_enough(self) -> bool:
        return self.verdict is Verdict.ENOUGH

    @property
    def agreement(self) -> float | None:
        """The share of the products that both say the same of; None where nothing could be compared."""
        return _share(self.agreed)

    @property
    def worse_in(self) -> str | None:
        """The name of the first criterion that it is worse in."""
        return next((one.name for one in self.criteria if one.is_worse), None)

    def as_dict(self) -> dict[str, Any]:
        """JSON: shares with the interval that holds at all looks at once."""
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "seen": self.seen,
            "wanted": self.wanted,
            "agreement": self.agreed and _with_interval(self.agreed.better, self.agreed.worse),
            "is_more_accurate": self.is_more_accurate,
            "criteria": {one.name: {**asdict(one), "is_worse": one.is_worse} for one in self.criteria},
            "arms": {"champion": _of_arm(self.champion), "challenger": _of_arm(self.challenger)},
        }


def judge(connection: Connection, experiment: Experiment, changes: TypeChanges = TypeChanges()) -> Findings:
    """Counted by the database, which works for a second on 100,000 products.

    `changes` is what became of types that the challenger does not know any more.
    """
    rules = Rules.of(experiment)
    found = compare(connection, experiment, slower=rules.slower, now=changes)
    criteria = _criteria(found, experiment, rules)
    verdict, reason = _verdict(found, criteria, rules)
    return Findings(
        verdict=verdict,
        reason=reason,
        seen=found.challenger.products,
        wanted=rules.products,
        agreed=found.agreement,
        is_more_accurate=evidence(found.accuracy.better, found.accuracy.worse) >= 1 / rules.alpha,
        criteria=criteria,
        champion=found.champion,
        challenger=found.challenger,
    )


def _criteria(found: Comparison, experiment: Experiment, rules: Rules) -> tuple[Criterion, ...]:
    # Of failures that both are as prone to, the challenger has its share.
    limits: Mapping[str, tuple[Pairs, float]] = {
        "errors": (found.errors, max(0.5, experiment.share) if found.agreement is None else 0.5),
        "latency": (found.latency, 0.5),
        "accuracy": (found.accuracy, 0.5),
    }
    if found.agreement is not None and rules.agreement > 0:
        limits = {**limits, "agreement": (found.agreement, 1 - rules.agreement)}
    needed = len(limits) / rules.alpha
    return tuple(
        Criterion(
            name,
            pairs.worse,
            pairs.better,
            min(evidence(pairs.worse, pairs.better, limit=limit), MOST_EVIDENCE),
            needed,
        )
        for name, (pairs, limit) in limits.items()
    )


def _verdict(found: Comparison, criteria: tuple[Criterion, ...], rules: Rules) -> tuple[Verdict, str]:
    seen, agreement = found.challenger.products, _share(found.agreement)
    worse = [one for one in criteria if one.is_worse]
    if worse:
        return Verdict.WORSE, "; ".join(f"{one.name}: {one.finding}" for one in worse)
    if seen < rules.products:
        return Verdict.GO_ON, f"{seen} of {rules.products} products seen"
    if agreement is not None and agreement < rules.agreement:
        return Verdict.GO_ON, f"agreement is {agreement:.1%}, at least {rules.agreement:.0%} is wanted"
    return Verdict.ENOUGH, f"{seen} products seen, and not worse in " + ", ".join(one.name for one in criteria)


def _share(agreed: Pairs | None) -> float | None:
    if agreed is None or agreed.worse + agreed.better == 0:
        return None
    return agreed.better / (agreed.worse + agreed.better)


def _of_arm(arm: ArmCounts) -> dict[str, Any]:
    return {**asdict(arm), "accuracy": _with_interval(arm.right, arm.labelled - arm.right)}


def _with_interval(hits: int, misses: int) -> dict[str, float] | None:
    if hits + misses == 0:
        return None
    low, high = interval(hits, misses)
    return {"value": hits / (hits + misses), "low": low, "high": high}
