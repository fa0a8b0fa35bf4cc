"""The closed loop: look for drift, then retrain if something asks for it, or go on with the retraining under way.

It calls the verbs `aisle drift` and `aisle retrain --if-due`, which hold the rules; a run without anything to do is a
short one. It runs by the clock (`AISLE_LOOP_SCHEDULE`, by default every hour), and when `ml_pipeline` has imported
another catalogue. A retraining takes several runs: while its model gathers products as shadow and as canary, each run
looks whether there are enough.

It is paused until somebody switches it on: that a shop's model replaces itself is the shop's decision.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.sdk import DAG
from airflow.timetables.assets import AssetOrTimeSchedule
from airflow.timetables.trigger import CronTriggerTimetable
from runners import CATALOGUE, add_versions, chosen_runner, update_workspace

SERVES = "aisle registry list | grep -q champion || exit 0"  # a shop without a model has nothing to watch yet
DRIFT = (SERVES, "aisle drift --report data/drift")
RETRAIN = (
    SERVES,
    "aisle retrain --if-due || [ $? -eq 4 ]",  # the gate, or the products, say no: the champion stays
    "aisle registry mirror || [ $? -eq 5 ]",  # MLflow away: the next mirroring catches up
)

with DAG(
    "monitor_and_retrain",
    description="Drift, retraining, gate, shadow, canary, champion",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(os.environ.get("AISLE_LOOP_SCHEDULE", "0 * * * *"), timezone="UTC"),
        assets=[CATALOGUE],
    ),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    default_args={
        "owner": "aisle",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "execution_timeout": timedelta(hours=1),
    },
    tags=["aisle"],
) as dag:
    runner = chosen_runner()
    (
        runner.image("image", "train", before=update_workspace())
        >> runner.verbs("drift", "train", DRIFT, hours=1)
        >> runner.verbs("retrain", "train", RETRAIN, hours=24)
        >> add_versions("version", "corrections", "data/retraining", "catalogue", "corrections.csv")
    )
