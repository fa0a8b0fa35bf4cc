"""What the prediction service measures of itself, beside what every service does (`web/metrics.py`)."""

from __future__ import annotations

from itertools import product

from prometheus_client import Counter, Gauge, Histogram

from aisle.web.metrics import from_zero

STAGE_SECONDS = Histogram(
    "aisle_predict_stage_seconds",
    "Time in a stage: decode and image for each image, text and fusion for each batch.",
    ["stage"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
BATCH_SIZE = Histogram("aisle_batch_size", "Predictions computed as one batch.", buckets=(1, 2, 4, 8, 16, 32, 64))
QUEUE_SIZE = Gauge(
    "aisle_queue_size", "How many predictions may be inside, waiting and computed.", multiprocess_mode="livesum"
)
QUEUE_INSIDE = Gauge("aisle_queue_inside", "How many predictions are inside.", multiprocess_mode="livesum")
QUEUE_DEPTH = Gauge("aisle_queue_depth", "Predictions that wait for the model.", multiprocess_mode="livesum")
NOT_COMPUTED = from_zero(
    Counter("aisle_predictions_not_computed", "Predictions given up, by why.", ["reason"]),
    *("queue_full", "too_late", "gone"),
)
PREDICTIONS = Counter("aisle_predictions", "Predictions, by type, decision and model.", ["type", "decision", "model"])
CONFIDENCE = Histogram(
    "aisle_prediction_confidence",
    "Confidence of the predicted type.",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1),
)
MODEL = Gauge(
    "aisle_model", "1 for the version that serves, 0 for those before.", ["version"], multiprocess_mode="livemax"
)
MODEL_TRAINED = Gauge(
    "aisle_model_trained_timestamp_seconds",
    "When the version that serves was trained; NaN for those before.",
    ["version"],
    multiprocess_mode="livemax",
)
RELOAD_FAILURES = Counter("aisle_model_reload_failures", "New champions that were refused.")
MODEL_REFUSED = Gauge(
    "aisle_model_refused",
    "1 while the champion that the store names is refused, and another version serves.",
    multiprocess_mode="livemax",
)
RECORDS = from_zero(
    Counter("aisle_prediction_records", "Records of predictions, by what became of them.", ["outcome"]),
    *("stored", "dropped", "refused"),
)
JOURNAL = from_zero(
    Counter(
        "aisle_journal_records",
        "Records that the journal gave back after a kill, that were damaged in it, or that it could not take.",
        ["outcome"],
    ),
    *("replayed", "damaged", "not_written"),
)
PHOTOS = from_zero(
    Counter("aisle_review_photos", "Photos of products that people should look at, by outcome.", ["outcome"]),
    *("made", "dropped", "damaged"),
)
BATCHES = Gauge(
    "aisle_batches",
    "Batches that are known, by state; those that are over are forgotten after BATCHES_KEEP_DAYS.",
    ["state"],
    multiprocess_mode="livemostrecent",
)
BATCH_PIECES = Gauge(
    "aisle_batch_pieces",
    "Pieces of batches that are not done: free for a worker, held by one, or put back for a while.",
    ["state"],
    multiprocess_mode="livemostrecent",
)
BATCH_PIECES_IN_VAIN = Gauge(
    "aisle_batch_pieces_tried_in_vain",
    "Pieces of batches that were put back at least once, and are not done.",
    multiprocess_mode="livemostrecent",
)

EXPERIMENT_RUNNING = Gauge(
    "aisle_experiment_running",
    "1 for the experiment that runs, 0 for those before.",
    ["kind", "champion", "challenger"],
    multiprocess_mode="livemax",
)
EXPERIMENT_SHARE = Gauge(
    "aisle_experiment_share", "Share of the products that are the challenger's.", multiprocess_mode="livemax"
)
ARM_PREDICTIONS = from_zero(
    Counter("aisle_arm_predictions", "Predictions of each arm of an experiment, by outcome.", ["arm", "outcome"]),
    *product(("champion", "challenger"), ("ok", "error")),
)
ARM_SECONDS = Histogram(
    "aisle_arm_seconds",
    "Time that each arm of an experiment took for a prediction, waiting included.",
    ["arm"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
SHADOW_PREDICTIONS = from_zero(
    Counter("aisle_shadow_predictions", "Answered products for the challenger to be shown, by outcome.", ["outcome"]),
    *("computed", "dropped", "error"),
)
SHADOW_AGREEMENT = from_zero(
    Counter("aisle_shadow_agreement", "Shown products, by whether the challenger said the same.", ["agrees"]),
    *("yes", "no"),
)
EXPERIMENTS_STOPPED = from_zero(
    Counter("aisle_experiments_stopped", "Experiments that were stopped, by why.", ["reason"]),
    *("errors", "latency", "accuracy", "by hand"),
)
