"""Two models of one shop, before and after its types changed, and a web server that takes what is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.end_to_end.conftest import processes as processes  # noqa: PLC0414
from tests.end_to_end.conftest import run as run  # noqa: PLC0414

from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings


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
                made.told.append(Told(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status = made.answers.pop(0) if len(made.answers) > 1 else made.answers[0]
                if status == 0:
                    made.released.wait(60)
                    return
                self.send_response(status)
                for name, value in {**made.headers, "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        made = Receiver(f"http://127.0.0.1:{server.server_port}/told?key=secret")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append((server, made))
        return made

    yield make
    for server, receiver in servers:
        receiver.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def receiver(make_receiver: Callable[[], Receiver]) -> Receiver:
    return make_receiver()
