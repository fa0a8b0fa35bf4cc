"""What the values files of deploy/kubernetes/charts promise: pinned charts, and secrets by reference only."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from ruamel.yaml import YAML
from tests.deploy_tools import REPOSITORY

from aisle.web.limits import Counter, Limit

if TYPE_CHECKING:
    from tests.servers import RunningRedis

CHARTS = REPOSITORY / "deploy" / "kubernetes" / "charts"
VALUES = sorted(CHARTS.glob("*.yaml"))
SETTINGS = ("chart", "repository", "version", "release", "namespace")
PAGE = REPOSITORY / "docs" / "kubernetes.md"
# What charts call a secret that is written into the values itself.
SECRET = re.compile(
    r"(admin|root|user|postgres)?password|pass|token|secretkey|accesskey|fernetkey|apisecretkey|jwtsecret|connection"
    r"|connectionstring|brokerurl",
    re.IGNORECASE,
)

chart = pytest.mark.parametrize("file", VALUES, ids=lambda file: file.stem)


def pinned(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^# (\w+): (\S+)$", file.read_text(), re.MULTILINE))


def values_of(file: Path) -> Any:
    return YAML(typ="safe", pure=True).load(file)


def scalars(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that holds no other, and where it is."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from scalars(value, (*path, str(key)))
    elif isinstance(values, list):
        for value in values:
            yield from scalars(value, path)
    else:
        yield path, values


def test_there_is_a_chart_for_each_part() -> None:
    charts = {pinned(file)["chart"] for file in VALUES}
    assert charts == {
        "cloudnative-pg", "cluster", "valkey", "airflow", "kube-prometheus-stack", "prometheus-pushgateway",
    }  # fmt: skip


@chart
def test_a_values_file_pins_its_chart(file: Path) -> None:
    named = pinned(file)
    assert tuple(named) == SETTINGS
    assert named["repository"].startswith("https://")
    assert re.fullmatch(r"\d+\.\d+\.\d+", named["version"])


@chart
def test_a_values_file_holds_no_secret(file: Path) -> None:
    found = [path for path, value in scalars(values_of(file)) if SECRET.fullmatch(path[-1]) and value]
    assert found == []


@chart
def test_every_secret_that_a_chart_is_given_is_documented(file: Path) -> None:
    given = {
        value
        for path, value in scalars(values_of(file))
        if re.search(r"(existing|users)?secret(name)?$", ".".join(path[-2:]).removesuffix(".name"), re.IGNORECASE)
        and isinstance(value, str)
    }
    page = PAGE.read_text()
    assert [name for name in given if f"`{name}`" not in page] == []
    assert given or file.stem in ("postgres-operator", "pushgateway")


@chart
def test_the_script_installs_what_the_file_pins(file: Path, tmp_path: Path) -> None:
    helm = tmp_path / "helm"  # there is no chart repository here, and no cluster
    helm.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$(dirname "$0")/asked"\n')
    helm.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = [str(CHARTS / "install.sh"), file.stem, "--set", "cluster.instances=1"]
    subprocess.run(command, check=True, env={"PATH": path}, timeout=30)
    asked = (tmp_path / "asked").read_text().splitlines()
    named = pinned(file)
    assert asked[:4] == ["upgrade", "--install", named["release"], named["chart"]]
    options = dict(zip(asked[4::2], asked[5::2], strict=False))
    assert options["--repo"] == named["repository"]
    assert options["--version"] == named["version"]
    assert options["--namespace"] == named["namespace"]
    assert asked[-2:] == ["--set", "cluster.instances=1"]


def test_airflow_has_the_version_of_the_image() -> None:
    lock = (REPOSITORY / "requirements" / "airflow.txt").read_text()
    assert f"\napache-airflow=={values_of(CHARTS / 'airflow.yaml')['airflowVersion']} " in lock


def test_nobody_gets_the_user_that_the_airflow_chart_would_make() -> None:
    assert values_of(CHARTS / "airflow.yaml")["createUserJob"] == {"enabled": False}


def test_the_verbs_push_to_where_the_pushgateway_is() -> None:
    named = pinned(CHARTS / "pushgateway.yaml")
    assert values_of(CHARTS / "pushgateway.yaml")["fullnameOverride"] == named["release"]
    given = {one["name"]: one["value"] for one in values_of(CHARTS / "airflow.yaml")["env"]}
    assert given["PUSHGATEWAY_URL"] == f"http://{named['release']}:9091"
    assert named["namespace"] == pinned(CHARTS / "airflow.yaml")["namespace"]


def test_no_chart_brings_a_database_of_its_own() -> None:
    values = values_of(CHARTS / "airflow.yaml")
    assert values["postgresql"] == values["redis"] == {"enabled": False}


@pytest.mark.slow
def test_the_rights_that_redis_gives_are_enough_to_count(redis_server: RunningRedis) -> None:
    rights = values_of(CHARTS / "redis.yaml")["auth"]["aclUsers"]["default"]["permissions"].split()
    with redis.Redis.from_url(redis_server.url) as server:
        server.execute_command("ACL", "SETUSER", "shop", "on", ">secret", *rights)
    counter = Counter(redis_server.url.replace("redis://", "redis://shop:secret@"))
    limit = Limit("predict", 3, timedelta(minutes=1))
    assert [counter.take(limit, "anne").left for _ in range(3)] == [2, 1, 0]
    counter.clear(limit, "anne")
    assert not counter.is_degraded
