"""Real processes for tests: services that are started and stopped, and a load that runs meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.servers import free_port
from tests.service.conftest import NO_LIMITS

from aisle.settings import Settings

AISLE = [sys.executable, "-m", "aisle"]
PASSWORD = "correct horse battery"
WAIT_SECONDS = 120
PAUSE_SECONDS = 0.02
"""Between a client's requests: with none the load would keep what starts meanwhile from the processor."""


@dataclass
class Running:
    """A service as a process, and what it said so far. `says` it where it is, with its address."""

    process: subprocess.Popen[str]
    says: str = "serving"
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, name=f"log of {self.process.pid}")
        self.reader.start()
        wait_for(lambda: self.url or self.process.poll() is not None)
        assert self.url, self.log
        wait_for(lambda: self.is_ready() or self.process.poll() is not None)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    @property
    def log(self) -> str:
        return "".join(self.said)

    @property
    def url(self) -> str:
        found = re.search(rf" {self.says}.* url=(http://\S+)", self.log)
        return found[1] if found else ""

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        return False

    def stop(self) -> int:
        """Tell it to stop, and wait; the exit code."""
        self.process.terminate()
        code = self.process.wait(30)
        self.reader.join()
        return code


@dataclass
class Shop:
    """A folder with a bundle store and a database, and the settings of the services that run there."""

    folder: Path
    settings: Mapping[str, str]

    @contextlib.contextmanager
    def running(self, *words: str, **settings: str) -> Iterator[Running]:
        """`aisle WORDS`, once it is ready; killed at the end if it still runs."""
        ours = {name.upper() for name in Settings.model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        process = subprocess.Popen(
            [*AISLE, *words],
            cwd=self.folder,
            env={**environment, **self.settings, **settings},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            running = Running(process, "serving(?! tokens)" if "run" in words else "serving")
            yield running
            if process.poll() is None:
                assert running.stop() == 0, running.log
            assert PASSWORD not in running.log
        finally:
            process.kill()
            process.wait()
            for thread in threading.enumerate():
                if thread.name == f"log of {process.pid}":
                    thread.join()
            assert process.stderr is not None
            process.stderr.close()

    def with_settings(self, **settings: str) -> Shop:
        return Shop(self.folder, {**self.settings, **settings})

    @classmethod
    def at(cls, folder: Path, **settings: str) -> Shop:
        """Free ports, an administrator, no limits: what all shops of tests have in common, and `settings`."""
        common = {
            "PORT": "0",
            "AUTH_PORT": str(free_port()),
            "RATE_LIMITS": NO_LIMITS,
            "DRAIN_SECONDS": "0",
            "CHAMPION_POLL_SECONDS": "0.1",
            "BOOTSTRAP_ADMIN_USER": "admin",
            "BOOTSTRAP_ADMIN_PASSWORD": PASSWORD,
            "LOGIN_ATTEMPTS_PER_MINUTE": "1000",
            "LOGS_PATH": "logs",
        }
        return cls(folder, {**common, **settings})


def sign_in(url: str, name: str = "admin") -> dict[str, str]:
    """The headers of whoever signed in."""
    answer = httpx.post(f"{url}/token", data={"username": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


class Load:
    """Clients that ask for predictions, one after the other, until the end; each failure is remembered.

    `connecting` anew for each request.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, clients: int = 3, connecting: bool = False) -> None:
        self._url = url
        self._headers = dict(headers)
        self._limits = httpx.Limits(max_keepalive_connections=0 if connecting else None)
        self._stop = threading.Event()
        self.statuses: Counter[Any] = Counter()
        self.models: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.answered(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def answered(self, count: int) -> None:
        """Wait until `count` more were answered."""
        enough = self.statuses.total() + count
        wait_for(lambda: self.statuses.total() >= enough)

    def body(self) -> dict[str, object]:
        return {"designation": "Piscine ronde"}

    def _ask(self) -> None:
        with httpx.Client(headers=self._headers, timeout=30, limits=self._limits) as client:
            while not self._stop.wait(PAUSE_SECONDS):
                try:
                    answer = client.post(f"{self._url}/predict", json=self.body())
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.models[answer.json()["model"]] += 1


def wait_for(condition: Callable[[], object], *, seconds: float = WAIT_SECONDS) -> None:
    """Look again and again; a test fails that waits too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("waited too long")
        time.sleep(0.01)
