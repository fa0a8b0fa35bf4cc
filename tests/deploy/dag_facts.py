"""Run by Airflow's own Python: what the DAG of a folder is made of, as JSON."""

from __future__ import annotations

import json
import sys
import warnings

warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import ml_pipeline  # type: ignore[import-not-found]  # noqa: E402

dag = ml_pipeline.dag
print(
    json.dumps(
        {
            "max_active_runs": dag.max_active_runs,
            "catchup": dag.catchup,
            "params": sorted(dag.params),
            "commands": {
                "import validate prepare": ml_pipeline.FETCH,
                "train": ml_pipeline.TRAIN,
                "evaluate predict": ml_pipeline.TEST,
            },
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
        },
        default=list,
    )
)
