"""Two models of one shop, before and after its types changed, a web server that takes what is told, and S3."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.end_to_end.conftest import processes as processes  # noqa: PLC0414
from tests.end_to_end.conftest import run as run  # noqa: PLC0414

from aisle.batch.places import Place
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


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


@dataclass
class S3:
    """A server with the bucket `shop`; `stop()` it for one that is gone. A command finds it by `S3_ENDPOINT_URL`."""

    server: ThreadedMotoServer
    endpoint: str
    client: Any

    def place(self, key: str) -> Place:
        return Place(f"s3://shop/{key}", self.endpoint)

    def put(self, key: str, content: bytes) -> Place:
        self.client.put_object(Bucket="shop", Key=key, Body=content)
        return self.place(key)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket="shop", Key=key)["Body"].read())

    def names(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket="shop", Prefix=prefix)
        return [one["Key"] for one in found.get("Contents", [])]

    def remove_bucket(self) -> None:
        """With what is in it, and what is still being written to it by somebody who was stopped."""
        while True:
            for key in self.names():
                self.client.delete_object(Bucket="shop", Key=key)
            try:
                self.client.delete_bucket(Bucket="shop")
            except self.client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] != "BucketNotEmpty":
                    raise
            else:
                return

    def stop(self) -> None:
        self.server.stop()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A real server, whose keys this process and those that it starts have in their environment."""
    import boto3
    import httpx
    from moto.server import ThreadedMotoServer

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    httpx.post(f"{endpoint}/moto-api/reset", timeout=30)  # what a server before it kept in this process
    made = S3(server, endpoint, boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1"))
    made.client.create_bucket(Bucket="shop")
    yield made
    made.client.close()
    made.stop()
