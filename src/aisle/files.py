"""Files that are whole or absent: atomic writes, and hashes of content.

A reader never sees a half-written file: what is written goes to a temporary file beside the target, is flushed
to the disk and renamed over it. A process that is killed leaves at most a temporary file, never a wrong one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from aisle.errors import UsageError

CHUNK = 1 << 20
TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def atomic_path(target: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it becomes `target`, on an error it is removed.

    A `private` file is one that only its owner may read, from the first byte on.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        if not private:  # mkstemp makes it so
            temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        fsync(target.parent)
    except OSError as error:
        _name_target(error, temporary, target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it takes its place, on an error it is removed.

    A folder that stood at `target` is moved aside first and deleted last, so that one of the two is there at
    every moment but the instant between two renames.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb+") as written:
                    os.fsync(written.fileno())
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target.parent))
            target.rename(old / target.name)
            temporary.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(target)
        fsync(target.parent)
    except OSError as error:
        _name_target(error, temporary, target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path, *, marker: str) -> None:
    """Raises UsageError for a folder with something in it but `marker`, the file that every folder of ours has."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file():
        raise UsageError(
            f"holds something else than an earlier result ({marker} is missing)",
            where=folder,
            hint="Choose another --out.",
        )


def write_bytes(target: Path, content: bytes) -> None:
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    write_bytes(target, text.encode())


def write_private_text(target: Path, text: str) -> None:
    """For secrets: only the owner may read the file."""
    with atomic_path(target, private=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` with sorted keys, so that equal values give equal bytes."""
    write_text(target, to_json(value) + "\n")


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: Any) -> str:
    """The hash of a JSON value, whatever the order of its keys."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sources_hash(package: ModuleType) -> str:
    """A hash of a package's Python files: what was computed by other code is not taken for the same."""
    folder = Path(package.__path__[0])
    return sha256_json([[str(path.relative_to(folder)), sha256_file(path)] for path in sorted(folder.rglob("*.py"))])


def remove_abandoned(folder: Path, *, now: float, older_than_seconds: float = 86_400.0) -> None:
    """Remove temporary files and folders of processes that were killed long ago."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > older_than_seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _name_target(error: OSError, temporary: Path, target: Path) -> None:
    """Let the error of a write name what was to be written, which is what its reader knows."""
    is_write = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if (is_write and error.filename is None) or str(error.filename).startswith(str(temporary)):
        error.filename = str(target)


def _umask() -> int:
    # There is no way to read the umask but to set it; mkstemp's 0600 would make every output private.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def fsync(path: Path) -> None:
    """Have the disk take what was written to a file, or renamed within a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
