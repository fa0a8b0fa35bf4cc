"""Small pictures of the catalogue's products: decoded within the limits that hold everywhere, and encoded anew.

A name that stands in a table is looked up among the images that are there; it never becomes a path.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path

from PIL import Image

from aisle.data.images import IMAGE_FOLDERS, IMAGES_ZIP, ImageFolder, ImageZip, image_stem, open_images
from aisle.errors import ImageError, InputError
from aisle.inputs.image import decode

SIDE = 112
QUALITY = 80
_State = tuple[int, ...]


def name_of(product_id: str, image_id: str) -> str:
    """The name of a product's image; empty for a product without one."""
    return image_stem(product_id, image_id) if image_id else ""


class Pictures:
    """Of the catalogue in one raw folder. May be asked from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: tuple[_State, ImageFolder | ImageZip | None] | None = None
        self._lock = threading.Lock()

    def has(self, name: str) -> bool:
        images = self._images()
        return images is not None and name in images

    def small(self, name: str) -> bytes | None:
        """A square JPEG; None where there is no such image, or none that can be decoded."""
        images = self._images()
        if images is None or name not in images:
            return None
        try:
            pixels = decode(images.read(name), SIDE)
        except ImageError:
            return None
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY)
        return out.getvalue()

    def _images(self) -> ImageFolder | ImageZip | None:
        """As they are now: a catalogue may be imported while the service runs."""
        with self._lock:
            state = tuple(_changed(self._folder / name) for name in ("", IMAGES_ZIP, *IMAGE_FOLDERS))
            if self._opened is None or self._opened[0] != state:
                try:
                    self._opened = state, open_images(self._folder)
                except InputError:
                    self._opened = state, None
            return self._opened[1]


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
