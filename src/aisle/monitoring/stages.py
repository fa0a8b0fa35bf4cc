"""What a verb tells Prometheus of its work: when it last succeeded and failed, how long it took, its figures.

    with stage("drift", settings) as figures:
        figures.set("aisle_drift_effect", 0.2, "How far a feature has moved, 0 to 1.", feature="title_length")

A verb is gone before Prometheus would ask it. So it pushes to a Pushgateway (`PUSHGATEWAY_URL`) or, where there is
none, writes DATA_PATH/metrics/STAGE.prom, which the textfile collector of node exporter reads.

A name that is told again replaces all its earlier values; other names stay, so that the last success is still known
after a failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import Metric, pushadd_to_gateway, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from aisle.clock import Clock, utc_now
from aisle.logs import get_logger
from aisle.settings import Settings

Stage = Literal["import", "validate", "prepare", "train", "evaluate", "predict", "drift", "retrain", "changes"]
STAGES: tuple[Stage, ...] = get_args(Stage)

JOB = "aisle"
# Not "stage": the gateway puts it on every figure, over a label of the same name.
GROUPED_BY = "verb"
PUSH_SECONDS = 5
LAST = {
    "success": "aisle_stage_last_success_timestamp_seconds",
    "failure": "aisle_stage_last_failure_timestamp_seconds",
}


class Figures(Collector):
    """Gauges by name and labels. They are known to nobody until the stage ends."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def set(self, name: str, value: float, meaning: str, /, **labels: str) -> None:
        """`meaning` is the help text of `name`; the last value for the same labels counts."""
        family = self._families.setdefault(name, Metric(name, meaning, "gauge"))
        family.samples = [one for one in family.samples if one.labels != labels]
        family.add_sample(name, labels, value)

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()

    def keep(self, earlier: Iterable[Metric]) -> None:
        """Take over what is not told anew."""
        for family in earlier:
            self._families.setdefault(family.name, family)


@contextlib.contextmanager
def stage(name: Stage, settings: Settings, *, clock: Clock = utc_now) -> Iterator[Figures]:
    """Time what is done in the context, and tell its figures at the end, whether it succeeded or raised.

    Who stops it by hand (KeyboardInterrupt) has neither seen it fail nor succeed: nothing is told. Raises nothing of
    its own: figures that reach nobody are a warning in the log.
    """
    figures = Figures()
    began = clock()
    try:
        yield figures
    except Exception:
        _end(name, "failure", figures, settings, (clock() - began).total_seconds(), clock().timestamp())
        raise
    _end(name, "success", figures, settings, (clock() - began).total_seconds(), clock().timestamp())


def textfile(name: Stage, settings: Settings) -> Path:
    """Where the figures of a stage are without a Pushgateway."""
    return settings.data_path / "metrics" / f"{name}.prom"


def _end(
    name: Stage,
    outcome: Literal["success", "failure"],
    figures: Figures,
    settings: Settings,
    seconds: float,
    now: float,
) -> None:
    figures.set(LAST[outcome], now, f"When the stage last ended in {outcome}.", stage=name)
    took = "How long the stage took the last time, however it ended."
    figures.set("aisle_stage_duration_seconds", seconds, took, stage=name)
    try:
        if settings.pushgateway_url:
            _push(name, figures, settings.pushgateway_url)
        else:
            _write(textfile(name, settings), figures)
    except (OSError, HTTPException) as error:
        to = settings.pushgateway_url or str(textfile(name, settings))
        get_logger(__name__).warning("figures not told", stage=name, to=to, reason=str(error))


def _push(name: Stage, figures: Figures, gateway: str) -> None:
    pushadd_to_gateway(gateway, JOB, figures, {GROUPED_BY: name}, timeout=PUSH_SECONDS)


def _write(file: Path, figures: Figures) -> None:
    with contextlib.suppress(FileNotFoundError, ValueError):  # there is none yet, or somebody spoilt it
        figures.keep(text_string_to_metric_families(file.read_text(encoding="utf-8")))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(file), figures)
