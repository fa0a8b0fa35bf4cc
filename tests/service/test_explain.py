"""`POST /explain`, with a real bundle behind it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.service.conftest import Service, Starter
from tests.service.test_predict import picture

from aisle.catalog import Product
from aisle.model.predictor import Predictor
from aisle.service.batching import TooLate
from aisle.service.explaining import Explaining


def test_a_product_is_explained_as_it_is_predicted(service: Service, photo: bytes) -> None:
    fields = {"designation": "Livre ancien", "description": "relié en cuir"}
    files = {"image": ("photo.jpg", photo, "image/jpeg")}
    predicted = service.post("/predict", data=fields, files=files).json()
    answer = service.post("/explain", data=fields, files=files)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert {name: found[name] for name in ("predicted", "label", "confidence", "decision", "model", "types")} == {
        name: predicted[name] for name in ("predicted", "label", "confidence", "decision", "model", "types")
    }
    assert [one["word"] for one in found["words"]["title"]] == ["Livre", "ancien"]
    assert sum(one["share"] for one in found["models"].values()) == pytest.approx(1)
    assert len(found["heat_map"]) == len(found["heat_map"][0]) >= 3
    assert all(one["label"] for one in found["neighbours"])
    assert found["request_id"] == answer.headers["x-request-id"]


def test_without_an_image_there_is_no_heat_map(service: Service) -> None:
    assert service.post("/explain", json={"designation": "livre"}).json()["heat_map"] is None


@pytest.mark.parametrize(
    ("image", "status", "problem"),
    [(picture("GIF"), 415, "image-unknown-format"), (picture("JPEG", (300, 300))[:-300], 422, "image-damaged")],
    ids=["gif", "cut"],
)
def test_an_image_that_cannot_be_looked_at_is_refused(
    service: Service, image: bytes, status: int, problem: str
) -> None:
    answer = service.post("/explain", data={"designation": "a"}, files={"image": ("a.png", image)})
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:aisle:problem:{problem}")


def test_nothing_to_explain_is_refused(service: Service) -> None:
    assert service.post("/explain", json={}).json()["type"] == "urn:aisle:problem:nothing-to-classify"


def test_explanations_have_a_limit_of_their_own(start_service: Starter) -> None:
    service = start_service(rate_limits="explain=1/minute")
    assert service.post("/explain", json={"designation": "a"}).status_code == 200
    assert service.post("/explain", json={"designation": "a"}).status_code == 429
    assert service.post("/predict", json={"designation": "a"}).status_code == 200


def test_while_the_queue_is_full_explanations_are_refused(start_service: Starter) -> None:
    service = start_service(queue_size=1)
    with service.client.app.state.parts.queue.place():  # type: ignore[attr-defined]
        assert service.post("/explain", json={"designation": "a"}).status_code == 503
    assert service.post("/explain", json={"designation": "a"}).status_code == 200


class Slow:
    """A champion that explains when the test lets it."""

    def __init__(self) -> None:
        self.may_go = threading.Event()

    def lend(self) -> Slow:
        return self

    def __enter__(self) -> Predictor:
        self.may_go.wait()
        raise LookupError

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.anyio
async def test_whoever_waits_too_long_for_a_turn_is_told_and_the_turn_is_given_on() -> None:
    slow = Slow()
    explaining = Explaining(slow, seconds=0.05)  # type: ignore[arg-type]
    first = asyncio.create_task(explaining.explain(Product("a")))
    while not first.done() and not explaining.is_busy:
        await asyncio.sleep(0)
    with pytest.raises(TooLate):
        await explaining.explain(Product("b"))
    slow.may_go.set()
    with pytest.raises(LookupError):
        await first
    assert not explaining.is_busy
    explaining.stop()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
