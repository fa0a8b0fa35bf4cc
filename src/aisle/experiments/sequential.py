"""Tests that may be looked at any time: after every observation, as often as anybody likes, and stopped at will.

An observation is one that speaks against the challenger ("worse") or for it ("better"). `evidence` is the wealth of
somebody who bets against the hypothesis "at most the share `limit` speaks against it": if that is true, the wealth is
a non-negative supermartingale that begins at 1, and the chance that it ever reaches 1 / alpha is at most alpha
(Ville's inequality), whatever the number of observations and of looks. Each bet is the likelihood ratio of a share p
against `limit`; the wealth is averaged over all p in (limit, 1).

Wald (1945), Sequential tests of statistical hypotheses; Robbins (1970), Statistical methods related to the law of the
iterated logarithm; Ramdas, Grünwald, Vovk, Shafer (2023), Game-theoretic statistics and safe anytime-valid inference,
Statistical Science 38(4), https://doi.org/10.1214/23-STS894.
"""

from __future__ import annotations

import math


def evidence(worse: int, better: int, *, limit: float = 0.5) -> float:
    """How many times a stake of 1 has grown: at least 0, possibly infinite. `limit` in (0, 1)."""
    return math.exp(min(log_evidence(worse, better, limit=limit), 700.0))


def log_evidence(worse: int, better: int, *, limit: float = 0.5) -> float:
    """Its natural logarithm.

    The average over p, uniform in (limit, 1), of p^worse (1 - p)^better / (limit^worse (1 - limit)^better) is
    B(worse + 1, better + 1) times the upper tail of that beta distribution beyond `limit`, over what stands below.
    """
    from scipy.special import betainc, betaln  # noqa: PLC0415  half a second at each start

    tail = float(betainc(better + 1, worse + 1, 1 - limit))
    if tail == 0:
        return -math.inf
    stakes = worse * math.log(limit) + (better + 1) * math.log1p(-limit)
    return float(betaln(worse + 1, better + 1)) + math.log(tail) - stakes


def interval(hits: int, misses: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """A confidence sequence for a share: with chance 1 - alpha, it has the true share in it at all looks at once.

    It has those shares against which the wealth of a uniform mixture of bets has not reached 1 / alpha.
    """
    from scipy.optimize import brentq  # noqa: PLC0415
    from scipy.special import betaln  # noqa: PLC0415

    total = hits + misses
    if total == 0:
        return 0.0, 1.0
    won = float(betaln(hits + 1, misses + 1)) + math.log(alpha)

    def still_possible(share: float) -> float:
        return hits * math.log(share) + misses * math.log1p(-share) - won

    best, edge = hits / total, 1e-12
    low = 0.0 if hits == 0 or still_possible(edge) > 0 else brentq(still_possible, edge, min(best, 1 - edge))
    high = 1.0 if misses == 0 or still_possible(1 - edge) > 0 else brentq(still_possible, max(best, edge), 1 - edge)
    return float(low), float(high)
