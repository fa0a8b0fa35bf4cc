"""A client of the prediction service for Python programs.

    with Client("http://127.0.0.1:8000", api_key=key) as aisle:
        answer = aisle.predict("Piscine gonflable ronde 3 m", image=Path("photo.jpg"))
        aisle.feedback(answer.prediction_id, "2583")

It signs in when it has to, and asks again, with growing pauses, where the service is busy, slows it down or cannot be
reached. What the service refuses for a reason of its own is not asked again. Several threads may share a client.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

import httpx

from aisle.files import atomic_path

SECONDS = 15.0
"""How long one request may take."""
UPLOAD_SECONDS = 900.0
"""How long sending a table may take."""
TRIES = 6
LONGEST_PAUSE = 60.0
_BUSY = (429, 503)
_EARLY = 30.0  # seconds before a token's end in which it is renewed


class ClientError(Exception):
    """What goes wrong when asking the service."""


class ApiError(ClientError):
    """The service refused: `status`, `problem` (its name for programs), `detail` (a sentence), `request_id`."""

    def __init__(self, status: int, problem: str, detail: str, request_id: str) -> None:
        self.status = status
        self.problem = problem
        self.detail = detail
        self.request_id = request_id
        super().__init__(f"{status} {problem}: {detail}")


class Unavailable(ClientError):
    """The service was busy or could not be reached, each time it was asked."""


@dataclass(frozen=True)
class Candidate:
    prediction: str
    label: str
    confidence: float


@dataclass(frozen=True)
class Answer:
    """The type of a product: the best of `predictions`, and `accept` or `review`. `types` is the table it is from."""

    predicted: str
    label: str
    confidence: float
    decision: Literal["accept", "review"]
    predictions: tuple[Candidate, ...]
    message: str
    model: str
    types: str
    prediction_id: str
    request_id: str


@dataclass(frozen=True)
class Batch:
    """A table that is being predicted. `rows` and `seconds_left` are None while nobody knows; `problem` says why it
    failed, or what it waits for."""

    id: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    name: str
    rows: int | None
    done: int
    accepted: int
    errors: int
    seconds_left: int | None
    model: str | None
    problem: str | None

    @property
    def is_over(self) -> bool:
        return self.state not in ("waiting", "running")


class Client:
    """Signs in with a name and a password, or with a service's API key.

    `transport`, `sleep` and `clock` (seconds) are for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str = "",
        password: str = "",
        api_key: str = "",
        language: Literal["fr", "en"] = "fr",
        tries: int = TRIES,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if bool(api_key) == bool(username and password):
            raise ValueError("give either an api_key, or a username and a password")
        if api_key:
            self._form = {"grant_type": "client_credentials", "client_secret": api_key}
        else:
            self._form = {"username": username, "password": password}
        headers = {"Accept-Language": language}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=SECONDS, transport=transport)
        self._tries = tries
        self._sleep = sleep
        self._clock = clock
        self._token = ""
        self._good_until = 0.0
        self._signing_in = threading.Lock()

    def predict(
        self, designation: str = "", description: str = "", image: bytes | Path | None = None, **ids: str
    ) -> Answer:
        """The type of one product; `ids` are `product_identifier`, `product_id` and `imageid`.

        Raises ApiError when it is refused, Unavailable after the last try, OSError for an image that is not there.
        """
        found = self._ask("POST", "/predict", **_product(designation, description, image, ids))
        try:
            candidates = tuple(Candidate(**one) for one in found.pop("predictions"))
            return Answer(predictions=candidates, **{name: found[name] for name in _PLAIN})
        except (KeyError, TypeError) as error:
            raise ClientError(f"the answer is none of this service: {error!r}") from None

    def explain(
        self, designation: str = "", description: str = "", image: bytes | Path | None = None
    ) -> dict[str, Any]:
        """Why one product gets its type, as the answer of POST /explain has it. Raises as `predict`."""
        return self._ask("POST", "/explain", **_product(designation, description, image))

    def feedback(self, prediction_id: str, type: str) -> None:
        """Say which type was right. Told twice, where an answer is lost on its way, it is the same word."""
        self._ask("POST", "/feedback", json={"prediction_id": prediction_id, "type": type})

    def send_batch(self, table: Path, images: Path | None = None, *, idempotency_key: str = "") -> Batch:
        """Have a whole table predicted, CSV or parquet, perhaps with a zip of images.

        Sent again by itself, or by you with the same `idempotency_key`, it is the same batch. Raises as `predict`.
        """
        files = {"table": (table.name, table.read_bytes())}
        if images is not None:
            files["images"] = (images.name, images.read_bytes())
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return _batch(self._ask("POST", "/batches", files=files, headers=headers, timeout=UPLOAD_SECONDS))

    def batch(self, batch_id: str) -> Batch:
        """How far a batch is. Raises ApiError where you have no such batch."""
        return _batch(self._ask("GET", f"/batches/{batch_id}"))

    def wait_for_batch(self, batch_id: str, *, pause: float = 1.0) -> Batch:
        """The batch, once it is over: look at its `state`."""
        while not (found := self.batch(batch_id)).is_over:
            self._sleep(pause)
        return found

    def save_results(self, batch_id: str, path: Path) -> None:
        """Write the result of a batch that is done: CSV, NDJSON or parquet, by the ending of `path`.

        The file is there whole or not at all. Raises ApiError where the batch is not done, ValueError for another
        ending.
        """
        if path.suffix not in (".csv", ".ndjson", ".parquet"):
            raise ValueError("the result is .csv, .ndjson or .parquet")
        answer = self._signed("GET", f"/batches/{batch_id}/results", params={"format": path.suffix[1:]})
        if answer.is_error:
            raise _refused(answer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(answer.content)

    def cancel_batch(self, batch_id: str) -> Batch:
        """Stop a batch; what is done of it can still be had."""
        return _batch(self._ask("POST", f"/batches/{batch_id}/cancel"))

    def delete_batch(self, batch_id: str) -> None:
        """Stop a batch, and remove its table and its result."""
        answer = self._signed("DELETE", f"/batches/{batch_id}")
        if answer.is_error:
            raise _refused(answer)

    def model(self) -> dict[str, Any]:
        """Version, lineage, metrics and model card of the model that serves."""
        return self._ask("GET", "/model")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        return _content(self._signed(method, path, **content))

    def _signed(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **content: Any
    ) -> httpx.Response:
        used, more = self._bearer(), dict(headers or {})
        answer = self._tried(method, path, headers={**more, "Authorization": f"Bearer {used}"}, **content)
        if answer.status_code == 401:  # the keys were changed, or the clocks differ: once more with a new token
            fresh = self._bearer(instead_of=used)
            answer = self._tried(method, path, headers={**more, "Authorization": f"Bearer {fresh}"}, **content)
        return answer

    def _bearer(self, *, instead_of: str = "") -> str:
        """A token that is good for a while; another one than `instead_of`."""
        with self._signing_in:
            if not self._token or self._token == instead_of or self._clock() > self._good_until:
                found = _content(self._tried("POST", "/token", data=self._form))
                try:
                    self._token, seconds = str(found["access_token"]), float(found["expires_in"])
                except (KeyError, TypeError, ValueError):
                    raise ClientError("the answer of /token is no token") from None
                self._good_until = self._clock() + max(seconds - _EARLY, seconds / 2)
            return self._token

    def _tried(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer, once it is none of those that time may change. Raises Unavailable after the last try."""
        reason, pause = "", 0.0
        for attempt in range(self._tries):
            if attempt:
                self._sleep(pause)
            try:
                answer = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                reason, pause = type(error).__name__, _backoff(attempt)
                continue
            if answer.status_code not in _BUSY:
                return answer
            reason = str(_refused(answer))
            pause = max(_seconds(answer.headers.get("retry-after", "")), _backoff(attempt))
            if pause > LONGEST_PAUSE:
                break
        raise Unavailable(f"{method} {path}: {reason}") from None


_PLAIN = (
    "predicted", "label", "confidence", "decision", "message", "model", "types", "prediction_id",
    "request_id",
)  # fmt: skip


def _product(
    designation: str, description: str, image: bytes | Path | None, ids: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The form of one product. Raises OSError for an image that is not there."""
    content = image.read_bytes() if isinstance(image, Path) else image
    files = {"image": ("image", content)} if content is not None else None
    return {"data": {"designation": designation, "description": description, **(ids or {})}, "files": files}


def _batch(found: Mapping[str, Any]) -> Batch:
    try:
        return Batch(**{field.name: found[field.name] for field in fields(Batch)})
    except KeyError as error:
        raise ClientError(f"the answer is none of this service: {error!r}") from None


def _backoff(attempt: int) -> float:
    """Between a quarter and half of a second, then twice as long each time: not all clients come back at once."""
    return float(0.25 * 2**attempt * (1 + random.random()))  # noqa: S311


def _seconds(header: str) -> float:
    return float(header) if header.isdecimal() and len(header) < 10 else 0.0


def _content(answer: httpx.Response) -> dict[str, Any]:
    """The object in an answer. Raises ApiError for a refusal."""
    if answer.is_error:
        raise _refused(answer)
    found = _object(answer)
    if found is None:
        raise ClientError(f"{answer.status_code}: the answer is no JSON object")
    return found


def _refused(answer: httpx.Response) -> ApiError:
    problem: Mapping[str, Any] = _object(answer) or {}
    return ApiError(
        answer.status_code,
        str(problem.get("type", "about:blank")).rpartition(":")[2],
        str(problem.get("detail", answer.reason_phrase)),
        str(problem.get("request_id", "")),
    )


def _object(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
