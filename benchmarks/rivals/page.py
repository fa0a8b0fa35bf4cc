"""docs/performance.md: the tables and the plot of the last results of each setting."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from benchmarks.page import (
    DOLLARS_A_CORE_HOUR,
    PRICE_OF,
    Entry,
    cost,
    latest,
    markdown,
    measured_by,
    picture,
    value,
    verdict,
    with_spread,
    write_between,
)
from benchmarks.rivals.bundles import ROWS
from benchmarks.rivals.contenders import BARE, CONTENDERS, OURS
from benchmarks.rivals.figures import OPEN
from benchmarks.rivals.rounds import CLIENTS, WARM_CLIENTS

LABELS = {BARE: "the bare predictor", **{one.name: one.label for one in CONTENDERS}}
RATIOS = {
    "cpu_added_ms": "processor time added over the bare predictor, 16 clients, ms a request",
    "cpu_added_beyond_half_the_median_rival_ms": "the same, beyond half of what the median rival adds",
    "throughput_over_bare": "most answers a second, over the bare predictor's",
    **{f"throughput_over_best_rival_{n}": f"answers a second, clients: {n}, over the best rival's" for n in CLIENTS},
    "p99_over_best_rival": "99th percentile at 70 % of the most, over the best rival's",
    "ready_s": "start to the first answer, s",
    "peak_mb": "peak memory, MB",
    "throughput_over_original_16": "answers a second with 16 clients, over the original's way",
}

RECORD = 5
"""Rounds of each contender, from which on the figures are worth keeping."""


def entry_name(setting: str) -> str:
    return "rivals_" + setting.replace("-", "_")


def write(page: Path, results: Path) -> None:
    """Between the marks of `page`, and its plots in the folder beside it that has its name."""
    last = latest(results)
    price = f"A core that is always busy costs ${DOLLARS_A_CORE_HOUR} an hour: {PRICE_OF}."
    settings = markdown(("contender", "how it is set up"), [(one.label, one.setting) for one in CONTENDERS])
    parts = [*settings, "", price, ""]
    for setting in ROWS:
        if (entry := last.get(entry_name(setting))) is None:
            continue
        file = page.with_suffix("") / f"{setting}.svg"
        plot(entry, file)
        parts.append(section(setting, entry, f"{file.parent.name}/{file.name}"))
    write_between(page, "rivals", parts)


def section(setting: str, entry: Entry, plotted: str) -> str:
    details = entry["details"]
    counts = details["counted"]
    lines = [
        f"### `{setting}`",
        "",
        f"{measured_by(entry)} Medians, [lowest, highest]; rounds of {details['seconds']:g} s for each number of "
        f"clients, of which {_between(counts.values())} count of each contender; "
        f"{details['thrown_away']} were thrown away because the machine was busy.",
    ]
    if min(counts.values()) < RECORD:
        lines[-1] += f" **With fewer than {RECORD} rounds of each this is a first look, no record.**"
    if missing := [LABELS[name] for name, count in counts.items() if not count]:
        lines[-1] += f" Not here, for want of a quiet round: {', '.join(missing)}."
    return "\n".join(
        [
            *lines,
            "",
            *goals(entry),
            "",
            f"![Answers a second by clients, and processor time added]({plotted})",
            "",
            *_throughput(entry),
            "",
            *_latency(entry),
            "",
        ]
    )


def _between(counts: Collection[int]) -> str:
    return " to ".join(str(one) for one in sorted({min(counts), max(counts)}))


def contenders(entry: Entry) -> list[str]:
    return [name for name in LABELS if f"{name}_ready_s" in entry["figures"]]


def goals(entry: Entry) -> list[str]:
    """The ratios, and which goals were missed."""
    rows = [
        (RATIOS[name], with_spread(entry, name), entry["goals"][name], verdict(entry, name))
        for name in RATIOS
        if name in entry["goals"]
    ]
    return markdown(("", "measured [90 %]", "goal", ""), rows) if rows else ["No goal: not all contenders took part."]


def _throughput(entry: Entry) -> list[str]:
    clients = (f"{n} client{'s' if n > 1 else ''}" for n in CLIENTS)
    heads = ("answers a second", *clients, "CPU ms", "CPU added ms", "$ for 1,000 products")
    rows = []
    for name in contenders(entry):
        at = 1 if name == BARE else WARM_CLIENTS
        added = "" if name == BARE else with_spread(entry, f"{name}_cpu_added_ms")
        cells = [with_spread(entry, f"{name}_{n}_per_s") for n in CLIENTS]
        cpu = f"{name}_{at}_cpu_ms"
        dollars = cost(entry["figures"][cpu]) if cpu in entry["figures"] else ""  # 1,000 of so many milliseconds
        rows.append((LABELS[name], *cells, with_spread(entry, cpu), added, dollars))
    return markdown(heads, rows)


def _latency(entry: Entry) -> list[str]:
    heads = ("at 70 % of its most", "p50 ms", "p95 ms", "p99 ms", "errors", "ready s", "resident MB", "peak MB")
    rows = [
        (
            LABELS[name],
            *(with_spread(entry, f"{name}_{OPEN}_{one}") for one in ("p50_ms", "p95_ms", "p99_ms")),
            value(entry, f"{name}_errors"),
            *(with_spread(entry, f"{name}_{one}") for one in ("ready_s", "resident_mb", "peak_mb")),
        )
        for name in contenders(entry)
    ]
    return markdown(heads, rows)


def plot(entry: Entry, file: Path) -> None:
    """Two panels: answers a second by clients, and processor time added."""
    found, names = entry["figures"], contenders(entry)
    with picture(file, (9, 3.4), panels=2) as (left, right):
        for name in names:
            style = {"linewidth": 2.5} if name == OURS else {"linewidth": 1}
            if name == BARE:
                left.axhline(found[f"{BARE}_1_per_s"], color="black", linestyle=":", label=LABELS[BARE])
            else:
                rates = [found[f"{name}_{n}_per_s"] for n in CLIENTS]
                left.plot(range(len(CLIENTS)), rates, marker="o", label=LABELS[name], **style)
        left.set(xlabel="clients", ylabel="answers a second", ylim=(0, None))
        left.set_xticks(range(len(CLIENTS)), [str(n) for n in CLIENTS])
        left.legend(fontsize=7)
        added = {LABELS[one]: found[f"{one}_cpu_added_ms"] for one in names if f"{one}_cpu_added_ms" in found}
        right.barh(list(added), list(added.values()))
        right.invert_yaxis()
        right.set(xlabel="CPU added over the bare predictor, ms a request")
