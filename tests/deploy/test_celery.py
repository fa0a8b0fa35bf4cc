"""The profile `pipeline`: Airflow with PostgreSQL, Redis and Celery, and two workers, one with Docker's socket."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.deploy.engine import Engine
from tests.deploy_tools import REPOSITORY
from tests.servers import free_port

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]  # Airflow has seven services, and its image 250 packages

SERVICES = ("apiserver", "scheduler", "dag-processor", "triggerer", "worker", "docker-worker")
RUN_SECONDS = 900


@pytest.fixture
def airflow(docker: Engine, tmp_path: Path) -> Iterator[httpx.Client]:
    """Airflow as `make start` starts it, and its administrator signed in."""
    for target in ("airflow", "data"):
        docker.image(target)
    secrets, workspace = tmp_path / ".env", tmp_path / "workspace"
    subprocess.run(["sh", REPOSITORY / "deploy/secrets.sh", secrets], check=True, capture_output=True)
    values = dict(line.split("=", 1) for line in secrets.read_text().splitlines())
    workspace.mkdir()
    for parent in tmp_path.parents:  # pytest keeps its folders private, and a worker is nobody
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    socket = Path(docker.environment.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    port, mark = str(free_port()), uuid.uuid4().hex[:8]
    settings = {
        "AIRFLOW_PUBLISH_PORT": port,
        "AISLE_ENV_FILE": str(secrets),
        "AISLE_SUBNET": f"172.28.{int(mark[:2], 16)}.0/24",
        "AISLE_WORKSPACE": str(workspace),
        "DOCKER_GROUP": str(socket.stat().st_gid),
        "DOCKER_SOCKET": str(socket),
        "COMPOSE_PROJECT_NAME": f"aisle-test-{mark}",
    }
    compose = ("compose", "--env-file", secrets, "--profile", "pipeline")
    try:
        names = [f"airflow-{name}" for name in SERVICES]
        docker(*compose, "up", "--detach", "--wait", "--no-build", *names, check=True, **settings)
        form = {"username": "admin", "password": values["AIRFLOW_ADMIN_PASSWORD"]}
        answer = httpx.post(f"http://127.0.0.1:{port}/auth/token", json=form, timeout=60).raise_for_status()
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v2/dags", headers=headers, timeout=60) as client:
            yield client
    finally:
        docker(*compose, "down", "--volumes", "--timeout", "5", check=False, **settings)


def test_the_workers_share_the_tasks_as_their_queues_say(airflow: httpx.Client) -> None:
    begun = airflow.post("/ml_pipeline/dagRuns", json={"logical_date": None, "conf": {"rows": 300}})
    run = f"/ml_pipeline/dagRuns/{begun.raise_for_status().json()['dag_run_id']}"
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        found = airflow.get(f"{run}/taskInstances").raise_for_status().json()["task_instances"]
        tasks = {one["task_id"]: one for one in found}
        for name, one in tasks.items():
            assert one["try_number"] <= 1, airflow.get(f"{run}/taskInstances/{name}/logs/1").text
        if tasks["data.version"]["state"] == "success":
            break
        assert time.monotonic() < deadline, {name: one["state"] for name, one in tasks.items()}
        time.sleep(1)
    assert {name: tasks[f"data.{name}"]["queue"] for name in ("image", "fetch", "version")} == {
        "image": "docker",
        "fetch": "docker",
        "version": "default",
    }
