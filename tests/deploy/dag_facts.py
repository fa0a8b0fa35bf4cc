"""Run by Airflow's own Python: what the DAGs of a folder are made of, as JSON."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import ml_pipeline  # type: ignore[import-not-found]  # noqa: E402
import monitor_and_retrain  # type: ignore[import-not-found]  # noqa: E402

COMMANDS = {
    "ml_pipeline": {
        "import validate prepare": ml_pipeline.FETCH,
        "train": ml_pipeline.TRAIN,
        "evaluate predict": ml_pipeline.TEST,
    },
    "monitor_and_retrain": {"drift": monitor_and_retrain.DRIFT, "retrain": monitor_and_retrain.RETRAIN},
}


def facts(dag: Any) -> dict[str, Any]:
    condition = getattr(dag.timetable, "asset_condition", None)
    return {
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "params": sorted(dag.params),
        "paused": dag.is_paused_upon_creation,
        "schedule": getattr(getattr(dag.timetable, "timetable", None), "_expression", ""),  # it has no other name
        "assets": sorted(asset.name for _, asset in condition.iter_assets()) if condition else [],
        "outlets": sorted({asset.name for task in dag.tasks for asset in task.outlets}),
        "commands": COMMANDS[dag.dag_id],
        "tasks": {
            task.task_id: {
                "operator": type(task).__name__,
                "downstream": sorted(task.downstream_task_ids),
                "retries": task.retries,
                "seconds": task.execution_timeout.total_seconds() if task.execution_timeout else None,
                "queue": task.queue,
                "command": str(getattr(task, "bash_command", None) or getattr(task, "command", "")),
                "image": str(getattr(task, "image", "")),
            }
            for task in dag.tasks
        },
    }


found = {dag.dag_id: facts(dag) for dag in (ml_pipeline.dag, monitor_and_retrain.dag)}
print(json.dumps(found, default=list))
