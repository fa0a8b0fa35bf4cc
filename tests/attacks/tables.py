"""Hostile tables and zips of images, made from seeds. Each that is taken in ends done or failed; its worker lives."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.attacks.images import whole

GOOD = b"index,designation,productid,imageid\n1,Piscine ronde,2,3\n"
IMAGE = "image_3_product_2.jpg"


@dataclass(frozen=True)
class Table:
    """What is sent as a batch; `images` is a zip."""

    what: str
    name: str
    content: bytes
    images: bytes | None = None


def hostile_tables() -> Iterator[Table]:
    for what, content in _csvs().items():
        yield Table(what, "table.csv", content)
    yield from _parquets()
    for what, images in _zips().items():
        yield Table(what, "table.csv", GOOD, images)
    yield Table("a name that leads outside", "../../../etc/cron.d/a.csv", GOOD)
    yield Table("a name of a line break", "a\r\nX-Evil: 1.csv", GOOD)
    yield Table("a name that is too long", f"{'x' * 5000}.csv", GOOD)


def _csvs() -> dict[str, bytes]:
    noise = random.Random(0)
    return {
        "noise": noise.randbytes(200_000),
        "NUL": b"index,designation\n1,pis\0cine\n",
        "nothing but NUL": bytes(1 << 20),
        "a million columns": b"designation" + b",a" * 1_000_000 + b"\n",
        "a million cells under two columns": b"index,designation\n" + b"," * 1_000_000 + b"\n",
        "three million separators": b"," * 3_000_000,
        "a quote that is never closed": b'index,designation\n1,"' + b"a\n" * 2_000_000,
        "nothing but quotes": b'"' * 3_000_001,
        "a cell of 17 million": b"index,designation\n1," + b"a" * (17 << 20),
        "a line without an end": b"a" * (17 << 20),
        "nothing but line ends": b"\n" * 4_000_000,
        "nothing but carriage returns": b"\r" * 4_000_000,
        "a header alone": b"index,designation",
        "the same column a thousand times": b"designation," * 1_000 + b"\na\n",
        "names that are spaces": b" ,  ,   \n1,2,3\n",
        "half a letter": "index,designation\n1,été".encode()[:-1],
        "UTF-16": "index,designation\n1,été\n".encode("utf-16"),
        "UTF-7": b"index,designation\n1,+ACIAIg-\n",
        "a formula": b"index,designation\n\"=cmd|' /C calc'!A0\",piscine\n",
        "a path": b"index,designation,image\n1,piscine,/etc/passwd\n2,piscine,../../../../etc/passwd\n",
        "many rows that are empty": b"index,designation\n" + b",\n" * 2_000,
        "HTML": b"<!DOCTYPE html><html></html>",
        "a zip": _zip({"a.csv": GOOD}),
        "parquet by another name": _parquet(designation=["a"]),
    }


def _parquets() -> Iterator[Table]:
    good = _parquet(designation=["piscine"] * 50, index=list(range(50)))
    for percent in range(5, 100, 5):
        yield Table(f"parquet cut at {percent} %", "table.parquet", good[: len(good) * percent // 100])
    chance = random.Random(1)
    for number in range(10):
        damaged = bytearray(good)
        for _ in range(1 + number % 5):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        yield Table(f"parquet with bits flipped, {number}", "table.parquet", bytes(damaged))
    yield Table("parquet whose footer is as long as it says", "table.parquet", b"PAR1" + b"\xff" * 8 + b"PAR1")
    yield Table("parquet that is none", "table.parquet", GOOD)
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["piscine " * 10_000]))
    yield Table("parquet of a text that many rows share", "table.parquet", _parquet(designation=bomb))
    nested: Any = pa.array([[[["a"]]]])
    yield Table("parquet of lists of lists", "table.parquet", _parquet(designation=nested))


def _parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def _zip(entries: dict[str, bytes], **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    return out.getvalue()


def good_zip() -> bytes:
    return _zip({IMAGE: whole("JPEG")})


def _zips() -> dict[str, bytes]:
    name = IMAGE
    good = good_zip()
    inner = good
    for depth in range(20):
        inner = _zip({f"{depth}.zip": inner, name: whole("JPEG")})
    start = good.index(b"PK\1\2")
    lies = {
        "that it is small": (24, struct.pack("<I", 1)),
        "that it is huge": (24, struct.pack("<I", 2**32 - 2)),
        "that it is packed into nothing": (20, struct.pack("<I", 0)),
        "another sum": (16, b"\0\0\0\0"),
        "that it begins elsewhere": (42, struct.pack("<I", 5)),
        "that it is packed otherwise": (10, struct.pack("<H", 12)),
        "that it is encrypted": (8, struct.pack("<H", 1)),
        "that it needs a later version": (6, struct.pack("<H", 99)),
        "that it is a link": (38, struct.pack("<I", 0o120777 << 16)),
    }
    found = {f"a zip whose directory says {what}": _changed(good, start + at, to) for what, (at, to) in lies.items()}
    found |= {f"a zip cut at {percent} %": good[: len(good) * percent // 100] for percent in range(5, 100, 10)}
    twice = _zip({name: whole("JPEG"), "b" + name[1:]: b"other"}).replace(b"bmage_3", b"image_3")
    found |= {f"a zip with {path!r}": _zip({path: whole("JPEG")}) for path in ("../a.jpg", "/a.jpg", "C:\\a.jpg")}
    return found | {
        "zips in zips": inner,
        "two of one name": twice,
        "a bomb": _zip({name: bytes(200 << 20)}),
        "an image that is a bomb": _zip({name: b"\xff\xd8\xff" + bytes(40 << 20)}),
        "an image that is none": _zip({name: b"<svg/>"}),
        "a hundred thousand entries": _zip({f"{number}": b"" for number in range(60_000)}),
        "a zip behind a program": b"#!/bin/sh\n" + good,
        "a zip with a comment that is a zip": good[:-2] + struct.pack("<H", len(good)) + good,
        "noise": b"PK\3\4" + zlib.compress(random.Random(3).randbytes(1000)),
    }


def _changed(content: bytes, at: int, to: bytes) -> bytes:
    return content[:at] + to + content[at + len(to) :]
