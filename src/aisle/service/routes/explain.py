"""`POST /explain`: why the champion gives a product its type."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from aisle.auth.tokens import Identity
from aisle.catalog import ProductTypes
from aisle.errors import InputError
from aisle.model.bundle import label_of
from aisle.model.explain import Explanation
from aisle.service.limits import limited
from aisle.service.parts import Parts, TheParts
from aisle.service.routes.predict import a_place
from aisle.service.uploads import PRODUCT_BODY, UPLOAD_PROBLEMS, Upload, read_product, refusal_of
from aisle.web.answers import answered, documented
from aisle.web.problems import Problem
from aisle.web.requests import note


class WordBody(BaseModel):
    word: str = Field(examples=["piscine"])
    weight: float = Field(description="In log-odds; above 0 it speaks for the type.", examples=[3.21])


class ModelShareBody(BaseModel):
    weight: float = Field(
        description="What it adds to the log-probability of the type (Shapley value); below 0 it speaks against it.",
        examples=[3.5],
    )
    share: float = Field(description="Of all weights, whichever way they go.", examples=[0.94])


class NeighbourBody(BaseModel):
    """A similar product that was learnt from."""

    key: str = Field(examples=["3804725264"])
    title: str = Field(examples=["piscine gonflable ronde 3 m"])
    code: str = Field(examples=["2583"])
    label: str = Field(examples=["Piscine et accessoires"])
    similarity: float = Field(description="In [0, 1].", examples=[0.81])


class ExplanationBody(BaseModel):
    predicted: str = Field(examples=["2583"])
    label: str = Field(examples=["Piscine et accessoires"])
    confidence: float = Field(examples=[0.9731])
    decision: str = Field(examples=["accept"])
    models: dict[str, ModelShareBody] = Field(description="How much each model that could look had to say.")
    words: dict[str, list[WordBody]] = Field(description="Of each text that a model read, in their order.")
    heat_map: list[list[float]] | None = Field(
        description="Rows from the top of the image (made square, with white): what the log-probability of the type "
        "loses where that part is covered; null without an image."
    )
    neighbours: list[NeighbourBody] = Field(description="The most similar products that were learnt from.")
    model: str = Field(description="The version of the model.", examples=["3f2a9c0d1b7e"])
    types: str = Field(description="The table of types that the codes are from.", examples=["9d1c5b7e2f4a"])
    request_id: str = Field(examples=["4f9b1c0c5a0d4b0d8f5b6f0a3a1d2c3e"])


_ANSWER = {
    "predicted": "2583",
    "label": "Piscine et accessoires",
    "confidence": 0.9731,
    "decision": "accept",
    "models": {"title": {"weight": 3.5, "share": 0.94}, "image": {"weight": -0.21, "share": 0.06}},
    "words": {"title": [{"word": "Piscine", "weight": 3.21}, {"word": "ronde", "weight": 0.4}]},
    "heat_map": [[0.02, 0.31, 0.05], [0.11, 1.42, 0.2], [0.0, 0.17, -0.03]],
    "neighbours": [
        {
            "key": "3804725264",
            "title": "piscine gonflable ronde 3 m",
            "code": "2583",
            "label": "Piscine et accessoires",
            "similarity": 0.81,
        }
    ],
    "model": "3f2a9c0d1b7e",
    "types": "9d1c5b7e2f4a",
    "request_id": "4f9b1c0c5a0d4b0d8f5b6f0a3a1d2c3e",
}
_PROBLEMS = (
    Problem.NOT_SIGNED_IN, Problem.TOO_MANY_REQUESTS, *UPLOAD_PROBLEMS, Problem.OVERLOADED, Problem.UNAVAILABLE,
)  # fmt: skip

router = APIRouter(tags=["predict"])


@router.post("/explain", openapi_extra=PRODUCT_BODY, responses=answered(_ANSWER) | documented(*_PROBLEMS))
async def explain(
    request: Request, parts: TheParts, who: Annotated[Identity, Depends(limited("explain"))]
) -> ExplanationBody:
    """Why the champion gives a product its type: words, parts of the image, models, similar products.

    It is no prediction of the record: nothing is kept of it.
    """
    with a_place(parts):
        explanation, types = await explained(await read_product(request), request, parts)
    return _body(explanation, types, request.state.request_id)


async def explained(upload: Upload, request: Request, parts: Parts) -> tuple[Explanation, ProductTypes]:
    """Why, and the types that it speaks of. For whoever has a place in the queue; raises Refusal."""
    try:
        explanation, types = await parts.explaining.explain(upload.product)
    except InputError as error:
        raise refusal_of(error) from None
    note(request, model_version=explanation.prediction.model_version)
    return explanation, types


def _body(explanation: Explanation, types: ProductTypes, request_id: str) -> ExplanationBody:
    prediction = explanation.prediction
    total = sum(map(abs, explanation.weights.values())) or 1.0
    return ExplanationBody(
        predicted=prediction.type.code,
        label=prediction.type.label,
        confidence=prediction.confidence,
        decision=prediction.decision.value,
        models={
            name: ModelShareBody(weight=weight, share=abs(weight) / total)
            for name, weight in explanation.weights.items()
        },
        words={
            name: [WordBody(word=one.text, weight=one.weight) for one in words]
            for name, words in explanation.words.items()
        },
        heat_map=None if explanation.heat_map is None else explanation.heat_map.tolist(),
        neighbours=[
            NeighbourBody(
                key=one.key,
                title=one.title,
                code=one.code,
                label=label_of(types, one.code).label,
                similarity=one.similarity,
            )
            for one in explanation.neighbours
        ],
        model=prediction.model_version,
        types=prediction.types_id,
        request_id=request_id,
    )
