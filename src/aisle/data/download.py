"""One file over HTTP: whole or absent, resumed where it stopped, checked against all that the server says.

What has arrived lies in `<name>.part` beside the target, and `<name>.part.json` says which version of the
file it is the beginning of. A later attempt, or a later process, asks for the rest with `Range` and
`If-Range`; if the server has another version by now, or cannot send a part, the file starts again from zero.
The target gets its name only after its length and its checksum (`X-Linked-Etag`, or the MD5 that S3 has for
an ETag) were found right.

A connection that cannot be made, breaks or stalls, and the answers 408, 425, 429 and 5xx are tried again
after a growing pause. Addresses are logged and shown without their query, which may hold a signature.

    with Patience().client() as client:
        download(lambda: "https://example.org/images.zip", Path("data/raw/images.zip"), client=client)
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from aisle.errors import AisleError, InputError, ServiceMissing, UsageError
from aisle.files import fsync, sha256_file, write_text
from aisle.logs import get_logger
from aisle.progress import Progress

WORTH_RESUMING = 256 << 10  # bytes; a smaller file is sooner fetched again than its beginning looked after
RESUME_HINT = "Run the same command again: it goes on where it stopped."

T = TypeVar("T")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds, and how often to try (`attempts` in a row that brought nothing new)."""

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 120.0
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def client(self) -> httpx.Client:
        """A client for `download`, to be closed. It asks for bytes as they are: ranges count those."""
        return httpx.Client(
            timeout=httpx.Timeout(self.read_timeout, connect=self.connect_timeout),
            headers={"Accept-Encoding": "identity"},
            follow_redirects=True,
        )

    def pause(self, failures: int, asked: float) -> float:
        """Twice as long after each failure, with jitter so that many clients do not come back at once."""
        own = self.first_wait * 2.0 ** (failures - 1) * random.uniform(0.5, 1)  # noqa: S311
        return min(max(own, asked), self.longest_wait)


class Remote(BaseModel, frozen=True):
    """What a server says of a file. `url` has no query; what it does not say is None or empty."""

    url: str
    size: int | None = None
    etag: str = ""
    modified: str = ""
    sha256: str | None = None
    md5: str | None = None

    @property
    def version(self) -> str:
        """Changes when the file does; empty when nothing tells."""
        return self.sha256 or self.etag or (f"{self.modified} {self.size}" if self.modified else "")

    @property
    def validator(self) -> str:
        """For `If-Range`, which takes no weak ETag."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def may_continue(self, known: Remote) -> bool:
        """Whether nothing that both say differs."""
        mine, theirs = (self.size, self.sha256, self.etag), (known.size, known.sha256, known.etag)
        return all(not a or not b or a == b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True, slots=True)
class Downloaded:
    sha256: str
    version: str


def download(
    url_of: Callable[[], str],
    target: Path,
    *,
    client: httpx.Client,
    patience: Patience | None = None,
    required: bool = True,
    etag_is_md5: bool = False,
    admit: Callable[[Path], None] = lambda part: None,
    quiet: bool = False,
) -> Downloaded | None:
    """Fetch a file to `target`; None if the server has no such file and it is not `required`.

    `url_of` is called before each attempt, for addresses that expire. `etag_is_md5`: the server is an S3, so
    an ETag of 32 hexadecimal digits is a checksum. `admit` sees the whole file before it gets its name; if
    it raises an AisleError, that passes on and the file is gone. `quiet` shows no bar.

    Raises InputError (no such file), UsageError (not an address), ServiceMissing (refused, or tried often
    enough) and OSError (the disk).
    """
    patience = patience or Patience()
    part = _Part(target)

    def attempt() -> tuple[Remote, str]:
        remote = _fetch(url_of(), part, client, etag_is_md5=etag_is_md5, quiet=quiet)
        return remote, part.verified(remote)

    try:
        remote, sha256 = _persist(attempt, target.name, patience, arrived=part.length)
    except _Absent as absent:
        if not required:
            return None
        raise InputError(
            f"the source has no {target.name}", where=absent, hint="Is the address of the source right?"
        ) from None
    try:
        admit(part.path)
    except AisleError:
        part.discard()
        raise
    part.settle()
    return Downloaded(sha256, remote.version)


def probe(url: str, *, client: httpx.Client, patience: Patience | None = None) -> Remote | None:
    """What the server says of a file without sending it; None if there is none. Raises ServiceMissing.

    A server that refuses to say (some addresses are for GET only) gives a Remote whose version is empty.
    """

    def attempt() -> Remote:
        response = client.head(url, follow_redirects=False)
        if response.is_redirect and "X-Linked-Etag" not in response.headers:
            response = client.head(url)
        _check_absent_or_busy(response, url)
        said = response.is_success or response.is_redirect
        return _remote(response, url, etag_is_md5=False) if said else Remote(url=shown(url))

    try:
        return _persist(attempt, url.rpartition("/")[2], patience or Patience())
    except _Absent:
        return None


def shown(url: str | httpx.URL) -> str:
    """The address without what may be secret: query, fragment, user and password."""
    return str(httpx.URL(url).copy_with(query=None, fragment=None, userinfo=b""))


class _TryAgain(Exception):
    """What went wrong with one attempt; it never leaves this module."""

    def __init__(self, reason: str, where: str | httpx.URL, *, after: float = 0.0) -> None:
        self.reason, self.where, self.after = reason, shown(where), after
        super().__init__(reason)


class _Absent(Exception):
    """The server says that there is no such file; it never leaves this module."""


class _Part:
    """What has arrived of a file so far, and a note of which version of the file that is."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")

    def length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def beginning_of(self, url: str) -> tuple[Remote, int] | None:
        """The version that was begun from `url` and the offset to go on at, if one can."""
        try:
            known = Remote.model_validate_json(self.note.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        # The last byte is fetched again even if all are there: the answer tells whether they still hold.
        offset = min(self.length(), (known.size or self.length()) - 1)
        return (known, offset) if known.url == url and known.validator and offset > 0 else None

    def begin(self, remote: Remote) -> None:
        """Start from zero. The old note goes first: it must never stand beside other bytes."""
        self.note.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        if remote.size is None or remote.size >= WORTH_RESUMING:
            write_text(self.note, remote.model_dump_json())

    def verified(self, remote: Remote) -> str:
        """The sha256 of what has arrived. Raises _TryAgain if it is not what the server promised."""
        length, promised = self.length(), remote.size
        if promised is not None and length != promised:
            if length > promised:
                self.discard()
            raise _TryAgain(f"{length} bytes came instead of {promised}", remote.url)
        sha256 = sha256_file(self.path)
        if remote.sha256 not in {None, sha256} or (remote.md5 and remote.md5 != _md5_file(self.path)):
            self.discard()
            raise _TryAgain("what came has another checksum than the server says", remote.url)
        return sha256

    def settle(self) -> None:
        """Give the file its name, once its bytes are on the disk."""
        fsync(self.path)
        self.path.replace(self.target)
        fsync(self.target.parent)
        self.note.unlink(missing_ok=True)

    def discard(self) -> None:
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def _persist(attempt: Callable[[], T], name: str, patience: Patience, *, arrived: Callable[[], int] = lambda: 0) -> T:
    """`attempt` until it succeeds. Failures count up to `patience.attempts` unless new bytes arrived."""
    failures, most = 0, arrived()
    while True:
        try:
            return attempt()
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise UsageError(f"the address of {name} is not one of the web (http://… or https://…)") from None
        except httpx.TooManyRedirects as error:
            raise ServiceMissing(
                f"{name} is redirected without end", where=shown(error.request.url), hint=RESUME_HINT
            ) from None
        except httpx.TransportError as error:
            problem = _TryAgain(_reason(error), error.request.url)
        except _TryAgain as error:
            problem = error
        # Only more than ever before counts as new, or a file that always fails at its end would never end.
        failures = 1 if arrived() >= most + WORTH_RESUMING else failures + 1
        most = max(most, arrived())
        if failures >= patience.attempts:
            raise ServiceMissing(
                f"{name} could not be fetched: {problem.reason}, {failures} times in a row",
                where=problem.where,
                hint=RESUME_HINT,
            )
        pause = patience.pause(failures, problem.after)
        _log.warning("fetching again", file=name, reason=problem.reason, seconds=round(pause, 1))
        patience.sleep(pause)


def _fetch(url: str, part: _Part, client: httpx.Client, *, etag_is_md5: bool, quiet: bool) -> Remote:
    begun = part.beginning_of(shown(url))
    headers = {"Range": f"bytes={begun[1]}-", "If-Range": begun[0].validator} if begun else {}
    with client.stream("GET", url, headers=headers) as response:
        _check_absent_or_busy(response, url)
        remote, offset = _remote(response, url, etag_is_md5=etag_is_md5), 0
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise InputError(
                f"{part.target.name} is stored compressed ({response.headers['Content-Encoding']})",
                where=shown(url),
                hint="Store it as it is.",
            )
        if response.status_code in {206, 416}:
            if begun is None or not _is_rest(response, begun[1]) or not remote.may_continue(begun[0]):
                part.discard()
                raise _TryAgain("the file is another than before", url)
            remote, offset = begun
        elif response.status_code != 200:
            raise _refused(response, part.target.name, url)
        else:
            part.begin(remote)
        _append(response, part, offset, remote, quiet=quiet)
    return remote


def _append(response: httpx.Response, part: _Part, offset: int, remote: Remote, *, quiet: bool) -> None:
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(part.path.open("rb+"))
        out.truncate(offset)
        out.seek(offset)
        label, total = part.target.name, remote.size
        bar = None if quiet else stack.enter_context(Progress(label, total=total, unit="B", done=offset))
        for chunk in response.iter_raw():
            out.write(chunk)
            if bar is not None:
                bar.add(len(chunk))
            if total is not None and out.tell() > total:
                break  # more than promised may be without end; `verified` says no to it


def _is_rest(response: httpx.Response, offset: int) -> bool:
    content_range: str = response.headers.get("Content-Range", "")
    return content_range.startswith(f"bytes {offset}-")


def _remote(response: httpx.Response, url: str, *, etag_is_md5: bool) -> Remote:
    """What the answers say: HuggingFace tells length and checksum in the one that redirects elsewhere."""
    hops = [*response.history, response]
    linked = next((hop.headers for hop in hops if "X-Linked-Etag" in hop.headers), httpx.Headers())
    headers = response.headers
    sha256 = linked.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
    size = linked.get("X-Linked-Size") or headers.get("Content-Range", "").rpartition("/")[2]
    if not size and response.status_code == 200:
        size = headers.get("Content-Length", "")
    etag = headers.get("ETag", "")
    # What S3 encrypts with a key of the customer's has an ETag that looks like an MD5 and is none.
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    md5 = etag.strip('"') if etag_is_md5 and plain else ""
    return Remote(
        url=shown(url),
        size=int(size) if size.isdecimal() else None,
        etag=etag,
        modified=headers.get("Last-Modified", ""),
        sha256=sha256 if re.fullmatch("[0-9a-f]{64}", sha256) else None,
        md5=md5 if re.fullmatch("[0-9a-f]{32}", md5) else None,
    )


def _check_absent_or_busy(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in {404, 410}:
        raise _Absent(shown(url))
    if status in {408, 425, 429} or (status >= 500 and status != 501):
        raise _TryAgain(f"the server answers {status}", url, after=_retry_after(response))


def _refused(response: httpx.Response, name: str, url: str) -> ServiceMissing:
    private = response.status_code in {401, 403}
    return ServiceMissing(
        f"the server refuses {name}: {response.status_code} {response.reason_phrase}",
        where=shown(url),
        hint="It is private, or does not exist, or your keys do not allow it." if private else "",
    )


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait, as a number or as a date (RFC 9110, 10.2.3); 0: it does not."""
    asked = response.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    try:
        moment = parsedate_to_datetime(asked)
    except ValueError:
        return 0.0
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _reason(error: httpx.TransportError) -> str:
    """In words of ours: httpx's may quote an address with its query."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return "the server cannot be reached"
    if isinstance(error, httpx.TimeoutException):
        return "the transfer stalled"
    return "the connection broke"


def _md5_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
