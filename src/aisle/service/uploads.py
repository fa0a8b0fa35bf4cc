"""One product out of a request: a form with a file, or JSON with the image in base64. Nothing in it is believed.

The body is counted while it streams (`web/requests.py`); here fields are counted and measured. Whether the image is
one is found out where images are decoded, before a pixel of it is.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from aisle.catalog import Product
from aisle.errors import ImageError, InputError
from aisle.web.problems import Problem, Refusal

MAX_BODY_BYTES = 8 << 20
BODY_SECONDS = 20
MAX_FIELDS = 8
MAX_CHARACTERS = {
    "product_identifier": 200,
    "designation": 2_000,
    "description": 50_000,
    "product_id": 200,
    "imageid": 200,
}
KEYS = ("product_identifier", "product_id", "imageid")
"""What a shop calls its product, the best name first."""
MAX_COMMAS = sum(MAX_CHARACTERS.values())
"""As many as the texts may have letters: a JSON body of a million empty lists would stop all others."""
IMAGE = "image"
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
UPLOAD_PROBLEMS = (
    Problem.BODY_TOO_LARGE, Problem.BODY_TOO_SLOW, Problem.WRONG_CONTENT_TYPE, Problem.BROKEN_FORM,
    Problem.BROKEN_JSON, Problem.FIELD_INVALID, Problem.FIELD_TOO_LONG, Problem.TOO_MANY_FIELDS,
    Problem.REPEATED_FIELD, Problem.TOO_MANY_FILES, Problem.WRONG_FILE_FIELD, Problem.NOTHING_TO_CLASSIFY,
    Problem.IMAGE_NOT_A_FILE, Problem.IMAGE_NOT_BASE64, Problem.IMAGE_EMPTY, Problem.IMAGE_UNKNOWN_FORMAT,
    Problem.IMAGE_DAMAGED, Problem.IMAGE_TOO_LARGE, Problem.IMAGE_ANIMATED,
)  # fmt: skip
_IMAGE_PROBLEMS = {
    "empty": Problem.IMAGE_EMPTY,
    "too_large": Problem.IMAGE_TOO_LARGE,
    "not_an_image": Problem.IMAGE_UNKNOWN_FORMAT,
    "animated": Problem.IMAGE_ANIMATED,
}

_TEXT_FIELDS: dict[str, Any] = {
    name: {"type": "string", "maxLength": limit} for name, limit in MAX_CHARACTERS.items()
}
_EXAMPLE = {"designation": "Piscine gonflable ronde 3 m avec pompe", "description": "Diamètre 3 m, hauteur 76 cm."}
_FORM = {"type": "object", "properties": {**_TEXT_FIELDS, IMAGE: {"type": "string", "format": "binary"}}}
_JSON = {
    "type": "object",
    "properties": {**_TEXT_FIELDS, IMAGE: {"type": "string", "format": "byte", "description": "In base64."}},
}
PRODUCT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One product; `designation`, `description` or `image` has to be there.",
        "content": {
            FORMS[0]: {"schema": _FORM, "example": _EXAMPLE},
            FORMS[1]: {"schema": {"type": "object", "properties": _TEXT_FIELDS}, "example": _EXAMPLE},
            "application/json": {"schema": _JSON, "example": _EXAMPLE},
        },
    }
}
"""What the OpenAPI document says of such a request."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A product, and what the shop calls it, where it says so."""

    product: Product
    key: str | None


async def read_product(request: Request, *, seconds: float = BODY_SECONDS) -> Upload:
    """Raises Refusal that says which part of the request cannot be used."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    try:
        async with asyncio.timeout(seconds):
            if kind == "application/json":
                return _from_json(await request.body())
            if kind in FORMS:
                return await _from_form(request)
    except TimeoutError:
        raise Refusal(Problem.BODY_TOO_SLOW, seconds=seconds, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(Problem.BAD_REQUEST, reason="the client has gone") from None
    raise Refusal(Problem.WRONG_CONTENT_TYPE)


def refusal_of(error: InputError) -> Refusal:
    """What the client is told of a product that the predictor could not use."""
    if isinstance(error, ImageError):
        return Refusal(_IMAGE_PROBLEMS.get(error.reason, Problem.IMAGE_DAMAGED))
    return Refusal(Problem.NOTHING_TO_CLASSIFY)


async def _from_form(request: Request) -> Upload:
    try:
        # Starlette's own limits are wider than ours: what lies between gets a refusal that says more.
        form = await request.form(max_part_size=MAX_BODY_BYTES)
    except Refusal:
        raise
    except HTTPException:
        raise Refusal(Problem.BROKEN_FORM) from None
    try:
        return await _from_items(form.multi_items())
    finally:
        await form.close()


async def _from_items(items: Sequence[tuple[str, UploadFile | str]]) -> Upload:
    files = [(name, value) for name, value in items if isinstance(value, UploadFile)]
    texts = {name: value for name, value in items if isinstance(value, str)}
    if len(files) > 1:
        raise Refusal(Problem.TOO_MANY_FILES)
    if len(items) > MAX_FIELDS:
        raise Refusal(Problem.TOO_MANY_FIELDS, limit=MAX_FIELDS)
    if len(files) + len(texts) < len(items):
        raise Refusal(Problem.REPEATED_FIELD, field=_repeated(name for name, _ in items))
    if files and files[0][0] != IMAGE:
        raise Refusal(Problem.WRONG_FILE_FIELD, field=_shown(files[0][0]))
    if texts.get(IMAGE):
        raise Refusal(Problem.IMAGE_NOT_A_FILE)
    image = await files[0][1].read() if files else None
    if files and not image and files[0][1].filename:  # a browser sends an empty file without a name for none
        raise Refusal(Problem.IMAGE_EMPTY)
    return _upload(texts, image or None)


def _from_json(body: bytes) -> Upload:
    if body.count(b",") > MAX_COMMAS:
        raise Refusal(Problem.TOO_MANY_FIELDS, limit=MAX_FIELDS)
    try:
        fields = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):  # nested thousands deep
        raise Refusal(Problem.BROKEN_JSON) from None
    if not isinstance(fields, dict):
        raise Refusal(Problem.BROKEN_JSON)
    if len(fields) > MAX_FIELDS:
        raise Refusal(Problem.TOO_MANY_FIELDS, limit=MAX_FIELDS)
    encoded = fields.pop(IMAGE, None)
    if encoded is None or encoded == "":
        return _upload(fields, None)
    if not isinstance(encoded, str):
        raise Refusal(Problem.IMAGE_NOT_BASE64)
    try:
        image = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise Refusal(Problem.IMAGE_NOT_BASE64) from None
    return _upload(fields, image)


def _upload(fields: dict[str, Any], image: bytes | None) -> Upload:
    texts = {name: _text(name, fields.get(name), limit) for name, limit in MAX_CHARACTERS.items()}
    key = next((name for one in KEYS if (name := texts[one].strip())), None)
    return Upload(Product(texts["designation"], texts["description"], image), key)


def _text(name: str, value: object, limit: int) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # ids come as numbers
    if not isinstance(value, str) or not _is_unicode(value):
        raise Refusal(Problem.FIELD_INVALID, field=name, needed="text / du texte")
    if len(value) > limit:
        raise Refusal(Problem.FIELD_TOO_LONG, field=name, limit=limit)
    return value


def _is_unicode(text: str) -> bool:
    """JSON can spell half a character, which no file and no database takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _repeated(names: Iterable[str]) -> str:
    return next((_shown(name) for name, count in Counter(names).items() if count > 1), "…")


def _shown(name: str) -> str:
    """What a client made up is not repeated."""
    return name if name in MAX_CHARACTERS or name == IMAGE else "…"
