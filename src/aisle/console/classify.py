"""One product at a time: what it is, how sure the model is, and why.

Sending the form is a prediction like any other. While somebody types, a script asks for a preview, which leaves no
record: a title that is half written is not a product.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup
from starlette.datastructures import FormData

from aisle.console.asking import AForm, TheDesk, TheVisitor, page, part, speech_of, text_of, wants_part
from aisle.console.desk import Desk
from aisle.console.explaining import why_of
from aisle.console.refusing import in_words
from aisle.console.sessions import Visitor
from aisle.web.answers import too_many_requests
from aisle.web.limits import Throttled
from aisle.web.problems import Problem, Refusal

TEMPLATE = "classify.html"

router = APIRouter(prefix="/classify")


@router.get("")
async def ask(request: Request, _: TheVisitor, desk: TheDesk) -> Response:
    return page(request, TEMPLATE, **_shown(desk))


@router.post("")
async def classify(request: Request, who: TheVisitor, form: AForm, desk: TheDesk) -> Response:
    """On the record. A script gets the answer alone, and asks for the reasons next.

    What is wrong with the form is said above it, where what was typed still stands."""
    try:
        return await _answered(request, who, form, desk)
    except (Refusal, Throttled) as error:
        if wants_part(request):
            raise
        refusal = too_many_requests(error) if isinstance(error, Throttled) else error
    shown = _shown(desk, form) | {"wrong": _in_words(request, refusal)}
    return page(request, TEMPLATE, status=refusal.problem.status, headers=refusal.headers, **shown)


async def _answered(request: Request, who: Visitor, form: FormData, desk: Desk) -> Response:
    async with desk.product(request) as product:
        prediction, prediction_id = await desk.classify(product, request, who.identity)
        answer: dict[str, Any] = {"prediction": prediction, "prediction_id": prediction_id}
        if wants_part(request):
            return part(request, "parts/answer.html", **answer)
        why = None
        try:
            explanation, types = await desk.explain(product, request, who.identity)
        except Throttled:
            pass  # the answer is there; the reasons may be asked for later
        else:
            why = why_of(explanation, types, await desk.picture(product))
    return page(request, TEMPLATE, **_shown(desk, form) | answer | {"why": why})


@router.post("/preview")
async def preview(request: Request, who: TheVisitor, _: AForm, desk: TheDesk) -> Response:
    async with desk.product(request) as product:
        prediction = await desk.preview(product, request, who.identity)
    return part(request, "parts/answer.html", prediction=prediction, prediction_id="")


@router.post("/why")
async def why(request: Request, who: TheVisitor, _: AForm, desk: TheDesk) -> Response:
    async with desk.product(request) as product:
        explanation, types = await desk.explain(product, request, who.identity)
        picture = await desk.picture(product)
    return part(request, "parts/why.html", why=why_of(explanation, types, picture))


@router.post("/correct")
async def correct(request: Request, who: TheVisitor, form: AForm, desk: TheDesk) -> Response:
    """The right type of what was just classified: one's own prediction, which anybody may correct."""
    code = text_of(form, "type")
    label = await desk.correct(text_of(form, "prediction_id"), code, request, who.identity)
    template = "parts/corrected.html"
    if wants_part(request):
        return part(request, template, code=code, label=label)
    return page(request, TEMPLATE, **_shown(desk) | {"corrected": (code, label)})


def _in_words(request: Request, refusal: Refusal) -> str | Markup:
    """And of a text that is too long, how much of it is there still."""
    speech, said = speech_of(request), in_words(speech_of(request), refusal)
    if refusal.problem is Problem.FIELD_TOO_LONG:
        kept = speech("classify.kept", limit=speech.number(int(str(refusal.details["limit"]))))
        return Markup("{} {}").format(said, kept)
    return said


def _typed(form: FormData | None, name: str, desk: Desk) -> str:
    """As much of a text as the form would take; a file in its place is none."""
    value = "" if form is None else form.get(name, "")
    return value[: desk.longest[name]] if isinstance(value, str) else ""


def _shown(desk: Desk, form: FormData | None = None) -> dict[str, Any]:
    """What the page has before there is an answer."""
    return {
        "place": "classify",
        "wrong": "",
        "designation": _typed(form, "designation", desk),
        "description": _typed(form, "description", desk),
        "prediction": None,
        "prediction_id": "",
        "why": None,
        "corrected": None,
    }
