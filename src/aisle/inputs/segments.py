"""What an image file is made of, counted before it is decoded.

A file of a few megabytes can hold a million chunks that say nothing, or ten thousand scans of one picture: each costs
little, and together they take minutes, whatever the number of pixels.
"""

from __future__ import annotations

import re

MAX_PNG_CHUNKS = 20_000
"""Encoders that write 4 KiB at a time make 8,000 of the largest file."""
MAX_JPEG_SEGMENTS = 1_000
"""A colour profile takes at most 255 of them, a progressive picture about 30."""
MAX_JPEG_SCANS = 32
"""Encoders write 10 or so, 18 of four colours; libjpeg goes through the whole picture for each."""
MAX_JPEG_PADDING = 4_096

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_SCAN, _END = 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset({0x01, 0xD8})


def has_too_many(data: bytes) -> bool:
    """Whether an image has more parts than any encoder makes; False for what is neither PNG nor JPEG."""
    if data.startswith(_PNG):
        return _png_has(data)
    return data.startswith(_JPEG) and _jpeg_has(data)


def _png_has(data: bytes) -> bool:
    at = len(_PNG)
    for _ in range(MAX_PNG_CHUNKS):
        if at >= len(data):
            return False
        at += 12 + int.from_bytes(data[at : at + 4])
    return True


def _jpeg_has(data: bytes) -> bool:
    """Up to the end of the first picture: what comes behind is not decoded."""
    few_scans = data.count(bytes((0xFF, _SCAN))) <= MAX_JPEG_SCANS
    at = len(_JPEG)
    scans = 0
    for _ in range(MAX_JPEG_SEGMENTS):
        found = _MARKER.search(data, at)
        marker = _END if found is None else data[found.end() - 1]
        if found is None or marker == _END or (few_scans and marker == _SCAN):
            return False
        if not scans and found.start() - at > MAX_JPEG_PADDING:  # behind a scan, its data lie between
            return True
        scans += marker == _SCAN
        if scans > MAX_JPEG_SCANS:
            return True
        at = found.end()
        if marker not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2])
    return True
