"""The DAGs `ml_pipeline` and `monitor_and_retrain`: what they are made of, and what they do in a real Airflow."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.deploy.airflow_standalone import AIRFLOW, running_airflow
from tests.deploy.engine import Engine
from tests.deploy_tools import REPOSITORY
from tests.servers import free_port

from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # an image is built by whoever asks first

DAGS = REPOSITORY / "deploy" / "airflow" / "dags"
TASKS = [
    "data.image", "data.fetch", "data.version", "training.image", "training.train", "training.version", "test.image",
    "test.test", "test.version", "serving.auth_image", "serving.auth_up", "serving.api_image", "serving.api_up",
]  # fmt: skip
RUNNERS = ("docker", "kubernetes", "local")
OPERATORS = {
    "docker": {"BashOperator", "DockerOperator"},
    "kubernetes": {"BashOperator", "KubernetesPodOperator"},
    "local": {"BashOperator"},
}
ROWS = 300


SECRETS = {
    "DAGSHUB_TOKEN": "hidden-1",
    "AWS_SECRET_ACCESS_KEY": "hidden-2",
    "AISLE_DATABASE_URL": "postgresql://aisle:hidden-3@postgres/aisle",
}


def imported(**variables: str) -> subprocess.CompletedProcess[str]:
    """The DAGs' facts, as Airflow's own Python finds them with these variables."""
    if not (AIRFLOW / "python").is_file():
        pytest.skip("Airflow is not here: make .venv-airflow/.ready installs it")
    return subprocess.run(
        [AIRFLOW / "python", Path(__file__).with_name("dag_facts.py"), DAGS],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@functools.cache  # Airflow takes ten seconds to import
def all_facts(runner: str, **variables: str) -> dict[str, Any]:
    done = imported(AISLE_RUNNER=runner, AISLE_WORKSPACE="/srv/pipeline", **SECRETS, **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def facts(runner: str, *, dag: str = "ml_pipeline", **variables: str) -> dict[str, Any]:
    found: dict[str, Any] = all_facts(runner, **variables)[dag]
    return found


@pytest.fixture(scope="module", params=RUNNERS)
def dag(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"runner": request.param, **facts(request.param)}


def test_there_are_thirteen_tasks_in_four_groups_one_after_the_other(dag: dict[str, Any]) -> None:
    assert list(dag["tasks"]) == TASKS
    followers = [dag["tasks"][name]["downstream"] for name in TASKS]
    assert followers == [*([name] for name in TASKS[1:]), []]


def test_a_runner_needs_its_own_operators_alone(dag: dict[str, Any]) -> None:
    assert {task["operator"] for task in dag["tasks"].values()} == OPERATORS[dag["runner"]]


def test_every_task_is_tried_again_and_has_a_time_limit(dag: dict[str, Any]) -> None:
    assert all(task["retries"] >= 1 and task["seconds"] for task in dag["tasks"].values())


def test_one_run_at_a_time(dag: dict[str, Any]) -> None:
    assert dag["max_active_runs"] == 1
    assert not dag["catchup"]


def test_docker_s_socket_is_asked_of_the_worker_that_has_it_alone() -> None:
    tasks = facts("docker")["tasks"]
    needing = {
        name for name, task in tasks.items() if "docker" in task["command"] or task["operator"] == "DockerOperator"
    }
    assert needing == {name for name, task in tasks.items() if task["queue"] == "docker"}
    assert {"data.version", "training.version", "test.version"}.isdisjoint(needing)


@pytest.mark.parametrize("runner", RUNNERS)
def test_no_secret_is_on_a_command_line(runner: str) -> None:
    assert not [task for task in facts(runner)["tasks"].values() if "hidden" in task["command"]]


def test_an_unknown_runner_is_named() -> None:
    assert "AISLE_RUNNER is 'ship'; there are docker, kubernetes, local" in imported(AISLE_RUNNER="ship").stderr


def test_the_dag_and_dvc_call_the_same_commands() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for names, commands in facts("local")["commands"].items():
        called = "\n".join(commands)
        for stage in names.split():
            # Templates differ in how they name a parameter; the words around it are the same.
            words = re.sub(r"\$\{[^}]*\}", "", stages[stage]["cmd"]).split()
            assert [word for word in words if word not in called] == [], stage


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_closed_loop_calls_the_verbs_by_the_clock_and_when_there_is_another_catalogue(runner: str) -> None:
    loop = facts(runner, dag="monitor_and_retrain")
    assert list(loop["tasks"]) == ["image", "drift", "retrain", "version"]
    assert "0 * * * *" in loop["schedule"]
    assert loop["assets"] == facts(runner)["outlets"] == ["aisle_catalogue"]
    assert {task["operator"] for task in loop["tasks"].values()} == OPERATORS[runner]
    assert any("aisle drift" in command for command in loop["commands"]["drift"])
    assert any("aisle retrain --if-due" in command for command in loop["commands"]["retrain"])


def test_the_closed_loop_waits_until_somebody_switches_it_on() -> None:
    loop = facts("local", dag="monitor_and_retrain")
    assert loop["paused"]
    assert (loop["max_active_runs"], loop["catchup"]) == (1, False)


def test_how_often_the_closed_loop_looks_is_the_shop_s_choice() -> None:
    loop = facts("local", dag="monitor_and_retrain", AISLE_LOOP_SCHEDULE="*/10 * * * *")
    assert "*/10 * * * *" in loop["schedule"]


@pytest.fixture
def pipeline(tmp_path: Path) -> dict[str, str]:
    """The settings of a pipeline whose repository is this one as it is now, and whose versions go to a shelf."""
    repository, shelf = tmp_path / "repository", tmp_path / "shelf"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "safe.directory=*"]
    listed = subprocess.run(
        [*git, "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    ).stdout.split(b"\0")
    for name in (one.decode() for one in listed if one):
        source, target = REPOSITORY / name, repository / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    config = repository / ".dvc" / "config"
    named = config.read_text().replace("[core]", "[core]\n    remote = shelf")
    config.write_text(f"{named}\n['remote \"shelf\"']\n    url = {shelf}\n")
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "the code"]):
        subprocess.run([*git, *words], cwd=repository, check=True, capture_output=True)
    return {"AISLE_REPOSITORY": str(repository), "AISLE_WORKSPACE": str(tmp_path / "workspace")}


def first_model_comes_back(pipeline: dict[str, str], version: str, folder: Path) -> None:
    """In a clone at the commit that recorded the first model, `dvc pull` brings that model."""
    git = ["git", "-c", "safe.directory=*"]
    subprocess.run([*git, "clone", "--quiet", pipeline["AISLE_WORKSPACE"], folder], check=True)
    recorded = subprocess.run(
        [*git, "log", "--reverse", "--format=%H", "--grep", "^model of"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    subprocess.run([*git, "checkout", "--quiet", recorded[0]], cwd=folder, check=True)
    subprocess.run([AIRFLOW / "python", "-m", "dvc", "pull", "--quiet", "data/model"], cwd=folder, check=True)
    assert Bundle.load(folder / "data" / "model").version == version


@pytest.mark.soak  # every time test_images.py goes a product's whole way in containers
def test_with_containers_it_runs_twice_and_once_more_with_the_original_s_model(
    docker: Engine, pipeline: dict[str, str], tmp_path: Path
) -> None:
    for target in ("data", "train", "predict", "auth", "serve"):  # so that the runs build from what is cached
        docker.image(target)
    project = f"aisle-test-{uuid.uuid4().hex[:8]}"
    ports = {f"{name}_PUBLISH_PORT": str(free_port()) for name in ("SERVE", "AUTH")}
    settings = {
        **{
            name: docker.environment[name]
            for name in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH")
            if name in docker.environment
        },
        **pipeline,
        **ports,
        "AISLE_RUNNER": "docker",
        "AISLE_PROJECT": project,
        "AISLE_SUBNET": f"172.29.{int(project[-2:], 16)}.0/24",
        "DAGSHUB_USERNAME": "anne",
        "DAGSHUB_TOKEN": "never-shown",
    }
    try:
        with running_airflow(tmp_path / "airflow", settings) as airflow:
            workspace = Path(pipeline["AISLE_WORKSPACE"])
            assert set(airflow.run(rows=ROWS).values()) == {"success"}
            first = Bundle.load(workspace / "data" / "model").version
            assert httpx.get(f"http://127.0.0.1:{ports['SERVE_PUBLISH_PORT']}/readyz").status_code == 200
            assert set(airflow.run(rows=ROWS).values()) == {"success"}
            assert Bundle.load(workspace / "data" / "model").version == first  # the same again
            assert set(airflow.run(rows=ROWS, recipe="lstm-vgg16", weights="none").values()) == {"success"}
            assert Bundle.load(workspace / "data" / "model").version != first
            assert "never-shown" not in airflow.logs()
        first_model_comes_back(pipeline, first, tmp_path / "clone")
    finally:
        docker(
            "compose", "--project-name", project, "--env-file", workspace / ".env", "down", "--volumes", check=False
        )
        docker("network", "rm", f"{project}_jobs", check=False)
        docker("volume", "rm", f"{project}_models", f"{project}_logs", check=False)


def test_without_containers_it_runs_in_a_virtual_environment(pipeline: dict[str, str], tmp_path: Path) -> None:
    workspace = Path(pipeline["AISLE_WORKSPACE"])
    settings = {
        **pipeline,
        "AISLE_RUNNER": "local",
        "AISLE_VENV": str(REPOSITORY / ".venv"),
        "PORT": "0",
        "AUTH_PORT": "0",
    }
    try:
        with running_airflow(tmp_path / "airflow", settings) as airflow:
            assert set(airflow.run(rows=ROWS).values()) == {"success"}
            airflow.switch_on("monitor_and_retrain")
            assert set(airflow.run("monitor_and_retrain").values()) == {"success"}
        assert (
            BundleStore(workspace / "models").serving().champion == Bundle.load(workspace / "data" / "model").version
        )
    finally:
        for name in ("serve", "auth"):
            subprocess.run([REPOSITORY / "deploy/airflow/service.sh", "stop", name], cwd=workspace, check=False)
