"""The Bento, built and served for real, beside the prediction service: the same answers, the same refusals."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.deploy_tools import REPOSITORY
from tests.servers import free_port
from tests.service.processes import PASSWORD, Running, Shop, sign_in, wait_for

from aisle.auth.keys import KeyRing
from aisle.auth.tokens import Signer, TokenPolicy
from aisle.clock import utc_now
from aisle.data.prepare import Prepared
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.users import Role

pytestmark = pytest.mark.slow

BENTOML = REPOSITORY / ".venv-bentoml" / "bin" / "bentoml"
BENTO = "aisle_predict:latest"
SOURCE = "deploy.bentoml.service:Aisle"
MARK = "the Bento's own source"
PICKLES = "application/vnd.bentoml+pickle"
QUEUE_SIZE = 20
TITLE = {"designation": "Piscine gonflable ronde 3 m"}


@dataclass
class Served:
    """`bentoml serve` as a process, and where it answers."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        return False

    def batches(self) -> tuple[float, float]:
        """Batches that BentoML made so far, and predictions in them."""
        text = httpx.get(f"{self.url}/metrics").text
        name = r"bentoml_service_adaptive_batch_size_{}\S* (\S+)"
        return tuple(sum(map(float, re.findall(name.format(what), text))) for what in ("count", "sum"))  # type: ignore[return-value]


@pytest.fixture(scope="module", autouse=True)
def _bentoml_is_here() -> None:
    if not BENTOML.is_file():
        pytest.skip("BentoML is not here: make .venv-bentoml/.ready installs it")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    store = BundleStore(folder / "models")
    store.add(bundle)
    store.make_champion(bundle.version)
    return Shop.at(folder, QUEUE_SIZE=str(QUEUE_SIZE), TRUSTED_PROXIES="127.0.0.1")


@pytest.fixture(scope="module")
def tokens(shop: Shop) -> Iterator[Running]:
    with shop.running("auth") as running:
        yield running


@pytest.fixture(scope="module")
def service(shop: Shop, tokens: Running) -> Iterator[Running]:
    with shop.running("serve") as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of BentoML's with the Bento in it, as `make bento` builds it."""
    home = tmp_path_factory.mktemp("bentoml")
    built = subprocess.run(
        [BENTOML, "build", "--bentofile", "deploy/bentoml/bentofile.yaml", "."],
        cwd=REPOSITORY,
        env=environment(home, PYTHONPATH="src"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return home


@pytest.fixture(scope="module")
def built(home: Path) -> Path:
    """The Bento's folder."""
    return next((home / "bentos" / "aisle_predict").glob("*/bento.yaml")).parent


@pytest.fixture(scope="module")
def bento(shop: Shop, tokens: Running, home: Path, built: Path) -> Iterator[Served]:
    """The built Bento, served; its own source says so, to be told from what is installed beside it."""
    (built / "src" / "aisle" / "__init__.py").write_text(f'__version__ = "{MARK}"\n')
    with serving(shop, home, BENTO) as served:
        yield served


@pytest.fixture(scope="module")
def headers(tokens: Running) -> dict[str, str]:
    return {**sign_in(tokens.url), "Accept-Language": "en"}


@pytest.fixture(scope="module")
def photo(prepared: Prepared) -> bytes:
    images = prepared.images()
    assert images is not None
    return images.read(prepared.products().drop_nulls("image")["image"][0])


def environment(home: Path, **settings: str) -> dict[str, str]:
    """None of the developer's settings; BentoML finds uv where the tests run, or it would install one."""
    ours = {name.upper() for name in Settings.model_fields}
    rest = {name: value for name, value in os.environ.items() if name not in ours}
    path = f"{Path(sys.executable).parent}{os.pathsep}{rest['PATH']}"
    return {**rest, "PATH": path, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **settings}


@contextlib.contextmanager
def serving(shop: Shop, home: Path, what: str, *, folder: Path | None = None, **settings: str) -> Iterator[Served]:
    """`bentoml serve` in `folder`, or the shop's, once it is ready; told to stop at the end."""
    port = free_port()
    log = shop.folder / f"bento-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BENTOML, "serve", what, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder or shop.folder,
            env=environment(home, **{**shop.settings, **settings}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        served = Served(process, f"http://127.0.0.1:{port}", log)
        try:
            wait_for(lambda: served.is_ready() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield served
            if process.poll() is None:
                process.terminate()
                assert process.wait(30) == 0, log.read_text()
            assert PASSWORD not in log.read_text()
        finally:
            if process.poll() is None:  # its worker ends with it only when it is told to
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
            process.kill()
            process.wait()


def both(service: Running, bento: Served, signed: dict[str, str], **request: Any) -> list[httpx.Response]:
    """What each answers to the same request."""
    headers = {**signed, **request.pop("headers", {})}
    return [httpx.post(f"{url}/predict", headers=headers, timeout=30, **request) for url in (service.url, bento.url)]


def test_a_product_gets_the_answer_of_the_prediction_service(
    service: Running, bento: Served, headers: dict[str, str], photo: bytes
) -> None:
    everything = {**TITLE, "description": "Avec pompe, 3 665 l", "product_id": "12"}
    for request in (
        {"data": TITLE},
        {"json": everything},
        {"data": everything, "files": {"image": photo}},
        {"files": {"image": photo}},
        {"json": {"image": base64.b64encode(photo).decode()}},
    ):
        answers = both(service, bento, headers, **request)
        assert [one.status_code for one in answers] == [200, 200], answers[1].text
        expected, found = ({**one.json(), "prediction_id": "", "request_id": ""} for one in answers)
        theirs, ours = (one.pop("predictions") for one in (expected, found))
        assert [one["prediction"] for one in ours] == [one["prediction"] for one in theirs]
        assert [one["label"] for one in ours] == [one["label"] for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-6)
        assert found.pop("confidence") == pytest.approx(expected.pop("confidence"), abs=1e-6)
        assert found == expected
        assert {"x-request-id", "x-process-time", "ratelimit", "ratelimit-policy"} <= set(answers[1].headers)


@pytest.mark.parametrize(
    ("status", "request_body"),
    [
        (422, {"data": {"designation": " "}}),
        (422, {"json": {"designation": "x" * 2001}}),
        (422, {"data": TITLE, "files": {"image": b""}}),
        (415, {"data": TITLE, "files": {"image": b"GIF89a"}}),
        (422, {"json": {"image": "?"}}),
        (400, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (415, {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
        (413, {"content": b"x" * (9 << 20), "headers": {"Content-Type": "application/json"}}),
    ],
    ids=["nothing", "long", "empty image", "other image", "no base64", "broken JSON", "other content", "large"],
)
def test_what_the_prediction_service_refuses_is_refused_alike(
    service: Running, bento: Served, headers: dict[str, str], status: int, request_body: dict[str, Any]
) -> None:
    answers = both(service, bento, headers, **request_body)
    assert [one.status_code for one in answers] == [status, status]
    assert problem(answers[1]) == problem(answers[0])


def test_a_damaged_image_is_refused_alike(
    service: Running, bento: Served, headers: dict[str, str], photo: bytes
) -> None:
    answers = both(service, bento, headers, data=TITLE, files={"image": photo[: len(photo) // 2]})
    assert [one.status_code for one in answers] == [422, 422]
    assert problem(answers[1]) == problem(answers[0])
    assert problem(answers[1])["type"] == "urn:aisle:problem:image-damaged"


@pytest.mark.parametrize("token", ["", "garbage", "expired"])
def test_whoever_has_no_good_token_is_not_answered(shop: Shop, service: Running, bento: Served, token: str) -> None:
    authorization = {"": {}, "garbage": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}}.get(
        token, {"Authorization": f"Bearer {expired_token(shop)}"}
    )
    answers = both(service, bento, authorization, json=TITLE)
    assert [one.status_code for one in answers] == [401, 401]
    assert problem(answers[1]) == problem(answers[0])
    assert answers[1].headers["www-authenticate"] == answers[0].headers["www-authenticate"]


def expired_token(shop: Shop) -> str:
    """A real one, of an hour ago."""
    engine = open_database(f"sqlite:///{shop.folder / 'data' / 'aisle.db'}")
    policy = TokenPolicy.of(Settings())
    try:
        keyring = KeyRing(engine, passphrase="")
        signer = Signer(keyring, policy, clock=lambda: utc_now() - policy.lifetime - timedelta(hours=1))
        return signer.sign("admin", Role.ADMIN)
    finally:
        engine.dispose()


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    return {name: value for name, value in answer.json().items() if name != "request_id"}


def test_a_prediction_is_recorded_and_may_be_corrected(bento: Served, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{bento.url}/predict", json=TITLE, headers=headers).json()
    body = {"prediction_id": answer["prediction_id"], "type": answer["predicted"]}
    assert httpx.post(f"{bento.url}/feedback", json=body, headers=headers).status_code == 201


def test_requests_that_come_together_are_computed_together(
    bento: Served, headers: dict[str, str], photo: bytes
) -> None:
    clients, each = 16, 12
    batches, predictions = bento.batches()

    def ask(_: int) -> list[int]:
        with httpx.Client(headers=headers, timeout=60) as client:
            return [
                client.post(f"{bento.url}/predict", data=TITLE, files={"image": photo}).status_code
                for _ in range(each)
            ]

    with ThreadPoolExecutor(clients) as pool:
        statuses = [one for some in pool.map(ask, range(clients)) for one in some]
    assert set(statuses) == {200}, bento.log.read_text()[-2000:]
    more_batches, more_predictions = bento.batches()
    assert more_predictions - predictions == clients * each
    assert more_batches - batches < clients * each / 2


def test_who_asks_while_the_queue_is_full_is_told_to_come_again(
    bento: Served, headers: dict[str, str], photo: bytes
) -> None:
    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{bento.url}/predict", data=TITLE, files={"image": photo}, headers=headers, timeout=60)

    with ThreadPoolExecutor(3 * QUEUE_SIZE) as pool:
        answers = list(pool.map(ask, range(6 * QUEUE_SIZE)))
    assert {one.status_code for one in answers} == {200, 503}
    refused = next(one for one in answers if one.status_code == 503)
    assert problem(refused)["type"] == "urn:aisle:problem:overloaded"
    assert refused.headers["retry-after"] == "1"


class Harm:
    """A pickle that leaves a file behind when somebody opens it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize(
    "path",
    ["/predict", "/predict_code", "/feedback", "/token", "/classify", "/schema.json", "/docs.json", "/", "/readyz"],
)
def test_no_route_opens_a_pickle(bento: Served, headers: dict[str, str], tmp_path: Path, path: str) -> None:
    content = pickle.dumps({"products": Harm(tmp_path / "harm")})
    for more in ({}, {"Buffer-Lengths": str(len(content))}):
        answer = httpx.post(
            f"{bento.url}{path}", content=content, headers={**headers, **more, "Content-Type": PICKLES}
        )
        assert 400 <= answer.status_code < 500
    assert not (tmp_path / "harm").exists()
    pickle.loads(content)  # noqa: S301  it would have been seen
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("path", ["/classify", "/schema.json", "/docs.json", "/static_content/index.html"])
def test_what_bentoml_adds_is_not_there_for_others(bento: Served, headers: dict[str, str], path: str) -> None:
    body = {"products": [{"title": "Piscine", "description": "", "image": None}]}
    for answer in (
        httpx.post(f"{bento.url}{path}", json=body, headers=headers),
        httpx.get(f"{bento.url}{path}", headers=headers),
    ):
        assert answer.status_code == 404
        assert problem(answer)["type"] == "urn:aisle:problem:not-found"


def test_the_platform_is_answered(bento: Served) -> None:
    assert httpx.get(f"{bento.url}/livez").status_code == 200
    assert httpx.get(f"{bento.url}/readyz").status_code == 200
    metrics = httpx.get(f"{bento.url}/metrics").text
    assert 'aisle_model{version="' in metrics
    assert "aisle_http_request_seconds_count" in metrics


def test_the_bento_answers_by_the_source_that_it_holds(bento: Served) -> None:
    assert httpx.get(f"{bento.url}/openapi.json").json()["info"]["version"] == MARK


def test_the_bento_holds_the_whole_source_and_nothing_of_the_machine(built: Path, bento: Served) -> None:
    source = REPOSITORY / "src" / "aisle"
    files = {one.relative_to(source) for one in source.rglob("*") if one.is_file() and one.suffix != ".pyc"}
    held = built / "src" / "aisle"
    assert {one.relative_to(held) for one in held.rglob("*") if one.is_file() and one.suffix != ".pyc"} == files
    assert {one.name for one in (built / "src").iterdir()} == {"aisle", "bentofile.yaml", "deploy", "requirements"}
    for one in built.rglob("*"):
        if one.is_file() and one.suffix not in {".pyc"}:
            assert str(REPOSITORY) not in one.read_text(errors="replace"), one


def test_the_bento_holds_the_lock_with_its_hashes(built: Path) -> None:
    lock = (REPOSITORY / "requirements" / "bentoml.txt").read_text()
    held = (built / "env" / "python" / "requirements.txt").read_text()
    assert re.findall(r"--hash=\S+", held) == re.findall(r"--hash=\S+", lock)
    assert not re.search(r"https?://|index-url|find-links", held)


def test_a_bento_that_is_told_to_stop_answers_until_it_is_not_asked_any_more(
    shop: Shop, tokens: Running, home: Path, headers: dict[str, str]
) -> None:
    settings = {
        "MODELS_PATH": str(shop.folder / "models"),
        "LOGS_PATH": str(shop.folder / "logs"),
        "DATABASE_URL": f"sqlite:///{shop.folder / 'data' / 'aisle.db'}",
        "DRAIN_SECONDS": "2",
        "PYTHONPATH": "src",
    }
    with serving(shop, home, SOURCE, folder=REPOSITORY, **settings) as served:
        served.process.terminate()
        wait_for(lambda: httpx.get(f"{served.url}/readyz").status_code == 503)
        answer = httpx.post(f"{served.url}/predict", json=TITLE, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        assert served.process.wait(30) == 0


def test_without_a_champion_it_ends_and_says_so(shop: Shop, home: Path) -> None:
    ended = subprocess.run(
        [BENTOML, "serve", BENTO, "--host", "127.0.0.1", "--port", str(free_port())],
        cwd=shop.folder,
        env=environment(home, **{**shop.settings, "MODELS_PATH": "nowhere"}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert (
        ended.stderr.strip().splitlines()[-1].endswith("there is no champion. `aisle run` makes the first champion.")
    )


def test_the_bento_has_one_route_of_bentoml_and_it_makes_batches(built: Path) -> None:
    routes = json.loads((built / "apis" / "schema.json").read_text())["routes"]
    assert [(one["name"], one["route"], one["batchable"]) for one in routes] == [("classify", "/classify", True)]
