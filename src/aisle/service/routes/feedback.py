"""`POST /feedback`: a person or a program says which type was right."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from aisle.auth.tokens import Identity
from aisle.model.bundle import label_of
from aisle.service.limits import limited
from aisle.service.parts import Parts, TheParts
from aisle.service.recorder import EVERY_SECONDS
from aisle.store import predictions, reviews
from aisle.store.engine import reading, writing
from aisle.store.predictions import Feedback, PredictionRecord
from aisle.store.users import Role
from aisle.web.answers import answered, documented
from aisle.web.problems import Problem, Refusal

PATH = "/feedback"
MAX_BODY_BYTES = 16 << 10
_CORRECTORS = (Role.REVIEWER, Role.ADMIN)
_PROBLEMS = (
    Problem.NOT_SIGNED_IN, Problem.NOT_YOUR_PREDICTION, Problem.NO_SUCH_PREDICTION, Problem.NO_SUCH_TYPE,
    Problem.FIELD_MISSING, Problem.FIELD_INVALID, Problem.FIELD_TOO_LONG, Problem.BODY_TOO_LARGE, Problem.BROKEN_JSON,
    Problem.TOO_MANY_REQUESTS, Problem.PREDICTION_ON_ITS_WAY, Problem.UNAVAILABLE,
)  # fmt: skip

_THANKS = {
    "prediction_id": "0c8d5e6f7a8b4c9d0e1f2a3b4c5d6e7f",
    "type": "2583",
    "label": "Piscine et accessoires",
    "predicted": "1302",
}


class FeedbackForm(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    prediction_id: str = Field(pattern="^[0-9a-f]{32}$", examples=["0c8d5e6f7a8b4c9d0e1f2a3b4c5d6e7f"])
    type: str = Field(min_length=1, max_length=50, description="The code of the right type.", examples=["2583"])


class FeedbackBody(BaseModel):
    prediction_id: str
    type: str
    label: str
    predicted: str = Field(description="What had been predicted.")


router = APIRouter(tags=["feedback"])


@router.post(PATH, status_code=201, responses=answered(_THANKS, status=201) | documented(*_PROBLEMS))
def feedback(
    form: FeedbackForm, parts: TheParts, who: Annotated[Identity, Depends(limited("feedback"))]
) -> FeedbackBody:
    """Attach the right type to an earlier prediction. Every word is kept, the last one counts.

    It is a type of the model that serves, or of the one that answered.
    """
    record, label = corrected(form.prediction_id, form.type, parts, who)
    return FeedbackBody(prediction_id=record.id, type=form.type, label=label, predicted=record.predicted)


def corrected(prediction_id: str, code: str, parts: Parts, who: Identity) -> tuple[PredictionRecord, str]:
    """Keep that a prediction's right type is `code`, and say what that is called. Raises Refusal."""
    types, of_challenger = parts.champion.predictor.bundle.types(), parts.experiments.types
    is_known = code in types or code in parts.champion.predictor.classifier.codes
    record = _find(parts, prediction_id)
    others = of_challenger
    if not is_known and code not in others:
        others = {} if record is None else parts.store.types_of(record.model_version)
        if code not in others:
            raise Refusal(Problem.NO_SUCH_TYPE, type=f"{code!r}")
    if record is None:
        raise Refusal(Problem.NO_SUCH_PREDICTION, prediction_id=prediction_id)
    if record.user_name != who.user and who.role not in _CORRECTORS:
        raise Refusal(Problem.NOT_YOUR_PREDICTION)
    with writing(parts.engine) as connection:
        predictions.add_feedback(connection, Feedback(record.id, parts.clock(), who.user, code))
        reviews.looked_at(connection, record.id)
    return record, (others[code] if not is_known else label_of(types, code)).label


def _find(parts: Parts, prediction_id: str) -> PredictionRecord | None:
    """The record, which may still be on its way to the database: from here, or from another worker.

    Raises Refusal where it is and does not arrive, which is not where there is none.
    """
    found = _read(parts, prediction_id)
    if found is None and parts.recorder.flush():
        found = _read(parts, prediction_id)
    if found is None:
        time.sleep(2 * EVERY_SECONDS)
        found = _read(parts, prediction_id)
    if found is None and parts.recorder.is_on_its_way(prediction_id):
        raise Refusal(Problem.PREDICTION_ON_ITS_WAY, headers={"Retry-After": "1"})
    return found


def _read(parts: Parts, prediction_id: str) -> PredictionRecord | None:
    with reading(parts.engine) as connection:
        return predictions.find(connection, prediction_id)
