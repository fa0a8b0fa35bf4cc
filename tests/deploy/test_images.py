"""Each image builds, holds only what it needs, runs as nobody on a root that it cannot write, and does its work."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.deploy.engine import BASE, REVISION, Engine
from tests.deploy_tools import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # an image is built by whoever asks first

LARGE = ("airflow", "environment")  # 250 packages, and all that the others have together
TARGETS = (
    *("data", "train", "predict", "serve", "auth"),
    *(pytest.param(target, marks=pytest.mark.soak) for target in LARGE),
)
LOCKS = {"environment": "keras", "airflow": "airflow"}
SERVICES = ("serve", "auth")
MEGABYTE = 1_000_000
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
SECRET = re.compile(r"password|secret|token|passphrase|api_key", re.IGNORECASE)


def inspected(docker: Engine, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image))[0]
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def in_python(docker: Engine, image: str, program: str, python: str = "python") -> str:
    return docker("run", "--rm", *HARDENED, "--entrypoint", python, image, "-c", program).strip()


@contextmanager
def volumes(docker: Engine, *names: str) -> Iterator[list[str]]:
    """New volumes, as arguments of `docker run`, at the places where the images write."""
    mark = uuid.uuid4().hex[:8]
    try:
        yield [word for name in names for word in ("--volume", f"test-{mark}-{name}:/app/{name}")]
    finally:
        for name in names:
            docker("volume", "rm", "--force", f"test-{mark}-{name}")


def verbs(docker: Engine, target: str, mounts: list[str], *commands: str) -> str:
    """`aisle` commands in a container, one after the other."""
    line = " && ".join(f"aisle {command}" for command in commands)
    options = [*HARDENED, *mounts, "--env", "MLFLOW_TRACKING_URI=off", "--entrypoint", "sh"]
    return docker("run", "--rm", *options, docker.image(target), "-ec", line)


def until_healthy(docker: Engine, container: str) -> None:
    deadline = time.monotonic() + 300
    while (health := docker("inspect", "--format", "{{.State.Health.Status}}", container).strip()) != "healthy":
        running = docker("inspect", "--format", "{{.State.Running}}", container).strip()
        if running != "true" or time.monotonic() > deadline:
            pytest.fail(f"{health}: {docker('logs', container, check=False)}")
        time.sleep(0.5)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_and_says_what_it_was_built_from(docker: Engine, target: str) -> None:
    config = inspected(docker, docker.image(target))["Config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == REVISION
    assert f"AISLE_REVISION={REVISION}" in config["Env"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_starts_with_a_root_that_cannot_be_written(docker: Engine, target: str) -> None:
    command = ["version"] if target == "airflow" else ["--version"]
    said = docker("run", "--rm", *HARDENED, docker.image(target), *command)
    assert re.search(r"\d+\.\d+", said)


@pytest.mark.parametrize("target", TARGETS)
def test_no_layer_and_no_setting_of_an_image_holds_a_secret(docker: Engine, target: str) -> None:
    image = docker.image(target)
    config = inspected(docker, image)["Config"]
    assert not [one for one in config["Env"] if SECRET.search(one.partition("=")[0])]
    assert not SECRET.search(docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image))
    hidden = r"find / -xdev \( -name .env -o -name .git -o -path '/app/*.pem' \) -print 2>/dev/null || true"
    assert docker("run", "--rm", *HARDENED, "--entrypoint", "sh", image, "-c", hidden) == ""


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_the_packages_of_its_lock_and_no_other(docker: Engine, target: str) -> None:
    text = (REPOSITORY / "requirements" / f"{LOCKS.get(target, target)}.txt").read_text()
    locked = {normalized(name) for name in re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)}
    python = f"/opt/{'airflow' if target == 'airflow' else 'aisle'}/bin/python"
    program = "import importlib.metadata as m, json; print(json.dumps([d.name for d in m.distributions()]))"
    listed = json.loads(in_python(docker, docker.image(target), program, python))
    expected = set() if target == "airflow" else {"aisle"}
    assert {normalized(name) for name in listed} - locked == expected


@pytest.mark.parametrize(("target", "most"), [("auth", 150), ("serve", 600)])
def test_a_service_is_small(docker: Engine, target: str, most: int) -> None:
    added = inspected(docker, docker.image(target))["Size"] - inspected(docker, BASE)["Size"]
    assert added <= most * MEGABYTE


@pytest.mark.parametrize("target", SERVICES)
def test_no_service_holds_tensorflow(docker: Engine, target: str) -> None:
    program = "import importlib.util as u; print([n for n in ('tensorflow', 'keras', 'mlflow') if u.find_spec(n)])"
    assert in_python(docker, docker.image(target), program) == "[]"


@pytest.mark.parametrize("target", SERVICES)
def test_a_service_says_whether_it_is_healthy(docker: Engine, target: str) -> None:
    assert "readyz" in " ".join(inspected(docker, docker.image(target))["Config"]["Healthcheck"]["Test"])


def test_one_product_s_way_through_the_images(docker: Engine) -> None:
    """Imported and prepared in one, learnt in the next, measured in the third, served by the fourth."""
    with volumes(docker, "data", "models", "logs") as mounts:
        verbs(docker, "data", mounts, "import --source sample --rows 300", "validate", "prepare")
        verbs(docker, "train", mounts, "train --data data/preprocessed")
        said = verbs(docker, "predict", mounts, "evaluate --data data/preprocessed --json", "audit export")
        assert json.loads(said.splitlines()[0])["rows"] > 0
        shown = verbs(docker, "predict", mounts, "registry list --json")
        version = json.loads(shown)["champion"]
        options = [*HARDENED, *mounts, "--entrypoint", "cat"]
        lineage = docker("run", "--rm", *options, docker.image("predict"), f"models/{version}/lineage.json")
        assert json.loads(lineage)["code_revision"] == REVISION
        container = docker("run", "--detach", *HARDENED, *mounts, docker.image("serve")).strip()
        try:
            until_healthy(docker, container)
        finally:
            docker("rm", "--force", container)


def test_the_token_service_s_image_serves(docker: Engine) -> None:
    with volumes(docker, "data", "logs") as mounts:
        container = docker("run", "--detach", *HARDENED, *mounts, docker.image("auth")).strip()
        try:
            until_healthy(docker, container)
            assert docker("exec", container, "id", "-u").strip() == "10001"
        finally:
            docker("rm", "--force", container)


def test_the_image_of_predict_holds_the_worker_which_stops_when_it_is_told_to(docker: Engine) -> None:
    with volumes(docker, "data", "models", "logs") as mounts:
        command = ["worker", "--processes", "1", "--heartbeat", "/tmp/heartbeat"]  # noqa: S108
        container = docker("run", "--detach", *HARDENED, *mounts, docker.image("predict"), *command).strip()
        try:
            until(lambda: "heartbeat" in docker("exec", container, "ls", "/tmp", check=False))  # noqa: S108
            docker("stop", "--time", "60", container)
            assert docker("inspect", "--format", "{{.State.ExitCode}}", container).strip() == "0"
        finally:
            docker("rm", "--force", container)


@pytest.mark.soak
def test_the_whole_environment_has_every_tool(docker: Engine) -> None:
    image = docker.image("environment")
    line = (
        "aisle --version && python -c 'import tensorflow, mlflow' && dvc --version && airflow version && git version"
    )
    assert "git version" in docker("run", "--rm", *HARDENED, "--entrypoint", "sh", image, "-ec", line)
