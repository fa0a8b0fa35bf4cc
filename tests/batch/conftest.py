"""Two models of one shop, before and after its types changed, and a web server that takes what is told."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.end_to_end.conftest import edit_csv, write_csv
from tests.end_to_end.conftest import processes as processes  # noqa: PLC0414
from tests.end_to_end.conftest import run as run  # noqa: PLC0414

from aisle.catalog import CHANGES_FILE, TYPES_FILE, ProductTypes
from aisle.data.prepare import PrepareOptions, prepare
from aisle.data.raw import LABELS_FILE
from aisle.data.split import Shares
from aisle.data.validate import validate
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.training.recipes import light
from aisle.training.train import train


@pytest.fixture(scope="session")
def later_catalogue(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, a year later: 2705 went into 10, 40 is 41 now, 60 fell away, half of 2905 is the new type 2906, and
    2583 has another name."""
    raw = Path(shutil.copytree(sample, tmp_path_factory.mktemp("later") / "raw"))
    types = [one for one in ProductTypes.from_csv(raw / TYPES_FILE).values() if one.code not in ("2705", "40", "60")]
    names = {one.code: one.label for one in types} | {"41": "Rétro", "2906": "Jeux neufs", "2583": "Piscines"}
    write_csv(raw / TYPES_FILE, [["prdtypecode", "label"], *names.items()])
    write_csv(raw / CHANGES_FILE, [["prdtypecode", "becomes"], ["2705", "10"], ["40", "41"], ["60", ""]])

    def split(rows: list[dict[str, str]]) -> None:
        for row in [row for row in rows if row["prdtypecode"] == "2905"][::2]:
            row["prdtypecode"] = "2906"

    edit_csv(raw / LABELS_FILE, split)
    return raw


@pytest.fixture(scope="session")
def later_bundle(later_catalogue: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the later catalogue."""
    place = tmp_path_factory.mktemp("later_bundle")
    validate(later_catalogue, place / "validated")
    prepared = prepare(place / "validated", place / "preprocessed", options=PrepareOptions(Shares(0.15, 0.2)))
    return train(light(), prepared, place / "bundle", cache=cache, threads=2)


@pytest.fixture
def shop(bundle: Bundle, later_bundle: Bundle, sample: Path, cache: Path, tmp_path: Path) -> Settings:
    """Settings of a shop whose champion is the later bundle, and was the earlier one before."""
    store = BundleStore(tmp_path / "models")
    for one in (bundle, later_bundle):
        store.add(one)
        store.make_champion(one.version)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "raw").symlink_to(sample)
    return Settings(data_path=tmp_path / "data", models_path=store.root, cache_path=cache)


@dataclass
class Told:
    """One request: its headers, by small letters, and its body."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A server; each request takes the next of `answers`, the last one for all that follow. 0: it never answers."""

    url: str
    answers: list[int] = field(default_factory=lambda: [200])
    headers: dict[str, str] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def make_receiver() -> Iterator[Callable[[], Receiver]]:
    servers: list[tuple[ThreadingHTTPServer, Receiver]] = []

    def make() -> Receiver:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.told.append(Told(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
                if status == 0:
                    receiver.released.wait(60)
                    return
                self.send_response(status)
                for name, value in {**receiver.headers, "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}/told?key=secret")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append((server, receiver))
        return receiver

    yield make
    for server, receiver in servers:
        receiver.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def receiver(make_receiver: Callable[[], Receiver]) -> Receiver:
    return make_receiver()
