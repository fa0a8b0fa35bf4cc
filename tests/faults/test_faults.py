"""Everything is broken while people work with it: what was acknowledged is there, and nothing wrong was said.

The soaks are `make soak`; what they found is in docs/reliability.md.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from tests.faults.harness import FAULTS, Report, run, staged
from tests.faults.programs import Taken

from aisle.model.bundle import Bundle

POINTS = 20
MINUTES = float(os.environ.get("MINUTES", "30"))
SEED = 2026
FEW = (
    "kill -9 of the service", "kill -9 of a worker of the service", "kill -9 of a process of the bulk worker",
    "PostgreSQL killed by -9", "PostgreSQL refusing", "Redis refusing", "kill -9 of the token service",
)  # fmt: skip


def keep(report: Report, name: str) -> None:
    """For whoever writes down what was found: shown by -s, and a file beside the test's others."""
    print(name, report.as_json())
    Path("report.json").write_text(report.as_json())


def check(report: Report) -> None:
    assert report.lost == []
    assert report.wrong == []
    assert report.answers
    assert report.corrections
    assert report.rows


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_and_nothing_wrong_is_said_whatever_breaks(
    bundle: Bundle, tmp_path: Path
) -> None:
    with staged(tmp_path, bundle) as stage:
        report = run(stage, bundle, FEW, seed=SEED)
    keep(report, "a few")
    check(report)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_at_twenty_random_points(bundle: Bundle, tmp_path: Path, fault: str) -> None:
    with staged(tmp_path, bundle) as stage:
        report = run(stage, bundle, [fault] * POINTS, seed=SEED)
    keep(report, fault)
    check(report)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_faults_of_all_kinds_one_upon_the_other(bundle: Bundle, tmp_path: Path) -> None:
    faults = [name for name in FAULTS for _ in range(3)]
    Random(SEED).shuffle(faults)
    with staged(tmp_path, bundle) as stage:
        report = run(stage, bundle, faults, seed=SEED)
    keep(report, "all kinds")
    check(report)


@pytest.mark.soak
@pytest.mark.timeout(60 * MINUTES + 1800)
def test_memory_files_and_threads_stay_flat_under_load(bundle: Bundle, tmp_path: Path) -> None:
    """The last third is compared with the one before: the first is for what is loaded once."""
    with staged(tmp_path, bundle) as stage:
        report = run(stage, bundle, [], seed=SEED, least_seconds=60 * MINUTES)
        measured = {name: list(series) for name, series in stage.platform.measured.items()}
    keep(report, "mixed load")
    check(report)
    for name, series in measured.items():
        before, after = thirds(series)
        print(name, "before", before, "after", after)
        for what, share, few in (("memory", 1.1, 20e6), ("files", 1.1, 10), ("threads", 1.1, 5)):
            limit = share * getattr(before, what) + few
            assert getattr(after, what) <= limit, (name, what, before, after)


def thirds(series: Sequence[Taken]) -> tuple[Taken, Taken]:
    """The medians of the second third and of the last."""
    third = len(series) // 3
    return middle(series[third : 2 * third]), middle(series[2 * third :])


def middle(series: Sequence[Taken]) -> Taken:
    memory, files, threads = (
        round(statistics.median(values))
        for values in zip(*((one.memory, one.files, one.threads) for one in series), strict=True)
    )
    return Taken(series[-1].at, memory, files, threads)
