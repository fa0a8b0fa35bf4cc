"""`GET /model`: which model serves, where it comes from and what it is worth."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from aisle.auth.tokens import Identity
from aisle.model.bundle import CARD_FILE, LINEAGE_FILE, METRICS_FILE, label_of
from aisle.service.limits import limited
from aisle.service.parts import TheParts
from aisle.web.answers import documented
from aisle.web.problems import Problem


class TypeBody(BaseModel):
    code: str
    label: str


class RefusedBody(BaseModel):
    """A new champion that did not take over."""

    version: str
    reason: str
    at: datetime


class ModelBody(BaseModel):
    version: str
    since: datetime = Field(description="Since when this process serves it.")
    recipe: str
    types: list[TypeBody]
    lineage: dict[str, Any]
    metrics: dict[str, Any]
    card: str = Field(description="The model card, in Markdown.")
    refused: RefusedBody | None = Field(description="The last new champion, where it was refused.")


router = APIRouter(tags=["model"])


@router.get("/model", responses=documented(Problem.NOT_SIGNED_IN, Problem.TOO_MANY_REQUESTS, Problem.UNAVAILABLE))
def model(parts: TheParts, _: Annotated[Identity, Depends(limited("model"))]) -> ModelBody:
    """Version, lineage, metrics, model card, and whether a new champion was refused."""
    with parts.champion.lend() as predictor:
        bundle, codes, recipe = predictor.bundle, predictor.classifier.codes, predictor.recipe
    refused = parts.champion.refused
    types = bundle.types()
    return ModelBody(
        version=bundle.version,
        since=parts.champion.since,
        recipe=recipe,
        types=[TypeBody(code=code, label=label_of(types, code).label) for code in codes],
        lineage=bundle.json(LINEAGE_FILE),
        metrics=bundle.json(METRICS_FILE),
        card=bundle.text(CARD_FILE),
        refused=RefusedBody(version=refused.path.name, reason=refused.reason, at=refused.at) if refused else None,
    )
