"""The images of a catalogue, read in place from a folder tree or a zip: nothing is ever unpacked.

An image is found by its name without the ending (`image_<imageid>_product_<productid>`), wherever in the tree
or the zip it lies, so that `images/image_train/…`, `image_train/…` and a flat folder all work. Nothing here knows
tables, so that the console may show an image without what reads them.
"""

from __future__ import annotations

import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from aisle.errors import ArchiveError, ImageError, InputError
from aisle.inputs.image import MAX_BYTES

IMAGES_ZIP = "images.zip"
IMAGE_FOLDERS = ("image_train", "image_test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

T = TypeVar("T")
R = TypeVar("R")


def image_stem(product_id: str, image_id: str) -> str:
    """The image file's name without its ending, as the catalogue's layout has it."""
    return f"image_{image_id}_product_{product_id}"


class Images(Protocol):
    """Where the images are. `read` may be called from several threads."""

    def __len__(self) -> int: ...

    def read(self, stem: str) -> bytes:
        """The file's bytes. Raises ImageError with reason `missing`, `unreadable` or `too_large`."""
        ...


class ImageFolder:
    """Images in files below one or more folders."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._paths = {
            path.stem: path
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES
        }

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, stem: str) -> bool:
        return stem in self._paths

    def read(self, stem: str) -> bytes:
        path = self._paths.get(stem)
        if path is None:
            raise _missing(stem)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise _too_large(stem)
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"the image cannot be read: {error.strerror}", reason="unreadable", where=path) from None


class ImageZip:
    """Images in a zip, which stays as it is."""

    def __init__(self, file: Path | BinaryIO, where: object = "") -> None:
        """`where` is what the user calls a `file` that is open already."""
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError) as error:
            raise ArchiveError(f"is no zip of images: {error}", where=where or file, hint="Pack it again.") from None
        self._names = {
            Path(info.filename).stem: info.filename
            for info in self._zip.infolist()
            if Path(info.filename).suffix.lower() in SUFFIXES
        }
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, stem: str) -> bool:
        return stem in self._names

    def where(self, stem: str) -> tuple[int, int] | None:
        """Where in the zip an image begins, with its header, and into how many bytes it is packed."""
        name = self._names.get(stem)
        if name is None:
            return None
        found = self._zip.getinfo(name)
        return found.header_offset, found.compress_size

    def read(self, stem: str) -> bytes:
        name = self._names.get(stem)
        if name is None:
            raise _missing(stem)
        if self._zip.getinfo(name).file_size > MAX_BYTES:
            raise _too_large(stem)
        try:
            with self._lock:  # one file position for all threads; reading is far cheaper than decoding
                return self._zip.read(name)
        except (
            zipfile.BadZipFile,
            OSError,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise ImageError(
                f"the image cannot be read from the zip: {error}", reason="unreadable", where=name
            ) from None


def open_images(path: Path) -> ImageFolder | ImageZip | None:
    """The images in a catalogue's folder (`images.zip`, or `image_train/` and `image_test/`), in a zip, or in
    any folder of images; None where there are none."""
    if path.is_file():
        return ImageZip(path)
    if not path.is_dir():
        raise InputError("there is no such folder or zip of images", where=path, hint="Is --images right?")
    if (path / IMAGES_ZIP).is_file():
        return ImageZip(path / IMAGES_ZIP)
    folders = [path / name for name in IMAGE_FOLDERS if (path / name).is_dir()]
    found = ImageFolder(folders or [path])
    return found if len(found) else None


def open_given_images(path: Path) -> Images:
    """The images at a path that somebody named for them. Raises InputError where there are none."""
    found = open_images(path)
    if found is None:
        raise InputError("holds no image", where=path, hint="Without --images only the texts are looked at.")
    return found


def map_bounded(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """`map` over threads, in order, with at most a few items a thread under way: memory stays bounded."""
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(function, item) for item in islice(items, 4 * threads))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))


def _missing(stem: str) -> ImageError:
    return ImageError("there is no such image", reason="missing", where=stem)


def _too_large(stem: str) -> ImageError:
    return ImageError(f"the image has more than {MAX_BYTES >> 20} MiB", reason="too_large", where=stem)
