"""What is fuzzed: for each kind of input seeds of our own, and what is done with any bytes.

A target may refuse with the house's own errors. Whatever else it raises, a long wait, or much memory is a finding.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from tests.attacks.images import KINDS, whole
from tests.attacks.requests import ENCODED, FORM, JSON, field
from tests.attacks.tables import GOOD, good_zip

from aisle.auth.keyset import Refused
from aisle.auth.tokens import TokenPolicy, Verifier
from aisle.batch import csv_file
from aisle.data.archive import check_archive
from aisle.data.images import ImageZip
from aisle.data.raw import COLUMNS
from aisle.errors import AisleError, ImageError
from aisle.files import sha256_bytes, sha256_json
from aisle.inputs.image import decode
from aisle.inputs.text import clean
from aisle.model.bundle import FORMAT, MANIFEST_FILE, Bundle
from aisle.service.uploads import read_product
from aisle.web.requests import RequestMiddleware

SECONDS = 2
MEMORY_MIB = 2_048


@dataclass(frozen=True)
class Target:
    """`run` takes any bytes; `seeds` are those that it understands."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def _text(content: bytes) -> None:
    cleaned = clean(content.decode("utf-8", "replace"))
    assert cleaned == " ".join(cleaned.split())


def _texts() -> list[bytes]:
    return [
        b"<p>D&eacute;coration d'&amp;eacute;t&eacute;</p>",
        "DÃ©coration <!-- a > b --> 30&nbsp;x&#160;40".encode(),
        b"<a href='x' " * 5,
        "\u202e\u00ad\ufeffété\x00".encode(),
    ]  # fmt: skip


def _image(content: bytes) -> None:
    assert decode(content, 64).shape == (64, 64, 3)


def _zip(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".zip") as file:
        file.write(content)
        file.flush()
        check_archive(Path(file.name))
        images = ImageZip(Path(file.name))
        for stem in list(images._names)[:20]:
            try:
                images.read(stem)
            except ImageError:
                continue


def _csv(content: bytes) -> None:
    stream = io.BytesIO(content)
    layout = csv_file.examine(stream, "a.csv", known=COLUMNS.__contains__)
    for start, stop, rows in list(csv_file.cut(stream, layout, 7, "a.csv")):
        assert len(csv_file.read(stream, layout, start, stop, "a.csv")) == rows


def _csvs() -> list[bytes]:
    return [GOOD, 'index;designation\r\n1;"é ""x"""\r\n\r\n'.encode("cp1252"), b"\xef\xbb\xbf" + GOOD]


def _form(content: bytes) -> None:
    """The first line is the content type, the rest the body."""
    kind, _, body = content.partition(b"\n")
    asyncio.run(_sent(kind.strip(b"\r\n\0 "), body))


async def _sent(kind: bytes, body: bytes) -> None:
    waiting = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": waiting.pop(0) if waiting else b"", "more_body": bool(waiting)}

    async def send(_: object) -> None:
        """There is nobody."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_product(Request({**scope, "app": FastAPI()}, receive))

    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"",
             "headers": [(b"content-type", kind)]}  # fmt: skip
    await RequestMiddleware(app, max_body=8 << 20)(scope, receive, send)


def _forms() -> list[bytes]:
    whole_form = field(b"designation", b"piscine") + field(b"image", whole("PNG"), file=True) + b"--b--\r\n"
    return [
        FORM + b"\n" + whole_form,
        FORM + b"; charset=utf-8\n" + whole_form,
        ENCODED + b"\ndesignation=piscine&description=%C3%A9t%C3%A9&product_id=7",
        JSON + b'\n{"designation": "piscine", "image": "QQ==", "product_id": 7}',
    ]


def _bundle(content: bytes) -> None:
    """A manifest, or a table that a manifest names: by the first byte."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if content[:1] == b"{":
            (folder / MANIFEST_FILE).write_bytes(content)
        else:
            tables = {"model.json": content[1:], "known_answer.json": b"{}", "metrics.json": b"{}",
                      "lineage.json": b"{}", "product_types.csv": b"prdtypecode,label\n10,Livres\n",
                      "MODEL_CARD.md": b"a", "image.safetensors": content[1:],
                      "title.safetensors": content[1:], "title.json": b"{}"}  # fmt: skip
            sums = {file: sha256_bytes(table) for file, table in tables.items()}
            manifest = {"format": FORMAT, "version": sha256_json(sums)[:12], "files": sums}
            (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
            for file, table in tables.items():
                (folder / file).write_bytes(table)
        bundle = Bundle.load(folder)
        bundle.types()
        bundle.classifier()


def _bundles() -> list[bytes]:
    model = {"codes": ["10"], "text_fields": ["title"], "temperatures": {"title": 1.0}, "fusion": {"kind": "mean"},
             "decision": {"kind": "cost"}}  # fmt: skip
    manifest = {"format": FORMAT, "version": "0" * 12, "files": {"model.json": "0" * 64}}
    arrays = b'\x28\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return [json.dumps(manifest).encode(), b"t" + json.dumps(model).encode(), b"t" + arrays + bytes(4)]


_KEY = {
    "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "a",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}  # fmt: skip
_VERIFIER = Verifier(lambda: {"keys": [_KEY]}, TokenPolicy("aisle", "aisle", timedelta(hours=1)))


def _token(content: bytes) -> None:
    _VERIFIER.verify(content.decode("latin-1"))


def _tokens() -> list[bytes]:
    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    claims = {"iss": "aisle", "aud": "aisle", "sub": "anne", "exp": 2**31, "iat": 1, "jti": "a", "kid": "a"}
    head = {"alg": "EdDSA", "typ": "at+jwt", "kid": "a"}
    return [b".".join([part(head), part({**claims, "role": "admin"}), b"A" * 86]), b"..", part(head) + b".e30."]


TARGETS: Mapping[str, Target] = {
    "text": Target(_text, _texts),
    "image": Target(_image, lambda: [whole(kind) for kind in KINDS]),
    "zip": Target(_zip, lambda: [good_zip(), good_zip()[:-2] + b"\1\0a"]),
    "csv": Target(
        _csv, lambda: [GOOD, 'index;designation\r\n1;"é ""x"""\r\n\r\n'.encode("cp1252"), b"\xef\xbb\xbf" + GOOD]
    ),
    "form": Target(_form, _forms),
    "bundle": Target(_bundle, _bundles),
    "token": Target(_token, _tokens),
}
ALLOWED = (AisleError, HTTPException, Refused)
"""What a target may raise."""
