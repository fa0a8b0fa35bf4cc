"""A web server with faults on demand, for everything that downloads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from aisle.data.download import Patience


@dataclass
class Fault:
    """What goes wrong with one answer to GET."""

    status: int = 0  # answer this instead of the file
    headers: dict[str, str] = field(default_factory=dict)
    send: int | None = None  # stop after so many bytes …
    stall: bool = False  # … and say nothing more, instead of closing
    ignore_range: bool = False
    claim: int | None = None  # the Content-Length to state
    after: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str
    if_range: str


class FileServer(ThreadingHTTPServer):
    """`files` by path (without query); each GET takes the next of the path's `faults`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.redirects: dict[str, str] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        self.without_head = False
        self.honours_if_range = True
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, path: str, *, times: int = 1, **fault: Any) -> None:
        """The next answer to a GET of `path` goes wrong, as the fields of `Fault` say."""
        self.faults.setdefault(path, []).extend(Fault(**fault) for _ in range(times))

    def gets(self, path: str) -> list[Request]:
        return [one for one in self.requests if one.method == "GET" and one.path == path]

    def etag(self, path: str) -> str:
        return f'"{hashlib.sha1(self.files[path], usedforsecurity=False).hexdigest()}"'

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_HEAD(self) -> None:
        if self.server.without_head:
            self._empty(501)
        else:
            self._answer(Fault())

    def do_GET(self) -> None:
        faults = self.server.faults.get(self._path, [])
        fault = faults.pop(0) if faults else Fault()
        self._answer(fault)
        fault.after()

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _answer(self, fault: Fault) -> None:
        server, path = self.server, self._path
        wanted, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        server.requests.append(Request(self.command, path, wanted, condition))
        extra = {**server.headers.get(path, {}), **fault.headers}
        if path in server.redirects:
            self._empty(302, {"Location": server.redirects[path], **extra})
        elif fault.status or path not in server.files:
            self._empty(fault.status or 404, extra)
        else:
            self._send_file(server.files[path], wanted, condition, extra, fault)

    def _send_file(self, content: bytes, wanted: str, condition: str, extra: dict[str, str], fault: Fault) -> None:
        server = self.server
        etag = extra.setdefault("ETag", server.etag(self._path))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if fault.ignore_range or (server.honours_if_range and condition not in {"", etag}):
            wanted, start = "", 0
        if wanted and start >= len(content):
            self._empty(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        body = content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body) if fault.claim is None else fault.claim))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in extra.items():
            self.send_header(name, value)
        if fault.send is not None or fault.claim is not None:
            self.send_header("Connection", "close")  # or a client may ask again on a connection that is just closed
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: fault.send])
        self.wfile.flush()
        if fault.stall:
            server.released.wait(60)

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def make_server() -> Iterator[Callable[[], FileServer]]:
    servers: list[FileServer] = []

    def make() -> FileServer:
        server = FileServer()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(make_server: Callable[[], FileServer]) -> FileServer:
    return make_server()


@pytest.fixture
def pauses() -> list[float]:
    """How long the code under test wanted to wait: nothing really waits."""
    return []


@pytest.fixture
def patience(pauses: list[float]) -> Patience:
    return Patience(attempts=3, read_timeout=0.5, connect_timeout=2.0, sleep=pauses.append)
