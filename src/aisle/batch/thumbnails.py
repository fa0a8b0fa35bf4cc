"""A small picture of an image in a zip, of which nothing but that image is read: where it begins, its row says."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

from aisle.errors import ImageError
from aisle.inputs.image import MAX_BYTES, decode

SIDE = 128
JPEG_QUALITY = 80
_LOCAL = struct.Struct("<4s5H3L2H")
"""What stands before each file of a zip (APPNOTE.TXT, section 4.3.7)."""
_STORED, _DEFLATED = 0, 8


def thumbnail(path: Path, at: int, packed: int) -> bytes:
    """A square JPEG of the image that begins `at` a byte of the zip at `path`. Raises ImageError."""
    pixels = decode(_unpacked(path, at, packed), SIDE)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _unpacked(path: Path, at: int, packed: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(at)
            header = _LOCAL.unpack(file.read(_LOCAL.size))
            method, lengths = header[3], header[-2:]
            file.seek(sum(lengths), io.SEEK_CUR)
            content = file.read(min(packed, MAX_BYTES + 1))
        if method == _DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, MAX_BYTES + 1)
    except (OSError, struct.error, zlib.error) as error:
        raise ImageError(f"the image cannot be read from the zip: {error}", reason="unreadable", where=path) from None
    if method != _STORED:
        raise ImageError("the image is packed in a way that is not read", reason="unreadable", where=path)
    return content
