"""The prediction service: HTTP in, the predictor, HTTP out."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from aisle import __version__
from aisle.catalog import Prediction, Product
from aisle.errors import ImageError, InputError
from aisle.model.predictor import Predictor
from aisle.web import RequestMiddleware, answer_that_it_lives, answer_with_problems

MAX_IMAGE_BYTES = 8 << 20
MAX_BODY_BYTES = 12 << 20  # such an image in base64, and long texts

Text = Annotated[str, Field(max_length=100_000)]


class ProductForm(BaseModel):
    """One product, as the original project's form has it; `image` is base64 in JSON and a file in a form."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    product_identifier: Text = ""
    designation: Text = ""
    description: Text = ""
    product_id: Text = ""
    imageid: Text = ""
    image: str | None = None


class CandidateBody(BaseModel):
    prediction: str
    label: str
    confidence: float


class PredictionBody(BaseModel):
    predicted: str
    label: str
    confidence: float
    decision: str
    predictions: list[CandidateBody]
    message: str
    model: str
    request_id: str


def create_app(predictor: Predictor) -> FastAPI:
    """The application around a loaded predictor, which whoever made it closes."""
    app = FastAPI(title="aisle", version=__version__, docs_url="/docs", redoc_url=None)
    app.add_middleware(RequestMiddleware, max_body=MAX_BODY_BYTES)
    answer_with_problems(app)

    @app.get("/")
    async def root() -> dict[str, str]:
        return {"message": "Bienvenue sur l'API de classification de produits"}

    answer_that_it_lives(app)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready", "model": predictor.version}

    @app.post("/predict", response_model=PredictionBody, openapi_extra=_PREDICT_BODY)
    async def predict(request: Request) -> PredictionBody:
        product = await _read_product(request)
        [outcome] = await run_in_threadpool(predictor.predict, [product])
        if isinstance(outcome, InputError):
            raise outcome
        if outcome.image_error is not None:
            raise outcome.image_error
        return _body(outcome, request_id=request.state.request_id)

    return app


async def _read_product(request: Request) -> Product:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        return _product(await _json_body(request), None)
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        async with request.form(max_files=1, max_fields=8) as form:
            upload = form.get("image")
            image = await _read_upload(upload) if isinstance(upload, UploadFile) else None
            return _product({name: value for name, value in form.items() if isinstance(value, str)}, image)
    raise HTTPException(415, "send a form (multipart/form-data) or JSON (application/json)")


async def _json_body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError):  # nested thousands deep
        raise InputError("the body is not JSON") from None
    if not isinstance(body, dict):
        raise InputError("the body is not a JSON object")
    return body


async def _read_upload(upload: UploadFile) -> bytes | None:
    if upload.size is not None and upload.size > MAX_IMAGE_BYTES:
        raise HTTPException(413, f"the image has more than {MAX_IMAGE_BYTES >> 20} MiB")
    return await upload.read() or None


def _product(fields: dict[str, Any], image: bytes | None) -> Product:
    try:
        form = ProductForm.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if image is None and form.image:
        try:
            image = base64.b64decode(form.image, validate=True)
        except binascii.Error:
            raise ImageError("the image is not base64", reason="not_base64") from None
    return Product(form.designation, form.description, image)


def _body(prediction: Prediction, *, request_id: str) -> PredictionBody:
    return PredictionBody(
        predicted=prediction.type.code,
        label=prediction.type.label,
        confidence=prediction.confidence,
        decision=prediction.decision.value,
        predictions=[
            CandidateBody(prediction=one.type.code, label=one.type.label, confidence=one.confidence)
            for one in prediction.candidates
        ],
        message=f"Type proposé : {prediction.type.label}",
        model=prediction.model_version,
        request_id=request_id,
    )


_PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": ProductForm.model_json_schema()},
            "application/json": {"schema": ProductForm.model_json_schema()},
        },
    }
}
