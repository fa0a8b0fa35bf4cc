"""The products that are asked about, drawn as the generated catalogue draws its own, and how each contender is asked.

Same bytes for all: a French title and its 500 x 500 JPEG.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COUNT, SEED = 200, 11
"""Of another seed than the catalogue that a bundle is trained on."""


@dataclass(frozen=True, slots=True)
class Shown:
    title: str
    image: bytes


Body = tuple[str, bytes]
"""A content type, and what is sent."""


def drawn(count: int = COUNT) -> list[Shown]:
    from aisle.data.sample.images import image_file
    from aisle.data.sample.plan import plan_rows
    from aisle.data.sample.texts import title

    rows = plan_rows(SEED, count, first_number=0, first_key=0)
    return [Shown(title(row), image_file(row)) for row in rows if not row.damage]


def form(shown: Shown) -> Body:
    mark = "benchmark-boundary"
    head = f"--{mark}\r\nContent-Disposition: form-data; name="
    parts = (
        f'{head}"designation"\r\n\r\n{shown.title}\r\n'.encode(),
        f'{head}"image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode() + shown.image + b"\r\n",
        f"--{mark}--\r\n".encode(),
    )
    return f"multipart/form-data; boundary={mark}", b"".join(parts)


def as_json(shown: Shown) -> Body:
    return "application/json", json.dumps(_fields(shown)).encode()


def as_list(shown: Shown) -> Body:
    """What BentoML batches: a list, here of one."""
    return "application/json", json.dumps({"products": [_fields(shown)]}).encode()


def as_tensors(shown: Shown) -> Body:
    """By the Open Inference Protocol."""
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]} for name, text in _fields(shown).items()
    ]
    return "application/json", json.dumps({"inputs": inputs}).encode()


def as_msgpack(shown: Shown) -> Body:
    """A map of two, by the format's own rules: it spares a package for one message."""
    title = shown.title.encode()
    body = b"\x82" + _text("designation") + _text(shown.title) + _text("image")
    assert len(title) < 1 << 16
    return "application/msgpack", body + b"\xc6" + len(shown.image).to_bytes(4, "big") + shown.image


def requests(shown: Sequence[Shown], body: Callable[[Shown], Body], path: str, token: str = "") -> list[bytes]:
    """Whole HTTP/1.1 requests, ready to be written."""
    return [_request(path, *body(one), token) for one in shown]


def _request(path: str, kind: str, content: bytes, token: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def _fields(shown: Shown) -> dict[str, str]:
    return {"designation": shown.title, "image": base64.b64encode(shown.image).decode()}


def _text(text: str) -> bytes:
    content = text.encode()
    return b"\xda" + len(content).to_bytes(2, "big") + content
