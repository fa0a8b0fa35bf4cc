"""Hostile images, made from seeds: what each is, its bytes, and the statuses that are right for it."""

from __future__ import annotations

import functools
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

FINE = frozenset({200})
TOO_LARGE = ANIMATED = DAMAGED = frozenset({422})
OTHER = frozenset({415})
REFUSED = frozenset({413, 415, 422})
EITHER = FINE | REFUSED
"""Of what may be whole by chance."""


@dataclass(frozen=True)
class Attack:
    """`right`: the statuses of a service that is not impressed."""

    name: str
    content: bytes
    right: frozenset[int]


def hostile_images() -> Iterator[Attack]:
    yield from _too_large()
    yield from _in_pieces()
    yield from _cut_short()
    yield from _flipped()
    yield from _dressed_up()
    yield from _two_at_once()
    yield from _animated()
    yield from _with_nonsense()


@functools.cache
def whole(kind: str) -> bytes:
    """A small image of a kind."""
    if kind == "progressive":
        return saved(_picture(), "JPEG", progressive=True)
    if kind == "lossless":
        return saved(_picture(), "WEBP", lossless=True)
    if kind == "transparent":
        return saved(_picture().convert("RGBA"), "PNG")
    if kind == "palette":
        return saved(_picture().convert("P"), "PNG")
    return saved(_picture(), kind)


KINDS = ("JPEG", "progressive", "MPO", "PNG", "palette", "transparent", "WEBP", "lossless")


def _picture() -> Image.Image:
    noise = random.Random(0)
    return Image.frombytes("RGB", (48, 40), noise.randbytes(48 * 40 * 3))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes, data: bytes | None = None, depth: int = 1, colour: int = 0) -> bytes:
    """A PNG of one colour, which takes next to no bytes; `data` instead of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    if data is None:
        channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
        data = chunk(b"IDAT", _packed_zeros(height * (1 + (width * depth * channels + 7) // 8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + data + chunk(b"IEND")


def _packed_zeros(count: int) -> bytes:
    packer = zlib.compressobj(1)
    block = bytes(1 << 20)
    packed = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*packed, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def with_segment(marker: int, content: bytes, kind: str = "JPEG") -> bytes:
    jpeg = whole(kind)
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def _too_large() -> Iterator[Attack]:
    yield Attack("PNG of 65,000 x 65,000 that has no pixels", png(65_000, 65_000, data=chunk(b"IDAT")), TOO_LARGE)
    yield Attack("PNG of 20,000 x 20,000", png(20_000, 20_000), TOO_LARGE)
    yield Attack("PNG of 2^31 - 1", png(2**31 - 1, 2**31 - 1, data=chunk(b"IDAT")), REFUSED)
    yield Attack("PNG of no width", png(0, 40, data=chunk(b"IDAT")), REFUSED)
    for width, height in ((65_000, 1), (1, 65_000), (8_001, 8_001), (5_001, 5_001)):
        yield Attack(f"PNG of {width} x {height}", png(width, height), TOO_LARGE)
    yield Attack("PNG of 25 megapixels", png(5_000, 5_000), FINE)
    yield Attack("PNG of 25 megapixels, four channels", png(5_000, 5_000, depth=8, colour=6), FINE)
    yield Attack("PNG of 25 megapixels, 16 bits", png(5_000, 5_000, depth=16), FINE)
    size = whole("JPEG").index(b"\xff\xc0") + 5
    for width, height in ((65_000, 65_000), (65_500, 1), (1, 65_500), (9_000, 9_000), (0, 0)):
        lying = whole("JPEG")[:size] + struct.pack(">HH", height, width) + whole("JPEG")[size + 4 :]
        yield Attack(f"JPEG that says {width} x {height}", lying, REFUSED)
    yield Attack("JPEG of 65,000 x 1", saved(Image.new("RGB", (65_000, 1)), "JPEG"), TOO_LARGE)
    yield Attack("JPEG of 25 megapixels", saved(Image.new("L", (5_000, 5_000)), "JPEG", progressive=True), FINE)
    yield Attack("WebP of 16,383 x 100", saved(Image.new("RGB", (16_383, 100)), "WEBP", method=0), TOO_LARGE)
    for side in (0x3FFF, 0xFFFFFF):
        canvas = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + 2 * struct.pack("<I", side)[:3]
        body = b"WEBP" + canvas + whole("WEBP")[12:]
        yield Attack(f"WebP with a canvas of {side + 1}", b"RIFF" + struct.pack("<I", len(body)) + body, REFUSED)
    yield Attack("GIF of 65,000 x 65,000", b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + bytes(20), OTHER)
    for kind in ("BMP", "TIFF", "GIF", "ICO", "PPM"):
        yield Attack(f"{kind} of 3,000 x 3,000", saved(Image.new("L", (3_000, 3_000)), kind), REFUSED)
    yield Attack("9 MiB of nothing", bytes(9 << 20), frozenset({413}))


def _in_pieces() -> Iterator[Attack]:
    """Nothing is large but the number of pieces, or what one of them unpacks to."""
    for kind in (b"abCd", b"IDAT", b"tEXt", b"PLTE"):
        yield Attack(f"PNG of 500,000 {kind.decode()}", png(8, 8, chunk(kind) * 500_000), DAMAGED)
    bomb = b"a\0\0" + _packed_zeros(100 << 20)
    for kind in (b"iCCP", b"zTXt"):
        yield Attack(f"PNG with 100 MiB in {kind.decode()}", png(8, 8, chunk(kind, bomb)), EITHER)
    some = b"".join(chunk(b"zTXt", b"a%d\0\0" % number + _packed_zeros(1_000_000)) for number in range(100))
    yield Attack("PNG with 100 texts of 1 MB", png(8, 8, some), EITHER)
    jpeg = saved(Image.new("RGB", (5_000, 5_000), (200, 10, 10)), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xc4") : -2]
    yield Attack("JPEG of 100,000 scans", jpeg[:-2] + last * 100_000 + jpeg[-2:], DAMAGED)
    yield Attack("JPEG of 20 scans", jpeg[:-2] + last * 10 + jpeg[-2:], EITHER)
    start, rest = whole("JPEG")[:2], whole("JPEG")[2:]
    for name, piece in (("comments", b"\xff\xfe\0\2"), ("padding", b"\xff\xff\xff\xff"), ("junk", b"\xff\0\0\0")):
        yield Attack(f"JPEG with 1,500,000 times {name}", start + piece * 1_500_000 + rest, DAMAGED)
    yield Attack("WebP of 500,000 chunks", _webp_of(b"abcd\0\0\0\0" * 500_000), EITHER)


def _webp_of(chunks: bytes) -> bytes:
    body = whole("WEBP")[8:] + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _cut_short() -> Iterator[Attack]:
    for kind in KINDS:
        content = whole(kind)
        for percent in range(5, 100, 5):
            # Of two pictures in one file the first may be whole.
            right = EITHER if kind == "MPO" else REFUSED
            yield Attack(f"{kind} cut at {percent} %", content[: len(content) * percent // 100], right)


def _flipped() -> Iterator[Attack]:
    for kind in KINDS:
        chance = random.Random(kind)
        for number in range(10):
            damaged = bytearray(whole(kind))
            for _ in range(1 << (number % 5)):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            yield Attack(f"{kind} with bits flipped, {number}", bytes(damaged), EITHER)


def _dressed_up() -> Iterator[Attack]:
    others = {
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "SVG that reads a file": b'<!DOCTYPE s [<!ENTITY f SYSTEM "file:///etc/passwd">]><svg><text>&f;</text></svg>',
        "XML that grows": b'<!DOCTYPE a [<!ENTITY a "a">' + b'<!ENTITY b "&a;&a;">' * 50 + b"]><svg>&b;</svg>",
        "HTML": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "a program": b"\x7fELF" + bytes(500),
        "PHP": b"<?php system($_GET['c']); ?>",
        "MVG": b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/x'\npop graphic-context",
        "a pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        "text": "été".encode() * 1000,
        "a zip": _zip(),
        "a lone start": b"\xff\xd8\xff",
        "RIFF of sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
    }
    for name, content in others.items():
        yield Attack(f"{name} dressed as an image", content, REFUSED)
        yield Attack(f"{name} behind the first bytes of a JPEG", b"\xff\xd8\xff\xe0" + content, REFUSED)


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("../../a.jpg", b"a")
    return out.getvalue()


def _two_at_once() -> Iterator[Attack]:
    """They are images, and something else to whoever reads them otherwise."""
    for kind in ("JPEG", "PNG", "WEBP"):
        for name, content in (("a zip", _zip()), ("HTML", b"<script>alert(1)</script>"), ("itself", whole(kind))):
            yield Attack(f"{kind} with {name} behind it", whole(kind) + content, EITHER)
        yield Attack(f"{kind} with HTML before it", b"<html><!--" + whole(kind), OTHER)
    yield Attack("JPEG with PHP in a comment", with_segment(0xFE, b"<?php system('id'); ?>"), FINE)
    yield Attack("PNG with HTML in a text", png(8, 8, chunk(b"tEXt", b"a\0<script>alert(1)</script>")), FINE)
    yield Attack("PNG in a JPEG", with_segment(0xE0, whole("PNG")), EITHER)
    yield Attack("JPEG in a PNG", png(8, 8, chunk(b"abCd", whole("JPEG"))), FINE)


def _animated() -> Iterator[Attack]:
    frames = [Image.new("RGB", (20, 20), (shade * 101 % 256, 0, 0)) for shade in range(200)]
    for kind in ("WEBP", "PNG"):
        for count in (2, 200):
            content = saved(frames[0], kind, save_all=True, append_images=frames[1:count])
            yield Attack(f"{kind} of {count} frames", content, ANIMATED)
    yield Attack("GIF of 200 frames", saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), OTHER)
    lying = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    yield Attack("PNG that says 2^31 frames", png(8, 8, lying), EITHER)


def _with_nonsense() -> Iterator[Attack]:
    """In what stands beside the pixels: where the image is upright, and what its colours mean."""
    for name, exif in _exifs().items():
        yield Attack(f"JPEG with EXIF: {name}", with_segment(0xE1, b"Exif\0\0" + exif[:65_000]), EITHER)
        yield Attack(f"PNG with EXIF: {name}", png(8, 8, chunk(b"eXIf", exif)), EITHER)
        extended = b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + 2 * b"\x2f\0\0"
        body = b"WEBP" + extended + whole("WEBP")[12:] + b"EXIF" + struct.pack("<I", len(exif)) + exif
        yield Attack(f"WebP with EXIF: {name}", b"RIFF" + struct.pack("<I", len(body)) + body, EITHER)
    noise = random.Random(1).randbytes(60_000)
    for name, profile in (("noise", noise), ("nothing", b""), ("a lying length", b"\xff\xff\xff\xff" + noise[:128])):
        yield Attack(f"JPEG with a profile: {name}", with_segment(0xE2, b"ICC_PROFILE\0\1\1" + profile), EITHER)
        packed = chunk(b"iCCP", b"a\0\0" + zlib.compress(profile))
        yield Attack(f"PNG with a profile: {name}", png(8, 8, packed), EITHER)
    yield Attack(
        "JPEG whose profile has 255 parts of 255", with_segment(0xE2, b"ICC_PROFILE\0\xff\xff" + noise), EITHER
    )


def _exifs() -> dict[str, bytes]:
    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, kind, count, value)

    def tiff(*entries: bytes, after: int = 0) -> bytes:
        table = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", after)
        return b"II*\0\x08\0\0\0" + table

    return {
        "an orientation of 99": tiff(entry(0x0112, 3, 1, 99)),
        "an orientation of many": tiff(entry(0x0112, 3, 2**31, 8)),
        "an orientation that is text": tiff(entry(0x0112, 2, 4, 0x41414141)),
        "a table after itself": tiff(entry(0x0112, 3, 1, 6), after=8),
        "a table in itself": tiff(entry(0x8769, 4, 1, 8), entry(0x8825, 4, 1, 8)),
        "four thousand large ones": tiff(*(entry(0x9000 + n, 7, 60_000, 8) for n in range(4_000))) + bytes(20_000),
        "more entries than there are": b"II*\0\x08\0\0\0\xff\xff" + bytes(24),
        "a place far outside": b"MM\0*\xff\xff\xff\xff",
        "noise": random.Random(2).randbytes(5_000),
        "nothing": b"",
    }
