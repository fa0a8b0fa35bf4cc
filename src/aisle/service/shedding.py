"""Overload is answered before anything else is done about a request, so that refusing costs next to nothing.

Whoever is refused is neither asked for a token nor counted, and a body is not read.
"""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from aisle.service.batching import BatchingQueue
from aisle.service.metrics import NOT_COMPUTED
from aisle.web.answers import problem_answer
from aisle.web.problems import Problem, Refusal

RETRY_AFTER = 1
PATHS = frozenset({"/predict", "/predict_code", "/explain"})


def overloaded() -> Refusal:
    return Refusal(Problem.OVERLOADED, headers={"Retry-After": str(RETRY_AFTER)}, seconds=RETRY_AFTER)


class SheddingMiddleware:
    """Refuses predictions and explanations while the queue is full."""

    def __init__(self, app: ASGIApp, *, queue: BatchingQueue) -> None:
        self.app = app
        self.queue = queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS or not self.queue.is_full:
            await self.app(scope, receive, send)
            return
        NOT_COMPUTED.labels("queue_full").inc()
        request = Request(scope)
        request.state.route = scope["path"]
        await problem_answer(request, overloaded())(scope, receive, send)
