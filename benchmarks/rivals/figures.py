"""What the rounds say together: which of them count, medians and spread, and the ratios that have a goal."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.measure import Figure
from benchmarks.rivals.contenders import BARE, ORIGINAL, OURS
from benchmarks.rivals.rounds import CLIENTS, WARM_CLIENTS, Round

OFF = 0.1
"""A probe that is further from the median of all says that something else was at work."""
SPEEDUPS = {"lstm-vgg16-int8": 5.0, "lstm-vgg16-fp32": 1.5}
"""What a bundle of the recipe has to gain on the original's way, by setting."""
WINDOW = ("per_s", "p50_ms", "p95_ms", "p99_ms", "cpu_ms", "errors")
OPEN = "open"
DRAWS, DOUBT = 1000, 0.1
"""How often other rounds are drawn to see how sure a ratio is, and the share of draws that its spread leaves out."""


def quiet(rounds: Sequence[Round]) -> list[Round]:
    """Those before which the probe took what it usually takes."""
    if not rounds:
        return []
    usual = median(one.probe_ms for one in rounds)
    return [one for one in rounds if abs(one.probe_ms - usual) <= OFF * usual]


@dataclass(frozen=True, slots=True)
class Measured:
    """By figure, what each round that counts has; a figure is named CONTENDER_CLIENTS_UNIT or CONTENDER_UNIT."""

    values: Mapping[str, Sequence[float]]
    contenders: Sequence[str]

    @classmethod
    def of(cls, rounds: Sequence[Round]) -> Measured:
        values: dict[str, list[float]] = {}
        for one in rounds:
            for name, value in _values(one).items():
                values.setdefault(f"{one.contender}_{name}", []).append(value)
        return cls(values, list(dict.fromkeys(one.contender for one in rounds)))

    def median(self, contender: str, name: str) -> float:
        return median(self.values[f"{contender}_{name}"])

    def errors(self, contender: str) -> float:
        """Of all windows of all rounds."""
        return sum(sum(self.values.get(f"{contender}_{at}_errors", ())) for at in (*CLIENTS, OPEN))

    @property
    def rivals(self) -> list[str]:
        return [one for one in self.contenders if one not in (OURS, BARE)]

    def most(self, contender: str) -> float:
        """Answers a second at the number of clients with the most of them."""
        at = (1,) if contender == BARE else CLIENTS
        return max(self.median(contender, f"{clients}_per_s") for clients in at)

    def cpu_added(self, contender: str) -> float:
        """Milliseconds of processor time a request, beyond the predictor's."""
        return self.median(contender, f"{WARM_CLIENTS}_cpu_ms") - self.median(BARE, "1_cpu_ms")


def figures(rounds: Sequence[Round], setting: str) -> list[Figure]:
    """All medians, and what is made of several of them, with the goals.

    A median has the lowest and the highest round as its spread; a ratio or a difference what it would be in nine of
    ten other sets of rounds, drawn with replacement from each contender's own (a percentile bootstrap).
    """
    measured, draw = Measured.of(rounds), random.Random(0)  # noqa: S311
    others = [_compared(Measured.of(_drawn(rounds, draw)), setting) for _ in range(DRAWS)]
    return [
        *(Figure.of_rounds(name, values) for name, values in measured.values.items()),
        *(Figure(f"{one}_errors", measured.errors(one)) for one in measured.contenders),
        *(
            replace(one, spread=_most_of([other.value for other in drawn]))
            for one, *drawn in zip(_compared(measured, setting), *others, strict=True)
        ),
    ]


def _compared(measured: Measured, setting: str) -> list[Figure]:
    """As far as those are there that are compared."""
    served = [one for one in measured.contenders if one != BARE]
    above = served if BARE in measured.contenders else []
    added = [Figure(f"{one}_cpu_added_ms", measured.cpu_added(one)) for one in above]
    if OURS not in served:
        return added
    return [*added, *(_speedup(measured, setting) if setting in SPEEDUPS else _light(measured))]


def _drawn(rounds: Sequence[Round], draw: random.Random) -> list[Round]:
    """As many of each contender as there are, some of them twice and others not at all."""
    own: dict[str, list[Round]] = {}
    for one in rounds:
        own.setdefault(one.contender, []).append(one)
    return [one for of in own.values() for one in draw.choices(of, k=len(of))]


def _most_of(values: list[float]) -> tuple[float, float]:
    """The bounds of what is left where as many of the lowest as of the highest are left out, `DOUBT` of all."""
    least = int(len(values) * DOUBT / 2)
    return sorted(values)[least], sorted(values)[-1 - least]


def _light(measured: Measured) -> list[Figure]:
    found = [
        Figure("ready_s", measured.median(OURS, "ready_s"), at_most=3),
        Figure("peak_mb", measured.median(OURS, "peak_mb"), at_most=500),
    ]
    has_bare, rivals = BARE in measured.contenders, measured.rivals
    if has_bare:
        found += [
            Figure("cpu_added_ms", measured.cpu_added(OURS), at_most=2),
            Figure("throughput_over_bare", measured.most(OURS) / measured.most(BARE), at_least=0.9),
        ]
    if has_bare and rivals:
        middle = median(measured.cpu_added(one) for one in rivals)
        # No ratio: whoever batches may add less than nothing.
        beyond = measured.cpu_added(OURS) - middle / 2
        found.append(Figure("cpu_added_beyond_half_the_median_rival_ms", beyond, at_most=0))
    if rivals:
        for clients in CLIENTS:
            ratio = _over(measured, f"{clients}_per_s", max, rivals)
            found.append(Figure(f"throughput_over_best_rival_{clients}", ratio, at_least=1))
        found.append(Figure("p99_over_best_rival", _over(measured, f"{OPEN}_p99_ms", min, rivals), at_most=1))
    return found


def _speedup(measured: Measured, setting: str) -> list[Figure]:
    if ORIGINAL not in measured.contenders:
        return []
    ratio = _over(measured, f"{WARM_CLIENTS}_per_s", max, [ORIGINAL])
    return [Figure("throughput_over_original_16", ratio, at_least=SPEEDUPS[setting])]


def _over(measured: Measured, name: str, best: Callable[[Sequence[float]], float], rivals: Sequence[str]) -> float:
    return measured.median(OURS, name) / best([measured.median(one, name) for one in rivals])


def _values(one: Round) -> dict[str, float]:
    windows = {str(clients): window for clients, window in one.clients.items()}
    if one.at_share is not None:
        windows[OPEN] = one.at_share
    found = {f"{at}_{name}": float(getattr(window, name)) for at, window in windows.items() for name in WINDOW}
    return found | {name: getattr(one, name) for name in ("ready_s", "resident_mb", "peak_mb")}
