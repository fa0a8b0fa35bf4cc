"""`POST /predict`: one product in, its type out, and a record of it."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from aisle.auth.tokens import Identity
from aisle.catalog import Decision, ImageTraits, Prediction, Product
from aisle.errors import InputError
from aisle.model.predictor import Outcome
from aisle.service.batching import QueueFull, TooLate
from aisle.service.experiments import Answered
from aisle.service.limits import limited
from aisle.service.metrics import CONFIDENCE, PREDICTIONS
from aisle.service.parts import Parts, TheParts
from aisle.service.shedding import overloaded
from aisle.service.uploads import PRODUCT_BODY, UPLOAD_PROBLEMS, Upload, read_product, refusal_of
from aisle.store.predictions import PredictionRecord
from aisle.web.answers import Link, documented
from aisle.web.answers import answered as answered_with
from aisle.web.problems import Problem, language_of
from aisle.web.requests import note


class CandidateBody(BaseModel):
    prediction: str = Field(description="The code of the type.", examples=["2583"])
    label: str = Field(examples=["Piscine et accessoires"])
    confidence: float = Field(examples=[0.9731])


class PredictionBody(BaseModel):
    """`predictions` has the best types first; `decision` is `accept` where the model is sure enough."""

    predicted: str = Field(examples=["2583"])
    label: str = Field(examples=["Piscine et accessoires"])
    confidence: float = Field(description="How sure the model is, in (0, 1].", examples=[0.9731])
    decision: str = Field(description="`accept`, or `review`: a person should look.", examples=["accept"])
    predictions: list[CandidateBody]
    message: str = Field(examples=["Type proposé : Piscine et accessoires"])
    model: str = Field(description="The version of the model.", examples=["3f2a9c0d1b7e"])
    types: str = Field(
        description="The table of types that `predicted` is from: `types_id` of GET /model.",
        examples=["9d1c5b7e2f4a"],
    )
    prediction_id: str = Field(description="For POST /feedback.", examples=["0c8d5e6f7a8b4c9d0e1f2a3b4c5d6e7f"])
    request_id: str = Field(examples=["4f9b1c0c5a0d4b0d8f5b6f0a3a1d2c3e"])


_MESSAGES = {"fr": "Type proposé : {label}", "en": "Proposed type: {label}"}
_PROBLEMS = (
    Problem.NOT_SIGNED_IN, Problem.TOO_MANY_REQUESTS, *UPLOAD_PROBLEMS, Problem.OVERLOADED, Problem.UNAVAILABLE,
)  # fmt: skip
_ANSWER = {
    "predicted": "2583",
    "label": "Piscine et accessoires",
    "confidence": 0.9731,
    "decision": "accept",
    "predictions": [
        {"prediction": "2583", "label": "Piscine et accessoires", "confidence": 0.9731},
        {"prediction": "1302", "label": "Jeux de plein air et articles de sport", "confidence": 0.0142},
    ],
    "message": "Type proposé : Piscine et accessoires",
    "model": "3f2a9c0d1b7e",
    "types": "9d1c5b7e2f4a",
    "prediction_id": "0c8d5e6f7a8b4c9d0e1f2a3b4c5d6e7f",
    "request_id": "4f9b1c0c5a0d4b0d8f5b6f0a3a1d2c3e",
}
_SAID = "$response.body#/{}"
_LEADS_TO = {
    "correct": Link(
        "post", "/feedback", body={"prediction_id": _SAID.format("prediction_id"), "type": _SAID.format("predicted")}
    )
}
_ANSWERS = answered_with(_ANSWER, leads_to=_LEADS_TO) | documented(*_PROBLEMS)

router = APIRouter(tags=["predict"])


@router.post("/predict", openapi_extra=PRODUCT_BODY, responses=_ANSWERS)
@router.post("/predict_code", openapi_extra=PRODUCT_BODY, responses=_ANSWERS)
async def predict(
    request: Request, parts: TheParts, who: Annotated[Identity, Depends(limited("predict"))]
) -> PredictionBody:
    """The type of one product, with how sure the model is."""
    with a_place(parts):
        prediction, record = await classified(await read_product(request), request, parts, who)
    return _body(prediction, record, request)


@contextlib.contextmanager
def a_place(parts: Parts) -> Iterator[None]:
    """In the queue, held while a product is read and computed. Raises Refusal (503) while there is none."""
    try:
        with parts.queue.place():
            yield
    except (QueueFull, TooLate):
        raise overloaded() from None


async def classified(
    upload: Upload, request: Request, parts: Parts, who: Identity
) -> tuple[Prediction, PredictionRecord]:
    """What is said of a product, on the record. For whoever has a place; raises Refusal."""
    hashes = Hashes.of(upload.product)
    answered = await parts.experiments.predict(upload.product, key=upload.key, content=hashes.whole, user=who.user)
    outcome = usable(answered.said)
    record = _record(upload, hashes, outcome, answered, who, parts)
    parts.recorder.record(record)
    if outcome.decision is Decision.REVIEW and upload.product.image:
        parts.photos.keep(record.id, upload.product.image)
    parts.experiments.show(upload.product, record, key=upload.key)
    PREDICTIONS.labels(outcome.type.code, outcome.decision.value, outcome.model_version).inc()
    CONFIDENCE.observe(outcome.confidence)
    note(request, model_version=outcome.model_version, prediction_id=record.id)
    return outcome, record


def usable(outcome: Outcome) -> Prediction:
    """An answer to everything that was sent. Raises Refusal."""
    if isinstance(outcome, InputError):
        raise refusal_of(outcome)
    if outcome.image_error is not None:
        raise refusal_of(outcome.image_error)
    return outcome


@dataclass(frozen=True, slots=True)
class Hashes:
    """SHA-256 of an image, and of a whole product."""

    image: str | None
    whole: str

    @classmethod
    def of(cls, product: Product) -> Hashes:
        image = hashlib.sha256(product.image).hexdigest() if product.image else None
        whole = "\0".join([product.title, product.description, image or ""])
        return cls(image, hashlib.sha256(whole.encode()).hexdigest())


def _record(
    upload: Upload, hashes: Hashes, prediction: Prediction, answered: Answered, who: Identity, parts: Parts
) -> PredictionRecord:
    product = upload.product
    return PredictionRecord(
        id=uuid.uuid4().hex,
        created_at=parts.clock(),
        user_name=who.user,
        input_hash=hashes.whole,
        # PostgreSQL takes every character but this one.
        designation=product.title.replace("\0", " "),
        description=product.description.replace("\0", " "),
        image_hash=hashes.image,
        predicted=prediction.type.code,
        confidence=prediction.confidence,
        top=[
            {"code": one.type.code, "label": one.type.label, "confidence": one.confidence}
            for one in prediction.candidates
        ],
        decision=prediction.decision.value,
        model_version=prediction.model_version,
        product_key=upload.key and upload.key.replace("\0", " "),
        seconds=answered.seconds,
        experiment_id=answered.experiment_id,
        arm=answered.arm,
        image_facts=_facts_of(prediction.image_traits),
    )


def _facts_of(traits: ImageTraits | None) -> dict[str, Any] | None:
    """As `asdict`, which copies deeply, in a tenth of the time."""
    return None if traits is None else {one.name: getattr(traits, one.name) for one in fields(traits)}


def _body(prediction: Prediction, record: PredictionRecord, request: Request) -> PredictionBody:
    language = language_of(request.headers.get("accept-language", ""))
    return PredictionBody(
        predicted=prediction.type.code,
        label=prediction.type.label,
        confidence=prediction.confidence,
        decision=prediction.decision.value,
        predictions=[
            CandidateBody(prediction=one.type.code, label=one.type.label, confidence=one.confidence)
            for one in prediction.candidates
        ],
        message=_MESSAGES[language].format(label=prediction.type.label),
        model=prediction.model_version,
        types=prediction.types_id,
        prediction_id=record.id,
        request_id=request.state.request_id,
    )
