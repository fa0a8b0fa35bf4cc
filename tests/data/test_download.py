"""One file over HTTP is whole or absent, whatever the network does."""

from __future__ import annotations

import hashlib
import logging
import random
import socket
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from aisle.data.download import Downloaded, Patience, download, probe
from aisle.errors import ArchiveError, InputError, ServiceMissing, UsageError
from aisle.logs import LogFile, setup_logging
from aisle.progress import Progress

if TYPE_CHECKING:
    from tests.data.conftest import FileServer

Fetch = Callable[..., Downloaded | None]

CONTENT = random.Random(0).randbytes(1 << 20)
OTHER = random.Random(1).randbytes(1 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
FILE = "/a.csv"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


@pytest.fixture
def client(patience: Patience) -> Iterator[httpx.Client]:
    with patience.client() as client:
        yield client


@pytest.fixture
def fetch(server: FileServer, client: httpx.Client, patience: Patience, target: Path) -> Fetch:
    """Fetch FILE from `server` to `target`, with whatever else `download` takes."""
    server.files[FILE] = CONTENT

    def run(**options: Any) -> Downloaded | None:
        options = {"url_of": lambda: server.url + FILE, "client": client, "patience": patience, **options}
        return download(target=target, **options)

    return run


def left_beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_a_whole_file_arrives_with_its_checksum(fetch: Fetch, target: Path) -> None:
    found = fetch()
    assert found is not None
    assert found.sha256 == SHA256
    assert target.read_bytes() == CONTENT
    assert left_beside(target) == []


def test_an_empty_file_arrives(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.files[FILE] = b""
    fetch()
    assert target.read_bytes() == b""


def test_a_broken_transfer_goes_on_where_it_stopped(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.fail(FILE, send=HALF)
    fetch()
    assert target.read_bytes() == CONTENT
    assert [one.range for one in server.gets(FILE)] == ["", f"bytes={HALF}-"]
    assert server.gets(FILE)[1].if_range == server.etag(FILE)


def test_a_connection_that_breaks_often_is_no_failure_as_long_as_bytes_come(
    fetch: Fetch, server: FileServer, target: Path, patience: Patience, pauses: list[float]
) -> None:
    server.files[FILE] = CONTENT * 3
    server.fail(FILE, send=300 << 10, times=2 * patience.attempts)
    fetch()
    assert target.read_bytes() == CONTENT * 3
    assert len(pauses) == 2 * patience.attempts


def test_a_stalled_transfer_is_tried_again(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.fail(FILE, send=HALF, stall=True)
    fetch()
    assert target.read_bytes() == CONTENT
    assert server.gets(FILE)[1].range == f"bytes={HALF}-"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_busy_server_is_asked_again(fetch: Fetch, server: FileServer, target: Path, status: int) -> None:
    server.fail(FILE, status=status, times=2)
    fetch()
    assert target.read_bytes() == CONTENT


def test_pauses_grow_and_differ_from_client_to_client(patience: Patience) -> None:
    pauses = [[patience.pause(failures, 0) for _ in range(50)] for failures in (1, 2, 3, 20)]
    assert all(0.5 <= one <= 1 for one in pauses[0])
    assert all(1 <= one <= 2 for one in pauses[1])
    assert all(2 <= one <= 4 for one in pauses[2])
    assert set(pauses[3]) == {patience.longest_wait}
    assert len(set(pauses[0])) > 1


@pytest.mark.parametrize(
    ("asked", "bounds"),
    [
        ("7", (7, 7)),
        ("100000", (120, 120)),
        (formatdate(4_000_000_000, usegmt=True), (120, 120)),
        (formatdate(0, usegmt=True), (0, 1)),
        ("soon", (0, 1)),
        ("-5", (0, 1)),
    ],
)
def test_retry_after_is_honoured_within_bounds(
    fetch: Fetch, server: FileServer, pauses: list[float], asked: str, bounds: tuple[float, float]
) -> None:
    server.fail(FILE, status=429, headers={"Retry-After": asked})
    fetch()
    assert len(pauses) == 1
    assert bounds[0] <= pauses[0] <= bounds[1]


def test_a_server_that_ignores_ranges_sends_it_all_again(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.fail(FILE, send=HALF)
    server.fail(FILE, ignore_range=True)
    fetch()
    assert target.read_bytes() == CONTENT


def test_a_file_that_changes_between_two_attempts_is_never_mixed(
    fetch: Fetch, server: FileServer, target: Path
) -> None:
    server.fail(FILE, send=HALF, after=lambda: server.files.update({FILE: OTHER}))
    fetch()
    assert target.read_bytes() == OTHER


def test_a_server_that_resumes_another_version_is_not_believed(
    fetch: Fetch, server: FileServer, target: Path
) -> None:
    def change() -> None:  # a server that takes Range but not If-Range: the rest is of another version
        server.files[FILE] = OTHER
        server.honours_if_range = False

    server.fail(FILE, send=HALF, after=change)
    fetch()
    assert target.read_bytes() == OTHER
    assert [one.range for one in server.gets(FILE)] == ["", f"bytes={HALF}-", ""]


def test_a_version_without_a_strong_mark_starts_again(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.headers[FILE] = {"ETag": 'W/"weak"'}
    server.fail(FILE, send=HALF)
    fetch()
    assert target.read_bytes() == CONTENT
    assert [one.range for one in server.gets(FILE)] == ["", ""]


def test_a_part_that_the_server_no_longer_has_starts_again(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.fail(FILE, send=HALF)
    server.fail(FILE, status=416)
    fetch()
    assert target.read_bytes() == CONTENT
    assert server.gets(FILE)[2].range == ""


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(
    fetch: Fetch, server: FileServer, target: Path, patience: Patience
) -> None:
    server.fail(FILE, send=HALF)
    server.fail(FILE, status=503, times=patience.attempts - 1)
    with pytest.raises(ServiceMissing, match="goes on where it stopped"):
        fetch()
    assert not target.exists()
    assert left_beside(target) == ["a.csv.part", "a.csv.part.json"]
    fetch()
    assert target.read_bytes() == CONTENT
    assert server.gets(FILE)[-1].range == f"bytes={HALF}-"
    assert left_beside(target) == []


def test_a_part_of_another_address_is_not_gone_on_with(
    fetch: Fetch, server: FileServer, target: Path, patience: Patience
) -> None:
    server.files["/b.csv"] = OTHER
    server.fail(FILE, send=HALF)
    server.fail(FILE, status=503, times=patience.attempts - 1)
    with pytest.raises(ServiceMissing):
        fetch()
    fetch(url_of=lambda: server.url + "/b.csv")
    assert target.read_bytes() == OTHER
    assert server.gets("/b.csv")[0].range == ""


def test_of_a_part_that_was_whole_already_one_byte_is_asked_for(
    fetch: Fetch, server: FileServer, target: Path
) -> None:
    def interrupt(part: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(admit=interrupt)
    assert not target.exists()
    fetch()
    assert target.read_bytes() == CONTENT
    assert server.gets(FILE)[1].range == f"bytes={len(CONTENT) - 1}-"


def test_a_part_with_a_broken_note_starts_again(fetch: Fetch, server: FileServer, target: Path) -> None:
    target.with_name("a.csv.part").write_bytes(b"x" * HALF)
    target.with_name("a.csv.part.json").write_text("{")
    fetch()
    assert target.read_bytes() == CONTENT


def test_a_damaged_part_is_found_out_by_the_checksum_and_fetched_anew(
    fetch: Fetch, server: FileServer, target: Path, patience: Patience
) -> None:
    server.headers[FILE] = {"X-Linked-Etag": f'"{SHA256}"'}
    server.fail(FILE, send=HALF)
    server.fail(FILE, status=503, times=patience.attempts - 1)
    with pytest.raises(ServiceMissing):
        fetch()
    target.with_name("a.csv.part").write_bytes(b"x" * HALF)
    fetch()
    assert target.read_bytes() == CONTENT


class TestHuggingFace:
    """`/resolve/…` redirects to another host, and says checksum and length in that answer only."""

    @pytest.fixture
    def fetch_linked(self, fetch: Fetch, server: FileServer, make_server: Callable[[], FileServer]) -> Fetch:
        storage = make_server()
        storage.files["/blob"] = CONTENT
        self.storage = storage
        server.redirects["/resolve/a.csv"] = f"{storage.url}/blob?Signature=hidden"
        server.headers["/resolve/a.csv"] = {
            "X-Linked-Etag": f'"{SHA256}"',
            "X-Linked-Size": str(len(CONTENT)),
        }
        return lambda **options: fetch(url_of=lambda: f"{server.url}/resolve/a.csv", **options)

    def test_a_file_on_another_host_is_fetched_and_resumed_there(self, fetch_linked: Fetch, target: Path) -> None:
        self.storage.fail("/blob", send=HALF)
        found = fetch_linked()
        assert found is not None
        assert found.version == SHA256
        assert target.read_bytes() == CONTENT
        assert self.storage.gets("/blob")[1].range == f"bytes={HALF}-"

    def test_bytes_with_another_checksum_are_not_taken(self, fetch_linked: Fetch, target: Path) -> None:
        self.storage.files["/blob"] = OTHER
        with pytest.raises(ServiceMissing, match="checksum"):
            fetch_linked()
        assert not target.exists()
        assert left_beside(target) == []

    def test_a_length_short_of_the_promised_one_is_not_taken(self, fetch_linked: Fetch, target: Path) -> None:
        self.storage.fail("/blob", claim=1000, send=1000, times=3)
        with pytest.raises(ServiceMissing, match=f"bytes came instead of {len(CONTENT)}"):
            fetch_linked()
        assert not target.exists()

    def test_more_bytes_than_promised_are_not_taken(
        self, fetch_linked: Fetch, server: FileServer, target: Path
    ) -> None:
        server.headers["/resolve/a.csv"]["X-Linked-Size"] = "500"
        self.storage.fail("/blob", send=HALF, stall=True, times=3)  # it could go on for ever
        with pytest.raises(ServiceMissing, match="instead of 500"):
            fetch_linked()
        assert left_beside(target) == []

    def test_what_is_there_is_told_without_following_to_the_storage(
        self, fetch_linked: Fetch, server: FileServer, client: httpx.Client
    ) -> None:
        remote = probe(f"{server.url}/resolve/a.csv", client=client)
        assert remote is not None
        assert (remote.version, remote.size) == (SHA256, len(CONTENT))
        assert self.storage.requests == []


def test_a_length_that_lies_is_found_out(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.fail(FILE, claim=len(CONTENT) + 10, times=3)
    with pytest.raises(ServiceMissing):
        fetch()
    assert not target.exists()


def test_the_md5_that_an_s3_states_is_checked(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.headers[FILE] = {"ETag": f'"{hashlib.md5(OTHER, usedforsecurity=False).hexdigest()}"'}
    with pytest.raises(ServiceMissing, match="checksum"):
        fetch(etag_is_md5=True)
    server.headers[FILE] = {"ETag": f'"{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"'}
    fetch(etag_is_md5=True)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": f'"{"0" * 32}-3"'},
        {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"},
    ],
    ids=["of several parts", "encrypted by a key"],
)
def test_an_etag_that_is_no_md5_is_not_taken_for_one(
    fetch: Fetch, server: FileServer, target: Path, headers: dict[str, str]
) -> None:
    server.headers[FILE] = headers
    fetch(etag_is_md5=True)
    assert target.read_bytes() == CONTENT


def test_a_required_file_that_is_missing_is_bad_input_at_once(
    fetch: Fetch, server: FileServer, pauses: list[float]
) -> None:
    with pytest.raises(InputError) as caught:
        fetch(url_of=lambda: f"{server.url}/gone.csv?X-Amz-Signature=secret")
    assert caught.value.exit_code == 3
    assert "a.csv" in str(caught.value)
    assert f"{server.url}/gone.csv" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert pauses == []


def test_an_optional_file_that_is_missing_is_no_failure(fetch: Fetch, server: FileServer, target: Path) -> None:
    del server.files[FILE]
    assert fetch(required=False) is None
    assert left_beside(target) == []


@pytest.mark.parametrize("status", [400, 401, 403, 451])
def test_a_refusal_is_final(fetch: Fetch, server: FileServer, target: Path, pauses: list[float], status: int) -> None:
    server.fail(FILE, status=status)
    with pytest.raises(ServiceMissing, match=str(status)) as caught:
        fetch()
    assert caught.value.exit_code == 5
    assert (pauses, target.exists()) == ([], False)


def test_a_server_that_cannot_be_reached_is_a_missing_service(
    fetch: Fetch, pauses: list[float], patience: Patience
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServiceMissing, match="goes on where it stopped") as caught:
        fetch(url_of=lambda: f"http://127.0.0.1:{port}/a.csv?token=secret")
    assert f"http://127.0.0.1:{port}/a.csv: a.csv" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(pauses) == patience.attempts - 1


def test_an_endless_redirect_is_a_missing_service(fetch: Fetch, server: FileServer) -> None:
    server.redirects[FILE] = FILE
    with pytest.raises(ServiceMissing, match="redirected without end"):
        fetch()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.csv", "http://127.0.0.1:port/a.csv", "a.csv"])
def test_what_is_no_web_address_is_wrong_use(fetch: Fetch, url: str) -> None:
    with pytest.raises(UsageError, match="not one of the web"):
        fetch(url_of=lambda: url)


def test_a_file_that_is_stored_compressed_is_refused(fetch: Fetch, server: FileServer, target: Path) -> None:
    server.headers[FILE] = {"Content-Encoding": "gzip"}
    with pytest.raises(InputError, match="gzip"):
        fetch()
    assert left_beside(target) == []


def test_what_is_not_admitted_gets_no_name_and_leaves_nothing(fetch: Fetch, target: Path) -> None:
    def refuse(part: Path) -> None:
        assert part.read_bytes() == CONTENT
        raise ArchiveError("no")

    target.write_text("what was there")
    with pytest.raises(ArchiveError):
        fetch(admit=refuse)
    assert target.read_text() == "what was there"
    assert left_beside(target) == []


def test_an_address_is_made_anew_for_each_attempt(fetch: Fetch, server: FileServer) -> None:
    made: list[str] = []

    def sign() -> str:
        made.append(f"{server.url}{FILE}?X-Amz-Signature={len(made)}")
        return made[-1]

    server.fail(FILE, send=HALF)
    fetch(url_of=sign)
    assert len(made) == 2
    assert server.gets(FILE)[1].range == f"bytes={HALF}-"


def test_no_signature_is_logged(fetch: Fetch, server: FileServer, tmp_path: Path) -> None:
    root = logging.getLogger()
    level = root.level
    setup_logging(LogFile.IMPORT, tmp_path / "logs", level="DEBUG", terminal=False)
    try:
        server.fail(FILE, status=503)
        server.fail(FILE, send=HALF)
        fetch(url_of=lambda: f"{server.url}{FILE}?X-Amz-Signature=secret")
    finally:
        for handler in [one for one in root.handlers if getattr(one, "_aisle", False)]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
    logged = (tmp_path / "logs" / LogFile.IMPORT).read_text()
    assert logged.count("fetching again") == 2
    assert "secret" not in logged
    assert "?" not in logged


def test_the_bar_counts_resumed_bytes_as_done(
    fetch: Fetch, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = []

    class Recorded(Progress):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            bars.append((self.done, self.total, self.unit, self))

    monkeypatch.setattr("aisle.data.download.Progress", Recorded)
    server.fail(FILE, send=HALF)
    fetch()
    assert [bar[:3] for bar in bars] == [(0, len(CONTENT), "B"), (HALF, len(CONTENT), "B")]
    assert bars[1][3].done == len(CONTENT)
