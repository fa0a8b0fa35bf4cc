"""`docker compose up` starts the application: hardened, with secrets of its own, and it answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import yaml
from tests.deploy.application import SECRETS, Application, running_application, write_secrets
from tests.deploy.engine import CLIENT, DEBIAN_IMAGES, WATCHING_IMAGES, Engine
from tests.deploy_tools import REPOSITORY, tool

from aisle.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # an image is built by whoever asks first

OURS = re.compile(r"^aisle/")
NOT_READ_ONLY = {
    "postgres": "the official image writes its socket and its configuration beside the volume",
    "airflow-postgres": "as postgres",
    "mlflow": "writes compiled Python beside its packages",
    "storage": "writes its temporary files beside the volume",
}
ROOT = {
    "airflow-workspace": "gives a folder of the machine to the user of the others, and ends",
    "postgres": "the official image changes to its own account by itself",
    "airflow-postgres": "as postgres",
    "storage": "the official image runs as root, without any capability",
    "mlflow": "the official image runs as root, without any capability",
    "prometheus": "the official image names its account",
    "alertmanager": "the official image names its account",
    "pushgateway": "the official image names its account",
    "grafana": "the official image names its account",
    "node-exporter": "the official image names its account",
}


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_secrets(tmp_path_factory.mktemp("secrets"))


def understood(env_file: Path) -> dict[str, dict[str, Any]]:
    """Every service of every profile, as Compose understands it."""
    compose = [tool("docker-compose"), "--env-file", str(env_file), "--profile", "*", "config", "--format", "json"]
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    done = subprocess.run(compose, cwd=REPOSITORY, env=clean, check=True, capture_output=True, text=True)
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


@pytest.fixture(scope="module")
def services(env_file: Path) -> dict[str, dict[str, Any]]:
    return understood(env_file)


def test_secrets_are_made_up_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("POSTGRES_PASSWORD=mine\n")
    for _ in range(2):
        subprocess.run(["sh", SECRETS, file], check=True, capture_output=True)
    values = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert values["POSTGRES_PASSWORD"] == "mine"
    assert len(file.read_text().splitlines()) == len(values)
    made_up = [value for name, value in values.items() if name.endswith(("PASSWORD", "KEY", "SECRET", "PASSPHRASE"))]
    assert len(set(made_up)) == len(made_up) > 8
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_secrets_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    compose = [tool("docker-compose"), "--env-file", str(tmp_path / "empty"), "config", "--quiet"]
    done = subprocess.run(compose, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "run make secrets" in done.stderr


def test_no_file_holds_a_password(services: dict[str, dict[str, Any]], env_file: Path) -> None:
    secrets = {line.split("=", 1)[1] for line in env_file.read_text().splitlines()} - {"admin"}
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|PASSPHRASE|FERNET|TOKEN$", variable) and value:
                assert value in secrets, f"{name}: {variable}"


def test_no_secret_is_on_a_command_line(services: dict[str, dict[str, Any]], env_file: Path) -> None:
    secrets = {line.split("=", 1)[1] for line in env_file.read_text().splitlines()} - {"admin"}
    for service in services.values():
        words = json.dumps([service.get("command"), service.get("entrypoint"), service.get("healthcheck")])
        assert not [one for one in secrets if one in words]


def test_each_image_is_ours_or_of_an_exact_version(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        assert OURS.match(service["image"]) or re.search(r":v?\d+\.\d+", service["image"])


def test_what_stands_in_for_an_image_has_the_name_that_compose_asks_for(services: dict[str, dict[str, Any]]) -> None:
    assert {*DEBIAN_IMAGES, *WATCHING_IMAGES} <= {service["image"] for service in services.values()}
    assert f"DOCKER_IMAGE={CLIENT}" in (REPOSITORY / "Dockerfile").read_text()


def test_no_service_may_become_more_than_it_is(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        assert service.get("cap_drop") == ["ALL"] or "postgres" in name, name
        assert service.get("read_only") or name in NOT_READ_ONLY, name
        assert OURS.match(service["image"]) or service.get("user") or name in ROOT, name
        assert "container_name" not in service, name


def test_docker_s_socket_is_seen_by_one_worker_alone(services: dict[str, dict[str, Any]]) -> None:
    mounts = {name: json.dumps(service.get("volumes", [])) for name, service in services.items()}
    assert [name for name, mounted in mounts.items() if "docker.sock" in mounted] == ["airflow-docker-worker"]


def test_ports_are_those_of_the_original_and_open_to_this_machine_alone(services: dict[str, dict[str, Any]]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert {one["host_ip"] for several in ports.values() for one in several} == {"127.0.0.1"}
    assert ports["serve"][0]["published"] == "8000"
    assert ports["auth"][0]["published"] == "8011"


def test_every_variable_is_one_that_aisle_knows(services: dict[str, dict[str, Any]]) -> None:
    known = {name.upper() for name in Settings.model_fields} | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    known |= {"TMPDIR"}  # Python's own
    names = (
        "migrations",
        "auth",
        "serve",
        "worker",
        "first-model",
        "data",
        "train",
        "predict",
        "loop",
        "alert-account",
    )
    for name in names:
        assert set(services[name]["environment"]) <= known, name


def test_a_worker_is_well_whose_heartbeat_is_new(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    command = services["worker"]["command"]
    heartbeat = command[command.index("--heartbeat") + 1]
    assert Path(heartbeat).parent == Path(services["worker"]["tmpfs"][0])  # each container's own
    kind, line = services["worker"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    file = tmp_path / "heartbeat"
    for age, is_well in ((None, False), (0, True), (61, False)):
        if age is not None:
            file.touch()
            os.utime(file, (time.time() - age, time.time() - age))
        done = subprocess.run(["sh", "-c", line.replace(heartbeat, str(file))], check=False, capture_output=True)
        assert (done.returncode == 0) == is_well, age


PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----"
FROM_ENV = {
    "auth": {
        "TOKEN_ISSUER": "shop",
        "TOKEN_AUDIENCE": "catalogue",
        "ACCESS_TOKEN_EXPIRE_MINUTES": "5",
        "REFRESH_TOKEN_EXPIRE_DAYS": "2",
        "SIGNING_ALGORITHM": "ES256",
        "SIGNING_KEY_LEAD_MINUTES": "20",
        "LOGIN_FAILURES": "5",
        "LOGIN_WINDOW_MINUTES": "30",
        "LOGIN_ATTEMPTS_PER_MINUTE": "6",
    },
    "serve": {
        "SERVE_MODEL": "0123456789ab",
        "CHAMPION_POLL_SECONDS": "4",
        "THREADS": "1",
        "QUEUE_SIZE": "8",
        "BATCH_SIZE": "4",
        "PREDICT_TIMEOUT_SECONDS": "6",
        "PREDICTIONS_KEEP_DAYS": "30",
        "RECORDS_MIB": "2",
        "TOKEN_ISSUER": "shop",
        "TOKEN_AUDIENCE": "catalogue",
        "CONSOLE_IDLE_HOURS": "1",
        "BATCH_LOCATIONS": "s3://shop/",
        "BATCH_QUOTAS": "admin=1/10",
        "BATCH_MAX_MIB": "7",
        "BATCHES_KEEP_DAYS": "3",
        "REVIEW_PHOTOS_MIB": "0",
        "BUNDLE_PUBLIC_KEY": PUBLIC_KEY,
    },
    "worker": {
        "BATCH_LOCATIONS": "s3://shop/",
        "BATCHES_KEEP_DAYS": "3",
        "WORKER_POLL_SECONDS": "1",
        "WORKER_LEASE_SECONDS": "9",
        "WORKER_PROCESSES": "2",
        "BUNDLE_PUBLIC_KEY": PUBLIC_KEY,
    },
    **{
        name: {"BUNDLE_PUBLIC_KEY": PUBLIC_KEY, "BUNDLE_SIGNING_KEY": "key"}
        for name in ("first-model", "train", "loop")
    },
    "predict": {"BUNDLE_PUBLIC_KEY": PUBLIC_KEY},
}


def test_what_env_says_reaches_whom_it_is_for(env_file: Path, tmp_path: Path) -> None:
    said = {name: value for values in FROM_ENV.values() for name, value in values.items()}
    file = tmp_path / ".env"
    file.write_text(env_file.read_text() + "".join(f'{name}="{value}"\n' for name, value in said.items()))
    found = understood(file)
    for name, values in FROM_ENV.items():
        assert values.items() <= found[name]["environment"].items()


def test_prometheus_asks_services_that_are_there(services: dict[str, dict[str, Any]]) -> None:
    configured = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yaml").read_text())
    asked = {
        name for job in configured["scrape_configs"] for dns in job.get("dns_sd_configs", []) for name in dns["names"]
    }
    asked |= {
        target.partition(":")[0]
        for job in configured["scrape_configs"]
        for static in job.get("static_configs", [])
        for target in static["targets"]
    }
    assert asked - {"127.0.0.1"} <= set(services)


@pytest.fixture(scope="module")
def application(docker: Engine, env_file: Path) -> Iterator[Application]:
    with running_application(docker, env_file) as running:
        yield running


def test_a_token_and_a_prediction_go_through(application: Application) -> None:
    form = {"designation": "Piscine gonflable ronde 3 m", "product_id": "1"}
    answer = httpx.post(f"{application.url}/predict", data=form, headers=application.sign_in(), timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predicted"] == "2583"


def test_both_services_answer_as_the_original_did(application: Application) -> None:
    assert httpx.get(f"{application.url}/status").json() == {"status": "L'API fonctionne correctement"}
    assert application.sign_in(application.token_url)


def test_the_prediction_is_in_postgresql_and_the_limit_in_redis(application: Application) -> None:
    headers = application.sign_in()
    asked = httpx.post(f"{application.url}/predict", json={"designation": "Un livre"}, headers=headers, timeout=30)
    identifier = asked.json()["prediction_id"]
    psql = ("exec", "-T", "postgres", "psql", "-U", "aisle", "-d", "aisle", "-tAc")
    query = f"select designation from predictions where id = '{identifier}'"  # noqa: S608
    for _ in range(100):  # the record is written beside the answer
        if found := application.compose(*psql, query).strip():
            break
    assert found == "Un livre"
    keys = application.compose("exec", "-T", "redis", "redis-cli", "dbsize")
    assert int(keys.split()[-1]) > 0


def test_a_service_is_nobody_in_particular_and_cannot_write_where_it_lives(application: Application) -> None:
    for name in ("serve", "auth", "worker"):
        assert application.compose("exec", "-T", name, "id", "-u").strip() == "10001"
        refused = application.compose("exec", "-T", name, "touch", "/app/here", check=False)
        assert "Read-only" in refused


ROWS = 40_000
SECONDS = 600


def table(rows: int) -> bytes:
    """Titles, each of its own."""
    words = ("livre roman ancien", "piscine gonflable bleue", "jeu de console", "figurine", "lampe de chevet")
    lines = (f"{row},{words[row % len(words)]} {row}" for row in range(rows))
    return "\n".join(["productid,designation", *lines]).encode()


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@dataclass
class Batch:
    """A batch that was asked for over HTTP."""

    application: Application
    headers: dict[str, str]
    path: str

    @classmethod
    def of(cls, application: Application, content: bytes) -> Batch:
        headers = application.sign_in()
        files = {"table": ("catalogue.csv", content)}
        answer = httpx.post(f"{application.url}/batches", files=files, headers=headers, timeout=60)
        assert answer.status_code == 202, answer.text
        return cls(application, headers, answer.headers["Location"])

    def get(self) -> dict[str, Any]:
        answer = httpx.get(self.application.url + self.path, headers=self.headers, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        assert found["state"] in ("waiting", "running", "done"), found
        return found

    def done(self) -> dict[str, Any]:
        until(lambda: self.get()["state"] == "done")
        return self.get()

    def results(self, form: str) -> bytes:
        answer = httpx.get(
            f"{self.application.url}{self.path}/results", params={"format": form}, headers=self.headers, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer.content


def test_a_batch_is_done_by_the_worker_and_its_results_come_in_every_format(application: Application) -> None:
    batch = Batch.of(application, table(3))
    told = batch.done()
    assert (told["rows"], told["done"], told["errors"]) == (3, 3, 0)
    by_format = {
        "csv": pl.read_csv(batch.results("csv"), infer_schema=False),
        "ndjson": pl.read_ndjson(batch.results("ndjson")),
        "parquet": pl.read_parquet(batch.results("parquet")),
    }
    for form, found in by_format.items():
        assert [str(one) for one in found["productid"]] == ["0", "1", "2"], form
        assert [str(one) for one in found["predicted"]][1] == "2583", form


@pytest.fixture(scope="module")
def interrupted(application: Application) -> pl.DataFrame:
    """What a batch gives whose worker is killed in the middle, and started again."""
    batch = Batch.of(application, table(ROWS))
    until(lambda: batch.get()["done"] > 0)
    application.compose("kill", "--signal", "SIGKILL", "worker")
    killed_at = batch.get()
    assert 0 < killed_at["done"] < ROWS
    assert killed_at["state"] != "done"
    application.compose("up", "--detach", "--wait", "--no-build")
    told = batch.done()
    assert (told["rows"], told["done"], told["errors"]) == (ROWS, ROWS, 0)
    return pl.read_parquet(batch.results("parquet"))


def test_a_batch_whose_worker_is_killed_is_done_once_there_is_one_again(interrupted: pl.DataFrame) -> None:
    assert [int(one) for one in interrupted["productid"]] == list(range(ROWS))
    assert interrupted["predicted"].null_count() == 0


def test_two_workers_share_a_batch_and_it_comes_out_the_same(
    application: Application, interrupted: pl.DataFrame
) -> None:
    application.compose("up", "--detach", "--wait", "--no-build", "--scale", "worker=2")
    batch = Batch.of(application, table(ROWS))
    psql = ("exec", "-T", "postgres", "psql", "-U", "aisle", "-d", "aisle", "-tAc")
    query = f"select count(distinct worker) from batch_pieces where batch_id = '{batch.path.rpartition('/')[2]}'"  # noqa: S608
    until(lambda: int(application.compose(*psql, query)) == 2 or batch.get()["state"] == "done")
    assert batch.get()["state"] != "done"
    batch.done()
    result = pl.read_parquet(batch.results("parquet"))
    texts = [name for name, kind in result.schema.items() if not kind.is_float() and name != "top_k"]
    assert result.select(texts).equals(interrupted.select(texts))
    assert (result["confidence"] - interrupted["confidence"]).abs().max() < 1e-6  # type: ignore[operator]


def test_starting_again_trains_nothing_and_keeps_accounts_and_champion(application: Application) -> None:
    before = httpx.get(f"{application.url}/model", headers=application.sign_in()).json()["version"]
    application.compose("down", "--timeout", "10")
    application.compose("up", "--detach", "--wait", "--no-build")
    after = httpx.get(f"{application.url}/model", headers=application.sign_in()).json()["version"]
    assert after == before
    assert "trained" not in application.compose("logs", "first-model")
