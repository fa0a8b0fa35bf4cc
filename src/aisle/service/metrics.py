"""What the prediction service measures of itself, beside what every service does (`web/metrics.py`)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

STAGE_SECONDS = Histogram(
    "aisle_predict_stage_seconds",
    "Time in a stage: decode and image for each image, text and fusion for each batch.",
    ["stage"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
BATCH_SIZE = Histogram("aisle_batch_size", "Predictions computed as one batch.", buckets=(1, 2, 4, 8, 16, 32, 64))
QUEUE_DEPTH = Gauge("aisle_queue_depth", "Predictions that wait for the model.", multiprocess_mode="livesum")
NOT_COMPUTED = Counter("aisle_predictions_not_computed", "Predictions given up, by why.", ["reason"])
PREDICTIONS = Counter("aisle_predictions", "Predictions, by type, decision and model.", ["type", "decision", "model"])
CONFIDENCE = Histogram(
    "aisle_prediction_confidence",
    "Confidence of the predicted type.",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1),
)
MODEL = Gauge(
    "aisle_model", "1 for the version that serves, 0 for those before.", ["version"], multiprocess_mode="livemax"
)
RELOAD_FAILURES = Counter("aisle_model_reload_failures", "New champions that were refused.")
MODEL_REFUSED = Gauge(
    "aisle_model_refused",
    "1 while the champion that the store names is refused, and another version serves.",
    multiprocess_mode="livemax",
)
RECORDS = Counter("aisle_prediction_records", "Records of predictions, by what became of them.", ["outcome"])
