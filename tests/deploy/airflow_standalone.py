"""A real Airflow, standalone, in a folder of its own: started, asked to run the pipeline, watched, and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.deploy_tools import REPOSITORY
from tests.servers import free_port

AIRFLOW = REPOSITORY / ".venv-airflow" / "bin"
START_SECONDS, RUN_SECONDS = 300, 1200


@dataclass(frozen=True)
class Airflow:
    """Where it answers, and where its logs are."""

    url: str
    home: Path

    def switch_on(self, dag: str) -> None:
        with self._client() as client:
            client.patch(f"/{dag}", json={"is_paused": False}).raise_for_status()

    def run(self, dag: str = "ml_pipeline", **params: object) -> dict[str, str]:
        """Run a DAG to its end; the state of each task. Fails the test, with the task's log, if one fails."""
        with self._client() as client:
            begun = client.post(f"/{dag}/dagRuns", json={"logical_date": None, "conf": params})
            run = f"/{dag}/dagRuns/{begun.raise_for_status().json()['dag_run_id']}"
            deadline = time.monotonic() + RUN_SECONDS
            while True:
                tasks = client.get(f"{run}/taskInstances").raise_for_status().json()["task_instances"]
                states = {task["task_id"]: str(task["state"]) for task in tasks}
                failed = [name for name, state in states.items() if state in ("failed", "up_for_retry")]
                if failed:
                    pytest.fail(f"{failed}: {self.log_of(dag, failed[0])}")
                if client.get(run).json()["state"] == "success":
                    return states
                if time.monotonic() > deadline:
                    pytest.fail(f"waited too long: {states}")
                time.sleep(1)

    def log_of(self, dag: str, task: str) -> str:
        """The last lines of a task's newest log."""
        found = sorted(self.home.glob(f"logs/dag_id={dag}/*/task_id={task}/*.log"), key=os.path.getmtime)
        return found[-1].read_text()[-4000:] if found else "no log"

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.home.glob("logs/dag_id=*/**/*.log"))

    @contextlib.contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        token = httpx.get(f"{self.url}/auth/token").raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"{self.url}/api/v2/dags", headers=headers, timeout=60) as client:
            yield client


@contextlib.contextmanager
def running_airflow(home: Path, settings: Mapping[str, str]) -> Iterator[Airflow]:
    """Airflow as `make airflow` starts it, on free ports; everybody on this machine is its administrator."""
    if not (AIRFLOW / "airflow").is_file():
        pytest.skip("Airflow is not here: make .venv-airflow/.ready installs it")
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        **settings,
    }
    home.mkdir(parents=True)
    with (home / "standalone.log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "deploy/airflow/standalone.sh"],
            cwd=REPOSITORY, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    airflow = Airflow(f"http://127.0.0.1:{port}", home)
    try:
        _wait(airflow, process)
        yield airflow
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):  # all of its processes, of which it leaves some
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)


def _wait(airflow: Airflow, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError), airflow._client() as client:
            if client.get("/ml_pipeline").status_code == 200:  # the DAG was found
                return
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail((airflow.home / "standalone.log").read_text()[-4000:])
        time.sleep(0.5)
