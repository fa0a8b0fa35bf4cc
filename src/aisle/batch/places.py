"""Where bulk work reads and writes: a path on this machine, or `s3://BUCKET/KEY`.

A `Place` is plain data, so that it can be sent to another process or machine. Keys for S3 are those of any AWS
client; `endpoint` is another server than Amazon's.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from aisle.errors import InputError, ServiceMissing, UsageError
from aisle.files import TEMPORARY_PREFIX, atomic_path, write_bytes

if TYPE_CHECKING:
    from pyarrow import fs

S3 = "s3://"
CONNECT_SECONDS = 5
REQUEST_SECONDS = 30
TRIES = 5
BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """A file or a folder. `str(place)` is what the user calls it."""

    address: str
    endpoint: str = ""

    def __str__(self) -> str:
        return self.address

    @property
    def is_s3(self) -> bool:
        return self.address.startswith(S3)

    @property
    def path(self) -> Path:
        """Only for a place on this machine."""
        return Path(self.address)

    @property
    def name(self) -> str:
        return self.address.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()

    def __truediv__(self, name: str) -> Place:
        return replace(self, address=f"{self.address.rstrip('/')}/{name}")

    def beside(self, name: str) -> Place:
        """The place of that name in the same folder."""
        if not self.is_s3:
            return replace(self, address=str(self.path.parent / name))
        return replace(self, address=f"{self.address.rstrip('/').rpartition('/')[0]}/{name}")

    def open(self) -> BinaryIO:
        """To read, at any position. Raises InputError where there is no such file, ServiceMissing, OSError."""
        if not self.is_s3:
            return self.path.open("rb")
        with self._explained():
            return cast(BinaryIO, io.BufferedReader(_Ranges(self), BUFFER))

    def read_bytes(self) -> bytes:
        with self.open() as stream:
            return stream.read()

    def write_bytes(self, content: bytes) -> None:
        """Whole or not at all."""
        if not self.is_s3:
            write_bytes(self.path, content)
            return
        with self._explained(), self._filesystem().open_output_stream(self._key()) as stream:
            stream.write(content)

    @contextlib.contextmanager
    def create(self) -> Iterator[BinaryIO]:
        """To write piece by piece what is there whole at the end, or not at all."""
        if not self.is_s3:
            with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
                yield stream
            return
        aside, there = self.beside(f"{TEMPORARY_PREFIX}{self.name}"), self._filesystem()
        with self._explained():
            try:
                with there.open_output_stream(aside._key()) as stream:
                    yield stream
                there.move(aside._key(), self._key())
            except BaseException:
                with contextlib.suppress(OSError):
                    there.delete_file(aside._key())
                raise

    def files(self, suffixes: tuple[str, ...] = ()) -> list[Place]:
        """Itself, if it is a file; of a folder all files below that end so, by name, but hidden ones.

        Empty where there is nothing. No `suffixes`: all files.
        """
        if not self.is_s3:
            if not self.path.is_dir():
                return [self] if self.path.is_file() else []
            names = [
                str(path)
                for path in self.path.rglob("*")
                if path.is_file() and not _is_aside(path.relative_to(self.path).parts)
            ]
        else:
            from pyarrow import fs  # noqa: PLC0415

            with self._explained():
                [found] = self._filesystem().get_file_info([self._key()])
                if found.type == fs.FileType.File:
                    return [self]
                chosen = fs.FileSelector(self._key(), recursive=True, allow_not_found=True)
                infos = self._filesystem().get_file_info(chosen)
            below = len(self._key()) + 1
            names = [
                f"{S3}{one.path}"
                for one in infos
                if one.type == fs.FileType.File and not _is_aside(one.path[below:].split("/"))
            ]
        return [
            replace(self, address=name)
            for name in sorted(names)
            if not suffixes or Path(name).suffix.lower() in suffixes
        ]

    def version(self) -> str:
        """Tells the content of a file from an earlier one: its size and time. Raises as `open` does."""
        if not self.is_s3:
            stat = self.path.stat()
            return f"{stat.st_size}-{stat.st_mtime_ns}"
        info = self._info()
        return f"{info.size}-{info.mtime_ns}"

    def stamp(self) -> str:
        """`version`, or nothing for what has none: a prefix in S3, a file that is not there."""
        try:
            return self.version()
        except (InputError, FileNotFoundError):
            return ""

    def exists(self) -> bool:
        return bool(self.path.exists() if not self.is_s3 else self._info(needed=False).type.value)

    def remove(self) -> None:
        """A file, or a folder with all that is in it; nothing, where there is nothing."""
        if self.is_s3:
            from pyarrow import fs  # noqa: PLC0415

            there, kind = self._filesystem(), self._info(needed=False).type
            with self._explained(), contextlib.suppress(FileNotFoundError):
                if kind == fs.FileType.Directory:
                    there.delete_dir(self._key())
                elif kind == fs.FileType.File:
                    there.delete_file(self._key())
        elif self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def _key(self) -> str:
        return self.address.removeprefix(S3).rstrip("/")

    def _info(self, *, needed: bool = True) -> fs.FileInfo:
        with self._explained():
            [info] = self._filesystem().get_file_info([self._key()])
            if needed and not info.type.value:
                raise FileNotFoundError
        return info

    def _filesystem(self) -> fs.FileSystem:
        return _s3(self.endpoint)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """PyArrow's texts tell keys and addresses; and its errors have no number."""
        try:
            yield
        except FileNotFoundError:
            raise InputError("there is no such file", where=self, hint="Are the bucket and the key right?") from None
        except OSError as error:
            if error.errno:
                raise
            said = re.search(r"AWS Error (\w+)", str(error))
            what = f"the server says {said[1]}" if said else "the server cannot be used"
            if said and said[1] == "NETWORK_CONNECTION":
                what = "the server does not answer"
            hint = "Do AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION and S3_ENDPOINT_URL fit, and may the key do that?"
            raise ServiceMissing(what, where=self, hint=hint) from None


class _Ranges(io.RawIOBase):
    """A file in S3, of which only what is read travels."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._file = place._filesystem().open_input_file(place._key())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        with self._place._explained():
            return int(self._file.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def place_of(address: str, endpoint: str = "") -> Place:
    """Raises UsageError for the address of something else than a path or S3."""
    if address.startswith(S3):
        if not re.fullmatch(r"s3://[^/]+/.+", address):
            raise UsageError(
                "names no file in a bucket", where=address, hint="For example s3://shop/products.parquet."
            )
        return Place(address, endpoint)
    if "://" in address:
        raise UsageError("is neither a path nor s3://BUCKET/KEY", where=address)
    return Place(str(Path(address).expanduser()))


@lru_cache
def _s3(endpoint: str) -> fs.FileSystem:
    from pyarrow import fs  # noqa: PLC0415  a third of a second, which only S3 costs

    return fs.S3FileSystem(
        endpoint_override=endpoint or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
    )


def _is_aside(parts: Iterable[str]) -> bool:
    """What no reader of tables takes for one, by the parts of its path below the folder that is read."""
    return any(part.startswith((".", "_")) for part in parts)
