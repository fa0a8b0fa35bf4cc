"""MLflow, a real server on SQLite, repeats what the bundle store says, after an outage too, and keeps no secret."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.servers import free_port
from tests.service.conftest import answering_wrongly

from aisle.errors import ServiceMissing, UsageError
from aisle.files import read_json, write_json
from aisle.model.bundle import RUN_FILE, Bundle
from aisle.registry.bundles import BundleStore
from aisle.registry.mirror import BUNDLE_TAG, mirror, needs_mirroring
from aisle.settings import Settings, get_settings

if find_spec("mlflow") is None:
    pytest.skip("MLflow is not installed", allow_module_level=True)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what MLflow warns of is not ours

TOKEN = "a-token-that-nobody-may-read"
START_SECONDS = 120


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A real MLflow server on SQLite, and its address."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    log = folder / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/health"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), free_port()) as url:
        yield url


@pytest.fixture
def settings(server: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Of a shop with an experiment of its own on the server."""
    return Settings(
        data_path=tmp_path / "data",
        models_path=tmp_path / "models",
        mlflow_tracking_uri=server,
        mlflow_experiment_name=request.node.name,
    )


@pytest.fixture
def store(settings: Settings, bundle: Bundle) -> BundleStore:
    """With a champion."""
    store = BundleStore(settings.models_path)
    store.add(bundle)
    store.make_champion(bundle.version)
    return store


@pytest.fixture
def other(bundle: Bundle, tmp_path: Path) -> Bundle:
    folder = tmp_path / "other"
    shutil.copytree(bundle.path, folder)
    answering_wrongly(folder)
    return Bundle.load(folder)


class Mlflow:
    """What is at the server, as a user of it sees it."""

    def __init__(self, settings: Settings) -> None:
        import mlflow

        self.client = mlflow.MlflowClient(settings.mlflow_uri)
        self.name = settings.mlflow_experiment_name

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name(self.name)
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id]))

    def aliases(self) -> dict[str, str]:
        """Alias → version of the bundle."""
        found = self.client.get_registered_model(self.name).aliases
        return {
            alias: self.client.get_model_version(self.name, number).tags[BUNDLE_TAG]
            for alias, number in found.items()
        }

    def files(self, run_id: str, folder: str | None = None) -> set[str]:
        found: set[str] = set()
        for one in self.client.list_artifacts(run_id, folder):
            found |= self.files(run_id, one.path) if one.is_dir else {one.path}
        return found


def test_a_run_has_its_parameters_metrics_tags_and_files(
    settings: Settings, store: BundleStore, bundle: Bundle
) -> None:
    write_json(settings.reports_path / bundle.version / "evaluation.json", {"a": 1})
    assert mirror(settings).logged == [bundle.version]
    there = Mlflow(settings)
    [run] = there.runs()
    assert (run.info.run_name, run.info.status) == ("light", "FINISHED")
    lineage, metrics = bundle.json("lineage.json"), bundle.json("metrics.json")
    tags = run.data.tags
    assert (tags["source"], tags["model_type"], tags["recipe"]) == ("cli", "TF-IDF+EfficientNet-Lite", "light")
    assert (tags["data_hash"], tags["git_revision"]) == (lineage["data_hash"], lineage["code_revision"])
    assert tags["version"] == json.loads((bundle.path / RUN_FILE).read_text())["began"]
    assert run.data.params["text.epochs"] == str(lineage["configuration"]["text"]["epochs"])
    assert run.data.metrics["test/all.weighted_f1"] == metrics["all"]["weighted_f1"]
    files = there.files(run.info.run_id)
    assert {"bundle/manifest.json", "bundle/MODEL_CARD.md", "label_table/product_types.csv"} <= files
    assert "reports/evaluation.json" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle"))]


def test_versions_and_aliases_follow_the_store(
    settings: Settings, store: BundleStore, bundle: Bundle, other: Bundle
) -> None:
    store.add(other)
    store.make_challenger(other.version)
    mirror(settings)
    there = Mlflow(settings)
    assert there.aliases() == {"champion": bundle.version, "challenger": other.version}
    store.make_champion(other.version)
    mirror(settings)
    assert there.aliases() == {"champion": other.version}
    store.roll_back()
    mirror(settings)
    assert there.aliases() == {"champion": bundle.version}


def test_a_registered_version_is_the_bundle_itself(
    settings: Settings, store: BundleStore, bundle: Bundle, tmp_path: Path
) -> None:
    mirror(settings)
    there = Mlflow(settings)
    [run] = there.runs()
    fetched = there.client.download_artifacts(run.info.run_id, "bundle", str(tmp_path))
    assert Bundle.load(Path(fetched)).version == bundle.version
    [version] = there.client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert (version.source or "").endswith("/bundle")


def test_twice_is_as_once(settings: Settings, store: BundleStore, bundle: Bundle) -> None:
    assert mirror(settings).logged == [bundle.version]
    assert mirror(settings).logged == []
    assert len(Mlflow(settings).runs()) == 1
    assert not needs_mirroring(settings)


def test_what_changes_later_needs_mirroring(
    settings: Settings, store: BundleStore, bundle: Bundle, other: Bundle
) -> None:
    changes: list[Callable[[], object]] = [
        lambda: store.add(other),
        lambda: store.make_challenger(other.version),
        lambda: store.make_champion(other.version),
        lambda: write_json(settings.reports_path / other.version / "gate.json", {"passed": True}),
    ]
    for change in changes:
        mirror(settings)
        change()
        assert needs_mirroring(settings)


def test_a_run_that_was_begun_by_a_mirroring_that_was_killed_is_logged_anew(
    settings: Settings, store: BundleStore, bundle: Bundle
) -> None:
    there = Mlflow(settings)
    experiment = there.client.create_experiment(there.name)
    there.client.create_run(experiment, tags={BUNDLE_TAG: bundle.version})
    mirror(settings)
    [run] = there.runs()
    assert run.info.status == "FINISHED"


def test_while_mlflow_is_away_the_work_goes_on_and_the_mirror_catches_up(
    settings: Settings, store: BundleStore, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    port = free_port()
    away = settings.model_copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{port}"})
    with pytest.raises(ServiceMissing, match="`aisle registry mirror` catches up"):
        mirror(away)
    store.add(other)
    store.make_champion(other.version)
    assert needs_mirroring(away)
    with mlflow_server(tmp_path / "server", port):
        assert set(mirror(away).logged) == {bundle.version, other.version}
        assert Mlflow(away).aliases() == {"champion": other.version}


@pytest.mark.parametrize("file", ["model.json", RUN_FILE])
def test_a_damaged_bundle_is_passed_over_and_logged_once_it_is_whole(
    settings: Settings, store: BundleStore, bundle: Bundle, other: Bundle, file: str
) -> None:
    path = store.add(other) / file
    whole = path.read_bytes()
    path.write_text("{")
    with capture_logs() as logs:
        done = mirror(settings)
    assert (done.logged, done.damaged) == ([bundle.version], [other.version])
    assert [one["version"] for one in logs if one["event"] == "damaged bundle passed over"] == [other.version]
    assert Mlflow(settings).aliases() == {"champion": bundle.version}
    assert needs_mirroring(settings)
    path.write_bytes(whole)
    assert mirror(settings).logged == [other.version]
    assert not needs_mirroring(settings)


def test_a_champion_that_was_damaged_after_it_was_logged_keeps_its_alias(
    settings: Settings, store: BundleStore, bundle: Bundle
) -> None:
    mirror(settings)
    (store.root / bundle.version / "model.json").write_text("{")
    assert mirror(settings).damaged == []
    assert Mlflow(settings).aliases() == {"champion": bundle.version}


def test_a_run_that_is_caught_up_later_says_who_started_the_training(
    settings: Settings, bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(bundle.path, tmp_path / "by airflow")
    write_json(tmp_path / "by airflow" / RUN_FILE, read_json(bundle.path / RUN_FILE) | {"source": "airflow"})
    BundleStore(settings.models_path).add(Bundle.load(tmp_path / "by airflow"))
    mirror(settings.model_copy(update={"run_source": "somebody else"}))
    [run] = Mlflow(settings).runs()
    assert run.data.tags["source"] == "airflow"


def test_a_bundle_outside_the_store_has_its_run_logged_and_is_registered_once_it_is_in_it(
    settings: Settings, bundle: Bundle
) -> None:
    assert mirror(settings, bundle).logged == [bundle.version]
    there = Mlflow(settings)
    [run] = there.runs()
    assert not there.client.search_model_versions(f"run_id = '{run.info.run_id}'")
    BundleStore(settings.models_path).add(bundle)
    assert mirror(settings, bundle).logged == []
    assert len(there.runs()) == 1
    assert len(there.client.search_model_versions(f"run_id = '{run.info.run_id}'")) == 1


def test_two_mirrorings_at_once_log_each_run_once(settings: Settings, store: BundleStore) -> None:
    threads = [threading.Thread(target=mirror, args=(settings,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Mlflow(settings).runs()) == 1


AISLE = [sys.executable, "-m", "aisle"]


def aisle(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    ours = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | variables
    return subprocess.run([*AISLE, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def make_shop(folder: Path, sample: Path, cache: Path) -> Path:
    """A folder with a catalogue whose images were encoded before, and nothing else."""
    shutil.copytree(sample, folder / "shop" / "data" / "raw")
    shutil.copytree(cache, folder / "shop" / "data" / "cache")
    return folder / "shop"


@pytest.fixture
def shop(sample: Path, bundle: Bundle, cache: Path, tmp_path: Path) -> Path:
    return make_shop(tmp_path, sample, cache)


@pytest.fixture(scope="module")
def trained_shop(sample: Path, bundle: Bundle, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained in as a stage of DVC trains, without a setting of MLflow."""
    shop = make_shop(tmp_path_factory.mktemp("trained"), sample, cache)
    ran = aisle(shop, "train", "--out", "data/model", RUN_SOURCE="dvc")
    assert ran.returncode == 0, ran.stderr
    return shop


def test_a_training_is_logged_in_sqlite_without_a_setting(trained_shop: Path) -> None:
    again = aisle(trained_shop, "registry", "mirror", "--json")
    assert json.loads(again.stdout)["mlflow"] == "sqlite:///data/mlflow.db"
    assert json.loads(again.stdout)["logged"] == []
    assert (trained_shop / "data" / "mlflow-artifacts").is_dir()


def test_a_training_into_a_folder_of_its_own_is_logged_with_its_source(trained_shop: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{trained_shop}/data/mlflow.db")
    experiment = client.get_experiment_by_name("ProductCodeClassifier")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.tags[BUNDLE_TAG] == Bundle.load(trained_shop / "data" / "model").version
    assert run.data.tags["source"] == "dvc"
    assert not (trained_shop / "models" / "serving.json").exists()


@pytest.mark.soak
def test_a_training_does_not_wait_for_an_mlflow_that_never_answers(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:  # accepts, and says nothing
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}"
        ran = aisle(shop, "train", MLFLOW_TRACKING_URI=uri, MLFLOW_WAIT_SECONDS="1")
    assert ran.returncode == 0, ran.stderr
    assert "MLflow does not have this run yet; logging goes on by itself" in ran.stderr


@pytest.mark.soak
def test_a_training_succeeds_though_mlflow_is_away(shop: Path) -> None:
    ran = aisle(shop, "train", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert ran.returncode == 0, ran.stderr
    assert "MLflow does not have this run yet" in ran.stderr
    mirrored = aisle(shop, "registry", "mirror", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert mirrored.returncode == 5
    assert "Traceback" not in mirrored.stderr


class Refusing(BaseHTTPRequestHandler):
    """A server that asks for a name and a password, remembers what it got, and lets nobody in."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        self.send_response(401)
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_the_token_goes_in_a_header_and_nowhere_else(shop: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        seen: list[tuple[str, str]] = []
        refusing.seen = seen  # type: ignore[attr-defined]
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{refusing.server_port}"
        variables = {"MLFLOW_TRACKING_URI": url, "DAGSHUB_USERNAME": "anne", "DAGSHUB_TOKEN": TOKEN}
        trained = aisle(shop, "train", **variables)
        mirrored = aisle(shop, "registry", "mirror", **variables)
        refusing.shutdown()
    assert (trained.returncode, mirrored.returncode) == (0, 5)
    expected = "Basic " + base64.b64encode(f"anne:{TOKEN}".encode()).decode()
    assert {header for _, header in seen} == {expected}
    assert not [path for path, _ in seen if TOKEN in path]
    said = trained.stdout + trained.stderr + mirrored.stdout + mirrored.stderr
    for secret in (TOKEN, expected.split()[1]):
        assert secret not in said
        for path in shop.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_an_address_with_a_password_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://anne:{TOKEN}@dagshub.com/anne/shop.mlflow")
    get_settings.cache_clear()
    with pytest.raises(UsageError, match="DAGSHUB_TOKEN") as refused:
        get_settings()
    assert TOKEN not in str(refused.value)
