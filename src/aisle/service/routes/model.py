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
from aisle.web.answers import answered, documented
from aisle.web.problems import Problem


class TypeBody(BaseModel):
    code: str
    label: str


class RefusedBody(BaseModel):
    """A new champion that did not take over."""

    version: str
    reason: str
    at: datetime


class ExperimentBody(BaseModel):
    """The experiment that this process takes part in."""

    id: int
    kind: str = Field(description="`shadow`: the challenger answers nobody; `canary`, `ab`: it has its share.")
    champion: str
    challenger: str
    share: float = Field(description="Of the products, or users, that are the challenger's.")
    since: datetime


class ModelBody(BaseModel):
    version: str
    since: datetime = Field(description="Since when this process serves it.")
    recipe: str
    types: list[TypeBody]
    types_id: str = Field(description="Tells this table of types from others: `types` of POST /predict.")
    type_changes: dict[str, str | None] = Field(
        description="What became of types of earlier tables, as far as they changed; null: it fell away."
    )
    lineage: dict[str, Any]
    metrics: dict[str, Any]
    card: str = Field(description="The model card, in Markdown.")
    refused: RefusedBody | None = Field(description="The last new champion, where it was refused.")
    experiment: ExperimentBody | None = Field(description="A challenger beside it, where there is one.")


_EXAMPLE = {
    "version": "3f2a9c0d1b7e",
    "since": "2026-11-24T09:30:00Z",
    "recipe": "light",
    "types": [{"code": "2583", "label": "Piscine et accessoires"}, {"code": "2905", "label": "Jeux vidéo PC"}],
    "types_id": "9d1c5b7e2f4a",
    "type_changes": {"2584": "2583", "9999": None},
    "lineage": {"data_hash": "9a3f…", "code_revision": "4f9b1c0…", "seed": 0},
    "metrics": {"accuracy": 0.83, "weighted_f1": 0.83},
    "card": "# light 3f2a9c0d1b7e\n\nPuts a product into one of 27 types…",
    "experiment": {
        "id": 3,
        "kind": "canary",
        "champion": "3f2a9c0d1b7e",
        "challenger": "c0d1b7e3f2a9",
        "share": 0.1,
        "since": "2026-11-24T11:00:00Z",
    },
    "refused": {
        "version": "b7e3f2a9c0d1",
        "reason": "models/b7e3f2a9c0d1: title.json was altered: its sum differs. Restore it or train again.",
        "at": "2026-11-24T12:00:00Z",
    },
}
_ANSWERS = answered(_EXAMPLE) | documented(Problem.NOT_SIGNED_IN, Problem.TOO_MANY_REQUESTS, Problem.UNAVAILABLE)

router = APIRouter(tags=["model"])


@router.get("/model", responses=_ANSWERS)
def model(parts: TheParts, _: Annotated[Identity, Depends(limited("model"))]) -> ModelBody:
    """Version, lineage, metrics, model card, and whether a new champion was refused."""
    with parts.champion.lend() as predictor:
        bundle, codes, recipe = predictor.bundle, predictor.classifier.codes, predictor.recipe
    refused, experiment = parts.champion.refused, parts.experiments.experiment
    types = bundle.types()
    return ModelBody(
        version=bundle.version,
        since=parts.champion.since,
        recipe=recipe,
        types=[TypeBody(code=code, label=label_of(types, code).label) for code in codes],
        types_id=types.id,
        type_changes=dict(bundle.changes()),
        lineage=bundle.json(LINEAGE_FILE),
        metrics=bundle.json(METRICS_FILE),
        card=bundle.text(CARD_FILE),
        experiment=None
        if experiment is None
        else ExperimentBody(
            id=experiment.id,
            kind=experiment.kind,
            champion=experiment.champion,
            challenger=experiment.challenger,
            share=experiment.share,
            since=experiment.started_at,
        ),
        refused=RefusedBody(version=refused.path.name, reason=refused.reason, at=refused.at) if refused else None,
    )
