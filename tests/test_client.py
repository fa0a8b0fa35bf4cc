"""The Python client: against the real services, and against answers that only a test can bring about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest
from sqlalchemy import Engine

from aisle.auth.accounts import Accounts
from aisle.auth.app import create_app as create_token_service
from aisle.auth.keys import KeyPolicy, ensure_key
from aisle.auth.keyset import fetch_keys
from aisle.auth.tokens import TokenPolicy, Verifier
from aisle.batch.worker import Worker
from aisle.client import Answer, ApiError, Client, ClientError, Unavailable
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.service.app import create_app
from aisle.service.champion import Champion
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.store.users import Role
from aisle.web.serving import Address, serve_beside

PASSWORD = "correct horse battery"
TOKEN = {"access_token": "token-1", "expires_in": 900}
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def settings(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("shop")
    store = BundleStore(folder / "models")
    store.add(bundle)
    store.make_champion(bundle.version)
    places = {"models_path": store.root, "batches_path": folder / "batches"}
    return Settings().model_copy(update={"rate_limits": "predict=1000/minute", **places})


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_database(f"sqlite:///{tmp_path_factory.mktemp('client') / 'aisle.db'}")


@pytest.fixture(scope="module")
def running(bundle: Bundle, settings: Settings, engine: Engine) -> Iterator[tuple[str, str]]:
    """The address of a real prediction service with a token service behind it, and an API key."""
    migrate(engine)
    ensure_key(engine, KeyPolicy.of(settings))
    accounts = Accounts(engine, "test")
    accounts.add_person("anne", Role.REVIEWER, PASSWORD)
    _, key = accounts.add_service("shop", Role.CLIENT)
    tokens = create_token_service(open_database(engine.url.render_as_string()), settings)
    with serve_beside(tokens, Address("127.0.0.1", 0, "AUTH_PORT"), what="serving tokens") as auth_url:
        verifier = Verifier(fetch_keys(f"{auth_url}/.well-known/jwks.json"), TokenPolicy.of(settings))
        champion = Champion(lambda: Path(bundle.path), threads=1)
        app = create_app(champion, engine, verifier, settings.model_copy(update={"auth_url": auth_url}))
        with serve_beside(app, Address("127.0.0.1", 0, "PORT"), what="serving") as service_url:
            yield service_url, key


@pytest.mark.parametrize("way", ["password", "api_key"])
def test_both_ways_to_sign_in_lead_to_a_prediction(running: tuple[str, str], way: str, bundle: Bundle) -> None:
    url, key = running
    how = {"api_key": key} if way == "api_key" else {"username": "anne", "password": PASSWORD}
    with Client(url, **how) as client:  # type: ignore[arg-type]
        answer = client.predict("Piscine gonflable ronde", product_id="12")
        assert isinstance(answer, Answer)
        assert (answer.predicted, answer.model) == ("2583", bundle.version)
        assert answer.predictions[0].label == answer.label
        client.feedback(answer.prediction_id, "1280")
        assert client.model()["version"] == bundle.version


class TestBatches:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        (tmp_path / "table.csv").write_text("index,designation\n7,piscine\n8,livre\n")
        return tmp_path / "table.csv"

    @pytest.fixture
    def client(self, running: tuple[str, str]) -> Iterator[Client]:
        with Client(running[0], api_key=running[1], language="en") as client:
            yield client

    @pytest.fixture
    def working(self, engine: Engine, settings: Settings) -> Iterator[None]:
        stop = threading.Event()
        worker = threading.Thread(target=Worker(engine, settings).work, args=(stop,))
        worker.start()
        yield
        stop.set()
        worker.join()

    @pytest.mark.usefixtures("working")
    @pytest.mark.parametrize("ending", ["csv", "ndjson", "parquet"])
    def test_a_table_goes_out_and_its_result_comes_back(
        self, client: Client, table: Path, tmp_path: Path, bundle: Bundle, ending: str
    ) -> None:
        sent = client.send_batch(table)
        batch = client.wait_for_batch(sent.id, pause=0.05)
        assert (batch.state, batch.rows, batch.done, batch.model) == ("done", 2, 2, bundle.version)
        out = tmp_path / f"out.{ending}"
        client.save_results(batch.id, out)
        scanned = {"csv": pl.scan_csv, "ndjson": pl.scan_ndjson, "parquet": pl.scan_parquet}
        table_of_results: pl.LazyFrame = scanned[ending](out)  # type: ignore[operator]
        assert [str(key) for key in table_of_results.collect()["index"]] == ["7", "8"]
        client.delete_batch(batch.id)
        with pytest.raises(ApiError, match="no such batch"):
            client.batch(batch.id)

    def test_what_is_not_done_has_no_result_and_leaves_no_file(
        self, client: Client, table: Path, tmp_path: Path
    ) -> None:
        batch = client.send_batch(table)
        with pytest.raises(ApiError) as refused:
            client.save_results(batch.id, tmp_path / "out.csv")
        assert refused.value.problem == "batch-not-done"
        assert list(tmp_path.iterdir()) == [table]
        assert client.cancel_batch(batch.id).is_over
        with pytest.raises(ValueError, match=r"\.csv, \.ndjson or \.parquet"):
            client.save_results(batch.id, tmp_path / "out.txt")

    def test_sent_again_with_its_key_it_is_the_same_batch(self, client: Client, table: Path) -> None:
        one, again = (client.send_batch(table, idempotency_key="monday") for _ in range(2))
        assert one.id == again.id
        client.cancel_batch(one.id)


def test_a_refusal_is_an_error_that_says_which(running: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"no image")
    with Client(running[0], api_key=running[1], language="en") as client:
        with pytest.raises(ApiError, match="not a JPEG") as refused:
            client.predict("piscine", image=tmp_path / "photo.jpg")
        assert (refused.value.status, refused.value.problem) == (415, "image-unknown-format")
        assert refused.value.request_id
        with pytest.raises(ApiError, match="nothing to classify"):
            client.predict()
        with pytest.raises(FileNotFoundError):
            client.predict("piscine", image=tmp_path / "none.jpg")


def test_a_wrong_password_is_an_error_without_the_password(running: tuple[str, str]) -> None:
    with Client(running[0], username="anne", password="wrong password") as client:
        with pytest.raises(ApiError) as refused:
            client.model()
        assert refused.value.status == 401
        assert "wrong password" not in f"{refused.value} {client!r}"


@pytest.mark.parametrize("how", [{}, {"username": "a"}, {"username": "a", "password": "b", "api_key": "c"}])
def test_it_takes_one_way_to_sign_in(how: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="either"):
        Client("http://x", **how)  # type: ignore[arg-type]


class Scripted:
    """A service that answers /token, and everything else as the test wants."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.pauses: list[float] = []
        self.now = 0.0
        self.signed_in = 0
        self.bearers: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            self.signed_in += 1
            return httpx.Response(200, json={"access_token": f"token-{self.signed_in}", "expires_in": 900})
        self.bearers.append(request.headers["authorization"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self) -> Client:
        return Client(
            "http://service",
            api_key="key",
            transport=httpx.MockTransport(self),
            sleep=self.pauses.append,
            clock=lambda: self.now,
        )


GOOD = httpx.Response(200, json={"version": "v"})


@pytest.mark.parametrize(
    "trouble",
    [httpx.Response(503), httpx.Response(429), httpx.ConnectError("refused"), httpx.ReadTimeout("slow")],
)
def test_what_time_may_change_is_asked_again_with_growing_pauses(trouble: httpx.Response | Exception) -> None:
    service = Scripted(trouble, trouble, trouble, GOOD)
    assert service.client().model() == {"version": "v"}
    assert len(service.pauses) == 3
    assert service.pauses[0] < service.pauses[1] < service.pauses[2]


def test_it_waits_as_long_as_it_is_told_and_gives_up_where_that_is_too_long() -> None:
    service = Scripted(httpx.Response(429, headers={"Retry-After": "17"}), GOOD)
    assert service.client().model() == {"version": "v"}
    assert service.pauses == [17.0]
    patient = Scripted(httpx.Response(429, headers={"Retry-After": "3600"}))
    with pytest.raises(Unavailable):
        patient.client().model()
    assert patient.pauses == []


def test_after_the_last_try_it_is_unavailable() -> None:
    service = Scripted(httpx.Response(503, headers={"Retry-After": "nonsense"}))
    with pytest.raises(Unavailable, match="503"):
        service.client().model()
    assert len(service.bearers) == 6


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 500])
def test_what_is_refused_for_a_reason_is_not_asked_again(status: int) -> None:
    service = Scripted(httpx.Response(status, text="<html>"))
    with pytest.raises(ApiError):
        service.client().model()
    assert len(service.bearers) == 1


def test_a_token_is_used_until_it_is_about_to_expire_and_renewed_once_when_refused() -> None:
    service = Scripted(GOOD)
    client = service.client()
    client.model()
    service.now = 860
    client.model()
    service.now = 880
    client.model()
    assert service.bearers == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    service.answers = [httpx.Response(401), GOOD]
    assert client.model() == {"version": "v"}
    service.answers = [httpx.Response(401)]
    with pytest.raises(ApiError):
        client.model()
    assert service.signed_in == 4


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"predictions": 3}', b'{"predictions": [{"a": 1}]}']
)
def test_an_answer_of_something_else_is_an_error_of_its_own(body: bytes) -> None:
    with pytest.raises(ClientError):
        Scripted(httpx.Response(200, content=body)).client().predict("piscine")
