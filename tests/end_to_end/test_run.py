"""`aisle run` in an empty folder: one command from nothing to a model that answers over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from tests.end_to_end.conftest import LOG_LINE, Processes, Ran, contents, leftovers, read_csv, wait_until, write_csv

from aisle.catalog import Prediction, Product
from aisle.data.raw import IMAGES_ZIP, TEST_FILE, image_stem
from aisle.data.sample import write_sample
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.registry.bundles import BundleStore
from aisle.store.retrainings import ENDS, Stage

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

WORDS = ("run", "--rows", "270")
SETTINGS: dict[str, Any] = {
    "PORT": "0",
    "AUTH_PORT": "0",
    "DRAIN_SECONDS": "0",
    "RATE_LIMITS": "predict=10000/minute",
}


@dataclass
class Service:
    """A process that serves, and what it has said on standard error so far."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)  # appends each line as it comes

    @property
    def url(self) -> str:
        """Where it serves; empty as long as it has not said so."""
        found = re.search(r" serving +\[.*url=(http://127\.0\.0\.1:\d+)", "".join(self.said))
        return found[1] if found else ""

    def stop(self) -> Ran:
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.heard()
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        return Ran(code, out, "".join(self.said))

    def heard(self) -> None:
        """Read to the end: a stream that is closed while a thread reads it fails in that thread."""
        self._reader.join(timeout=60)


@contextmanager
def serving(processes: Processes, folder: Path) -> Iterator[Service]:
    """`aisle run` in `folder`, from the moment on when it serves."""
    with processes.start(*WORDS, cwd=folder, **SETTINGS) as process:
        service = Service(process)
        try:
            wait_until(lambda: service.url, process)
            yield service
        finally:
            process.kill()
            service.heard()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def service(processes: Processes, folder: Path) -> Iterator[Service]:
    with serving(processes, folder) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service, folder: Path) -> Iterator[httpx.Client]:
    """The first administrator, signed in at the prediction service's own address."""
    name, password = (folder / "data" / "admin-password").read_text().split()
    with httpx.Client(base_url=service.url, timeout=30, headers={"Accept-Language": "en"}) as client:
        answer = answered(client.post("/token", data={"username": name, "password": password}))
        client.headers["Authorization"] = f"Bearer {answer['access_token']}"
        yield client


@dataclass(frozen=True)
class Shown:
    """A product of the catalogue's test part, which no model has seen."""

    row: dict[str, str]
    image: bytes

    @property
    def fields(self) -> dict[str, str]:
        return {"designation": self.row["designation"], "description": self.row["description"]}

    def product(self) -> Product:
        return Product(self.row["designation"], self.row["description"], self.image)


@pytest.fixture(scope="module")
def shown(service: Service, folder: Path) -> list[Shown]:
    raw = folder / "data" / "raw"
    with zipfile.ZipFile(raw / IMAGES_ZIP) as packed:
        names = {Path(name).stem: name for name in packed.namelist()}
        return [
            Shown(row, packed.read(names[image_stem(row["productid"], row["imageid"])]))
            for row in read_csv(raw / TEST_FILE)
        ]


@pytest.fixture(scope="module")
def predictor(service: Service, folder: Path) -> Iterator[Predictor]:
    """The champion of the run, loaded here."""
    with Predictor(Bundle.load(BundleStore(folder / "models").find("champion"))) as predictor:
        yield predictor


def multipart(client: httpx.Client, one: Shown) -> dict[str, Any]:
    image = {"image": ("image.jpg", one.image, "image/jpeg")}
    return answered(client.post("/predict", data=one.fields, files=image))


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def problem(response: httpx.Response) -> dict[str, Any]:
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    return body


def same(body: dict[str, Any], outcome: object) -> None:
    """The very numbers: both looked at one product alone."""
    assert isinstance(outcome, Prediction)
    assert (body["predicted"], body["label"]) == (outcome.type.code, outcome.type.label)
    assert (body["confidence"], body["decision"]) == (outcome.confidence, outcome.decision)
    assert body["predictions"] == [
        {"prediction": one.type.code, "label": one.type.label, "confidence": one.confidence}
        for one in outcome.candidates
    ]


class TestFirstRun:
    def test_it_leaves_every_stage_of_the_way(self, service: Service, folder: Path) -> None:
        files = contents(folder)
        version = BundleStore(folder / "models").serving().champion
        assert {
            "data/raw/X_train_update.csv",
            "data/validated/report.html",
            "data/preprocessed/products.parquet",
            f"models/{version}/manifest.json",
            f"data/reports/{version}/evaluation.html",
        } <= files.keys()
        assert leftovers(folder) == []

    def test_it_logs_each_stage_as_json_lines(self, service: Service, folder: Path) -> None:
        for name in ("train_model_logger.log", "serving_logger.log"):
            lines = (folder / "logs" / name).read_text().splitlines()
            assert all({"event", "level", "timestamp"} <= json.loads(line).keys() for line in lines)
            assert lines

    def test_it_says_nothing_but_log_lines(self, service: Service) -> None:
        assert all(LOG_LINE.match(line) for line in service.said)


class TestRoutes:
    def test_the_root_welcomes(self, client: httpx.Client) -> None:
        assert answered(client.get("/"))["message"].startswith("Bienvenue")

    def test_the_status_is_exactly_the_original_one(self, client: httpx.Client) -> None:
        assert answered(client.get("/status")) == {"status": "L'API fonctionne correctement"}

    def test_it_is_alive_and_ready_with_the_champion(self, client: httpx.Client, predictor: Predictor) -> None:
        assert client.get("/livez").status_code == 200
        assert answered(client.get("/readyz"))["model"] == predictor.version

    @pytest.mark.parametrize("image", [b"text", b"", None], ids=["text", "0 bytes", "no base64"])
    def test_a_bad_image_is_the_clients_mistake(self, client: httpx.Client, image: bytes | None) -> None:
        encoded = "no base64!" if image is None else base64.b64encode(image).decode()
        body = problem(client.post("/predict", json={"image": encoded}))
        assert body["detail"]

    def test_a_truncated_image_is_the_clients_mistake(self, client: httpx.Client, shown: list[Shown]) -> None:
        image = {"image": ("image.jpg", shown[0].image[:5000], "image/jpeg")}
        body = problem(client.post("/predict", data=shown[0].fields, files=image))
        assert "damaged" in body["detail"]

    def test_nothing_at_all_is_the_clients_mistake(self, client: httpx.Client) -> None:
        assert "nothing to classify" in problem(client.post("/predict", json={}))["detail"]


class TestOneProductIsOnePrediction:
    """The service, `aisle predict` and `Predictor` give the same numbers for the same product."""

    def test_a_form_with_an_image(self, client: httpx.Client, predictor: Predictor, shown: list[Shown]) -> None:
        for one in shown[:5]:
            same(multipart(client, one), predictor.predict([one.product()])[0])

    def test_json_with_an_image_in_base64(
        self, client: httpx.Client, predictor: Predictor, shown: list[Shown]
    ) -> None:
        for one in shown[:5]:
            body = answered(
                client.post("/predict", json={**one.fields, "image": base64.b64encode(one.image).decode()})
            )
            same(body, predictor.predict([one.product()])[0])

    def test_a_title_alone(self, client: httpx.Client, predictor: Predictor) -> None:
        body = answered(client.post("/predict", data={"designation": "Piscine gonflable ronde"}))
        same(body, predictor.predict([Product("Piscine gonflable ronde")])[0])
        assert body["predicted"] == "2583"
        assert body["model"] == predictor.version

    def test_the_command_line_with_one_product_is_the_same_bit_for_bit(
        self, client: httpx.Client, processes: Processes, folder: Path, shown: list[Shown], here: Path
    ) -> None:
        one = shown[0]
        write_csv(here / "in.csv", [list(one.row), list(one.row.values())])
        words = ("predict", here / "in.csv", "--output", here / "out.csv", "--images", "data/raw")
        assert processes.run(*words, cwd=folder).code == 0
        [row] = read_csv(here / "out.csv")
        body = multipart(client, one)
        assert float(row["confidence"]) == body["confidence"]
        assert json.loads(row["top_k"]) == body["predictions"]
        assert [row[name] for name in ("predicted", "label", "decision")] == [
            body[name] for name in ("predicted", "label", "decision")
        ]

    def test_the_command_line_in_another_batch_differs_by_less_than_a_millionth(
        self, client: httpx.Client, processes: Processes, folder: Path, shown: list[Shown], here: Path
    ) -> None:
        words = ("predict", f"data/raw/{TEST_FILE}", "--output", here / "out.parquet", "--images", "data/raw")
        assert processes.run(*words, cwd=folder).code == 0
        rows = pl.read_parquet(here / "out.parquet").to_dicts()
        assert len(rows) == len(shown) == 30
        for row, one in zip(rows, shown, strict=True):
            body = multipart(client, one)
            assert (row["predicted"], row["decision"]) == (body["predicted"], body["decision"])
            confidences = [
                [one["confidence"] for one in top] for top in (json.loads(row["top_k"]), body["predictions"])
            ]
            assert confidences[0] == pytest.approx(confidences[1], abs=1e-6, rel=0)


def console(page: str) -> str:
    """The commands of a page that ask the service, as one script, in the page's order."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = [block.replace("$ ", "") for block in blocks if "curl" in block]
    assert lines
    return "\n".join(lines)


class TestPages:
    @pytest.mark.parametrize("page", ["README.md", "README.fr.md", "docs/api.md"])
    def test_what_a_page_tells_to_type_works(
        self, service: Service, folder: Path, shown: list[Shown], page: str
    ) -> None:
        (folder / "photo.jpg").write_bytes(shown[0].image)
        script = console(page).replace("http://127.0.0.1:8000", service.url).replace("curl ", "curl --fail -sS ")
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True, check=False
        )
        (folder / "photo.jpg").unlink()
        assert ran.returncode == 0, ran.stderr
        assert '"predicted":' in ran.stdout

    def test_the_originals_lines_work(self, client: httpx.Client, shown: list[Shown]) -> None:
        """Its form has every field, and its page calls the route /predict_code."""
        fields = {**shown[0].fields, "product_identifier": "1", "product_id": "2", "imageid": "3"}
        for path in ("/predict", "/predict_code"):
            body = answered(client.post(path, data=fields, files={"image": shown[0].image}))
            assert {"predicted", "label", "predictions"} <= body.keys()


class TestBackup:
    def test_made_while_it_answers_it_brings_everything_back_beside_the_catalogue(
        self, processes: Processes, client: httpx.Client, folder: Path, shown: list[Shown], here: Path
    ) -> None:
        answers = [multipart(client, one) for one in shown[:3]]
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                answers.append(multipart(client, shown[0]))

        asking = threading.Thread(target=ask)
        asking.start()
        before = [one["prediction_id"] for one in answers]
        try:
            assert processes.run("backup", here / "made.tar", cwd=folder).code == 0
        finally:
            over.set()
            asking.join()

        database = shutil.ignore_patterns("aisle.db*")
        shutil.copytree(folder / "data", here / "data", ignore=database)  # the catalogue has versions of its own
        assert processes.run("restore", "made.tar", cwd=here).code == 0
        for one in before:
            assert processes.run("lineage", one, cwd=here).code == 0
        name, password = (folder / "data" / "admin-password").read_text().split()
        with serving(processes, here) as second, httpx.Client(base_url=second.url, timeout=30) as new:
            assert "fitting models" not in "".join(second.said)
            token = answered(new.post("/token", data={"username": name, "password": password}))["access_token"]
            new.headers["Authorization"] = f"Bearer {token}"
            again = multipart(new, shown[0])
        for same_as_before in ("predictions", "decision", "model"):
            assert again[same_as_before] == answers[0][same_as_before]


class TestAgain:
    """A second run in the same folder."""

    def test_it_does_nothing_anew_and_serves_the_same_model(
        self, processes: Processes, service: Service, folder: Path
    ) -> None:
        before = BundleStore(folder / "models")
        versions, champion = before.versions(), before.serving()
        with serving(processes, folder) as second:
            assert httpx.get(f"{second.url}/readyz").json()["model"] == champion.champion
            said = "".join(second.said)
        assert "trained before" in said
        for work in (
            "file imported",
            "catalogue validated",
            "catalogue prepared",
            "encoding images",
            "fitting models",
        ):
            assert work in "".join(service.said)
            assert work not in said
        after = BundleStore(folder / "models")
        assert (after.versions(), after.serving()) == (versions, champion)

    def test_sigterm_stops_it_cleanly(self, processes: Processes, service: Service, folder: Path) -> None:
        with serving(processes, folder) as second:
            url = second.url
            assert httpx.get(f"{url}/livez").status_code == 200
            ran = second.stop()
        assert (ran.code, ran.out) == (0, "")
        assert all(LOG_LINE.match(line) for line in ran.err.splitlines())
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/livez")

    def test_a_port_that_is_taken_is_wrong_use(self, processes: Processes, service: Service, folder: Path) -> None:
        ran = processes.run("serve", cwd=folder, PORT=service.url.rpartition(":")[2])
        assert ran.code == 2
        assert "cannot listen on 127.0.0.1:" in ran.complaint
        assert "PORT sets another port" in ran.complaint


class TestTutorial:
    """docs/tutorial.md as it is typed, in a shop of texts: enough of them for the gate, and learnt in seconds."""

    @pytest.mark.timeout(1800)
    @pytest.mark.soak
    def test_it_leads_from_a_run_to_a_retrained_model_and_back(self, processes: Processes, here: Path) -> None:
        write_sample(here / "data" / "raw", rows=2000, seed=0)
        (here / "data" / "raw" / IMAGES_ZIP).unlink()
        with serving(processes, here) as service:
            self._follow(processes, service, here)

    def _follow(self, processes: Processes, service: Service, folder: Path) -> None:
        page = (ROOT / "docs" / "tutorial.md").read_text()
        settings, make, *by_hand, shop, watch, after, undo = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
        assert make == "$ make run\n"
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
        [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        (folder / "shop.py").write_text(program.replace("http://127.0.0.1:8000", service.url))
        store = BundleStore(folder / "models")
        before = store.serving().champion
        smaller = [block.replace("--rows 900", "--rows 270") for block in by_hand]
        self._type(processes, service, folder, settings, *smaller)
        assert store.serving().champion == before  # promoted by hand, and rolled back

        with self._typing(processes, service, folder, shop) as listing:
            assert listing.stdout is not None
            assert all("corrected" in listing.stdout.readline() for _ in range(3))
            with self._typing(processes, service, folder, watch) as watching:
                assert self._end(processes, folder, watching) == Stage.DONE
        retrained = store.serving().champion
        assert retrained != before
        wait_until(lambda: httpx.get(f"{service.url}/readyz").json()["model"] == retrained, service.process)
        sign_in, _ = by_hand[0].split("$ curl http")
        assert f'"model":"{retrained}"' in self._type(processes, service, folder, sign_in, after)
        self._type(processes, service, folder, undo)
        assert store.serving().champion == before

    @staticmethod
    def _end(processes: Processes, folder: Path, watching: subprocess.Popen[str]) -> str:
        """The stage in which what is watched ends; of so few products the gate may ask an administrator."""
        assert watching.stderr is not None
        is_approved = False
        for line in watching.stderr:
            found = re.match(r"retraining \d+ \(hand\): ([\w ]+)", line)
            stage = Stage(found[1]) if found else Stage.COLLECT
            if stage is Stage.REVIEW and not is_approved:  # the line may come before the database has it, and again
                wait_until(lambda: processes.run("retrain", "approve", cwd=folder).code == 0, watching)
                is_approved = True
            if stage in ENDS:
                return stage
        return "stopped watching"

    def _type(self, processes: Processes, service: Service, folder: Path, *blocks: str) -> str:
        with self._typing(processes, service, folder, *blocks) as shell:
            out, err = shell.communicate(timeout=900)
        assert shell.returncode == 0, err
        return out

    @staticmethod
    @contextmanager
    def _typing(
        processes: Processes, service: Service, folder: Path, *blocks: str
    ) -> Iterator[subprocess.Popen[str]]:
        """A terminal in which these blocks are typed; at the end whatever runs in it is stopped."""
        script = "".join(blocks).replace("$ ", "").replace("http://127.0.0.1:8000", service.url)
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script.replace("curl ", "curl --fail -sS ")],
            cwd=folder, env=processes.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield shell
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate(timeout=60)
