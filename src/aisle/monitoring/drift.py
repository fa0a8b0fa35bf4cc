"""One look at what is served: has it drifted from what the champion was measured on, and how good is the model still?

look(settings)   the last products of the database, or a table, against the bundle's reference; labels, estimates
tell(figures, …) the same for Prometheus
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from math import nan
from pathlib import Path
from typing import Any

from aisle.catalog import ProductTypes
from aisle.errors import BundleError
from aisle.model.bundle import METRICS_FILE, Bundle
from aisle.model.reference import Observations, Reference
from aisle.monitoring.detection import GROUPS, Drift, Moved, Options, detect, feature_names
from aisle.monitoring.labels import Interval, Labelled, from_confidence, from_labels
from aisle.monitoring.stages import Figures
from aisle.monitoring.window import MOST_PRODUCTS, Window, window_of_records, window_of_table
from aisle.registry.bundles import CHAMPION, BundleStore
from aisle.settings import Settings
from aisle.store import predictions
from aisle.store.engine import open_database, reading
from aisle.store.migrate import migrate
from aisle.training.observe import observe

MOST_LABELS = 2_000


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. `estimate` is the accuracy without labels, `measured` that of the bundle's own test products."""

    version: str
    types: ProductTypes
    reference: Reference
    window: Window
    observed: Observations
    drift: Drift
    labelled: Labelled | None
    estimate: Interval | None
    measured: float | None
    options: Options = Options()

    @property
    def detected(self) -> bool:
        return self.drift.detected

    @property
    def alarms(self) -> tuple[Moved, ...]:
        return self.drift.alarms

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.version,
            "source": self.window.source,
            "first_at": None if self.window.first_at is None else self.window.first_at.isoformat(),
            "last_at": None if self.window.last_at is None else self.window.last_at.isoformat(),
            **self.drift.as_dict(),
            "labels": None if self.labelled is None else self.labelled.as_dict(),
            "estimated_accuracy": None if self.estimate is None else asdict(self.estimate),
            "reference_accuracy": self.measured,
        }


def look(
    settings: Settings,
    *,
    model: str = CHAMPION,
    count: int | None = None,
    since: datetime | None = None,
    table: Path | None = None,
    images: Path | None = None,
) -> Look:
    """Compare the last `count` products that `model` answered for, or those of a `table`, with its reference.

    `count` is by default `DRIFT_WINDOW`, of a table all, at most 5,000. Of a table without `images` only the texts
    are compared. Raises BundleError for a bundle without a reference.
    """
    bundle = Bundle.load(BundleStore(settings.models_path).find(model))
    reference = bundle.reference()
    if reference is None:
        raise BundleError(
            "has no reference to compare with: an older aisle trained it",
            where=bundle.path,
            hint="Train again.",
        )
    labelled = None
    if table is None:
        window, labelled = _served(settings, bundle.version, count or settings.drift_window, since)
    else:
        rows = count or MOST_PRODUCTS
        window = window_of_table(table, bundle, count=rows, images=images, threads=settings.threads)
    components = 0 if reference.axes is None else reference.axes.axes.shape[1]
    observed = observe(window.products, reference.words, components)
    return Look(
        version=bundle.version,
        types=bundle.types(),
        reference=reference,
        window=window,
        observed=observed,
        drift=detect(reference, observed, groups=GROUPS if window.has_images else ("text",)),
        labelled=labelled,
        estimate=from_confidence([one.confidence for one in window.products], reference),
        measured=bundle.json(METRICS_FILE).get("all", {}).get("accuracy"),
    )


def _served(settings: Settings, version: str, count: int, since: datetime | None) -> tuple[Window, Labelled | None]:
    engine = open_database(settings.database_url)
    try:
        migrate(engine)
        with reading(engine) as connection:
            records = predictions.latest_products(connection, version, count, since=since)
            labels = predictions.latest_labels(connection, version, MOST_LABELS, since=since)
            first = min((one.created_at for one in labels), default=None)
            decided = {} if first is None else predictions.decided(connection, version, since=first)
    finally:
        engine.dispose()
    source = f"the last products that {version} answered for"
    return window_of_records(records, source), from_labels(labels, decided)


def tell(figures: Figures, seen: Look) -> None:
    """Every figure of the drift stage; a feature that was not compared is no number."""
    drift, model = seen.drift, seen.version
    figures.set("aisle_drift_detected", float(drift.detected), "1 where the last window has drifted.")
    figures.set("aisle_drift_window_products", drift.window_products, "Products in the last window.")
    compared = {one.name: one for one in drift.features}
    for name in feature_names(seen.reference):
        one = compared.get(name)
        effect, p_value = (nan, nan) if one is None else (one.effect, one.adjusted_p_value)
        alarm = one is not None and one.alarm
        figures.set("aisle_drift_effect", effect, "How far a feature has moved, 0 to 1.", feature=name)
        figures.set("aisle_drift_p_value", p_value, "How likely chance alone does that, adjusted.", feature=name)
        figures.set("aisle_drift_alarm", float(alarm), "1 where a feature has drifted.", feature=name)
    if seen.estimate is not None:
        figures.set(
            "aisle_estimated_accuracy", seen.estimate.value, "Accuracy of the window, by confidence.", model=model
        )
    if seen.measured is not None:
        figures.set("aisle_reference_accuracy", seen.measured, "Accuracy when the model was trained.", model=model)
    _tell_labels(figures, seen.labelled, model)


def _tell_labels(figures: Figures, labelled: Labelled | None, model: str) -> None:
    labels = 0 if labelled is None else sum(labelled.labels.values())
    figures.set("aisle_feedback_labels", labels, "Predictions that people gave a type.", model=model)
    if labelled is None:
        return
    for name, meaning, interval in (
        ("aisle_feedback_accuracy", "Accuracy by what people said.", labelled.accuracy),
        ("aisle_feedback_weighted_f1", "Weighted F1 by what people said.", labelled.weighted_f1),
    ):
        if interval is not None:
            for bound, value in asdict(interval).items():
                figures.set(name, value, meaning, model=model, bound=bound)
    if labelled.calibration_error is not None:
        figures.set(
            "aisle_feedback_calibration_error",
            labelled.calibration_error,
            "How far confidence is from what people said.",
            model=model,
        )
