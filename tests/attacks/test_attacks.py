"""Hundreds of hostile uploads and requests against the services as they run: refused in time, and nothing is left.

pytest -s -m slow tests/attacks/test_attacks.py    says the figures of docs/security.md
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest
from tests.attacks.images import Attack, hostile_images, png, whole
from tests.attacks.requests import HUNG_UP, Raw, hostile_requests
from tests.attacks.tables import GOOD, hostile_tables
from tests.service.processes import Running, Shop, sign_in, wait_for

from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore

pytestmark = pytest.mark.slow

T = TypeVar("T")
AT_ONCE = 8
SECONDS = 45
"""Within these each is answered: a body may take 20 of them, and others are answered meanwhile."""
LONGEST_STALL = 10.0
"""Seconds, on a machine that does other things, too; a single codec or image took minutes before."""
MOST_MORE, GROWTH = 600, 250
"""MiB of the service and its worker: at their peaks more than before, and at the end more than at half-time. One
image may take 229."""


@pytest.fixture(scope="module")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Everything that `aisle run` starts: both services, the console, a worker."""
    folder = tmp_path_factory.mktemp("attacked")
    store = BundleStore(folder / "models")
    store.add(bundle)
    store.make_champion(bundle.version)
    shop = Shop.at(
        folder, MLFLOW_TRACKING_URI="off", BATCH_QUOTAS="admin=1000/50000", BATCH_MAX_MIB="32", THREADS="2",
        ACCESS_TOKEN_EXPIRE_MINUTES="60", WORKER_POLL_SECONDS="0.1",
    )  # fmt: skip
    with shop.running("run", "--once") as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[httpx.Client]:
    headers = {**sign_in(service.url), "Accept-Language": "en"}
    limits = httpx.Limits(max_connections=2 * AT_ONCE)
    with httpx.Client(base_url=service.url, headers=headers, timeout=SECONDS, limits=limits) as client:
        largest = {"image": ("a.png", png(5_000, 5_000, depth=8, colour=6))}
        for _ in range(3):  # what a service takes at its largest, it keeps
            assert client.post("/predict", files=largest).status_code == 200
        yield client


@contextlib.contextmanager
def unimpressed(service: Running, client: httpx.Client, what: str) -> Iterator[Callable[[], None]]:
    """Whatever is done meanwhile, the service is there for others, answers as before and is no larger than before."""
    before, memory = answer(client), [resident(service)]

    def half_time() -> None:
        """What has been taken until now is kept for the next time; from now on it should be enough."""
        memory.append(resident(service))

    with watching(service.url) as waits:
        yield half_time
    assert answer(client) == before
    grown, most = resident(service) - memory[-1], sum(memory_of(process, "VmHWM") for process in family(service))
    more = most - memory[0]
    stall = f"longest stall {max(waits):.1f} s"
    print(f"\n{what}; {stall}, grown by {grown} MiB since half-time, peak {most} MiB ({more:+})")
    assert max(waits) < LONGEST_STALL
    assert grown < GROWTH
    assert more < MOST_MORE
    assert service.process.poll() is None


def answer(client: httpx.Client) -> Any:
    got = client.post("/predict", data={"designation": "Piscine ronde"}, files={"image": ("a.jpg", whole("JPEG"))})
    assert got.status_code == 200, got.text
    return got.json()["predictions"]


@contextlib.contextmanager
def watching(url: str) -> Iterator[list[float]]:
    """How long each of many small questions waits for its answer, in seconds."""
    waits: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=2 * SECONDS) as client:
            while not done.wait(0.05):
                begun = time.perf_counter()
                assert client.get("/livez").status_code == 200
                waits.append(time.perf_counter() - begun)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            yield waits
        finally:
            done.set()
            asked.result()


def family(service: Running) -> list[int]:
    """The process and those that it started."""
    found = [service.process.pid]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def memory_of(pid: int, name: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0
    match = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(match[1]) >> 10 if match else 0


def resident(service: Running) -> int:
    return sum(memory_of(pid, "VmRSS") for pid in family(service))


def all_at_once(attacks: Iterable[T], attack: Callable[[T], int], *, threads: int = AT_ONCE) -> list[tuple[T, int]]:
    """Each with the status of its answer, several at a time."""
    waiting = list(attacks)
    with ThreadPoolExecutor(threads) as pool:
        return list(zip(waiting, pool.map(attack, waiting), strict=True))


def test_a_hostile_image_is_refused_and_no_other_waits(service: Running, client: httpx.Client) -> None:
    attacks = list(hostile_images())
    assert len(attacks) >= 300

    def send(one: Attack) -> int:
        return client.post("/predict", files={"image": ("a.jpg", one.content)}).status_code

    with unimpressed(service, client, f"{len(attacks)} images") as half_time:
        found = all_at_once(attacks[::2], send)
        half_time()
        found += all_at_once(attacks[1::2], send)
    assert {one.name: status for one, status in found if status not in one.right} == {}
    assert Counter(status == 200 for _, status in found)[False] > 200


def test_a_hostile_request_is_refused_and_no_other_waits(service: Running, client: httpx.Client) -> None:
    attacks = list(hostile_requests(client.headers["Authorization"]))
    with unimpressed(service, client, f"{len(attacks)} requests"), half_open(service.url, 200):
        found = all_at_once(attacks, lambda one: write(service.url, one), threads=2 * AT_ONCE)
    assert {one.name: status for one, status in found if status not in one.right} == {}


@contextlib.contextmanager
def half_open(url: str, count: int) -> Iterator[None]:
    """Connections that begin to ask and never go on."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connected(url)).sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\n")
        yield


def connected(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=SECONDS)


def write(url: str, raw: Raw) -> int:
    """The status of the answer."""
    with connected(url) as connection:
        with contextlib.suppress(ConnectionError):  # an answer may come before all is written
            for start in range(0, len(raw.content), raw.block):
                connection.sendall(raw.content[start : start + raw.block])
            if raw.farewell:
                connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.makefile("rb")
            line = answer.readline()
            if b" 100 " in line:  # and now the body, which does not come
                line = answer.readline() and answer.readline()
        except ConnectionError:
            return HUNG_UP
    found = re.match(rb"HTTP/1\.1 (\d+)", line)
    return int(found[1]) if found else HUNG_UP


def test_a_hostile_table_ends_its_batch_and_no_worker(service: Running, client: httpx.Client) -> None:
    attacks = list(hostile_tables())
    made: dict[str, str] = {}

    def send(content: bytes, name: str, images: bytes | None, what: str) -> int:
        files = {"table": (name, content)} | ({} if images is None else {"images": ("photos.zip", images)})
        got = client.post("/batches", files=files)
        if got.status_code == 202:
            made[got.json()["id"]] = what
        return got.status_code

    ended: dict[str, str] = {}

    def are_over() -> bool:
        for one in made.keys() - ended.keys():
            state = client.get(f"/batches/{one}").json()["state"]
            if state not in ("done", "failed"):
                return False  # to ask for all of them again and again would keep the worker from them
            ended[one] = state
        return True

    assert send(GOOD, "table.csv", None, "good") == 202  # the worker loads its model
    wait_for(are_over, seconds=4 * SECONDS)
    with unimpressed(service, client, f"{len(attacks)} tables and zips"):
        found = all_at_once(attacks, lambda one: send(one.content, one.name, one.images, one.what))
        wait_for(are_over, seconds=4 * SECONDS)
        assert send(GOOD, "table.csv", None, "good") == 202
        wait_for(are_over, seconds=4 * SECONDS)
    assert {one.what: status for one, status in found if status not in (202, 400, 413, 415, 422)} == {}
    assert [ended[one] for one, what in made.items() if what == "good"] == ["done", "done"]
    assert Counter(ended.values())["failed"] > 60
