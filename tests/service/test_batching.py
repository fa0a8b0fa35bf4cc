"""The queue before the model: bounded, in batches, in time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from aisle.catalog import Product
from aisle.errors import InputError
from aisle.service.batching import BatchingQueue, QueueFull, TooLate

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Model:
    """Stands where a champion stands, and computes when the test lets it: the promise is about order and time."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_go = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)

    @contextlib.contextmanager
    def lend(self) -> Iterator[Model]:
        yield self

    def predict(self, products: Sequence[Product]) -> list[Any]:
        self.batches.append([product.title for product in products])
        self.has_begun.release()
        self.may_go.acquire()
        if any(product.title == "poison" for product in products):
            raise RuntimeError("broken")
        return [InputError(product.title) for product in products]  # an outcome that names its product


async def computing(model: Model) -> None:
    await asyncio.get_running_loop().run_in_executor(None, model.has_begun.acquire)


def queue_of(
    model: Model, *, size: int = 10, batch: int = 10, seconds: float = 60, threads: int = 1
) -> BatchingQueue:
    return BatchingQueue(model, size=size, batch=batch, seconds=seconds, threads=threads)  # type: ignore[arg-type]


async def asked(queue: BatchingQueue, *titles: str) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(queue.predict(Product(title))) for title in titles]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize(
    ("batch", "threads", "batches"),
    [
        (10, 1, ["a", "bcde", "fg", "hi", "j", "k"]),  # a third of what waits
        (3, 1, ["a", "bcd", "efg", "hi", "j", "k"]),  # and no more than may be
        (10, 4, ["a", "bcde", "fghi", "jk"]),  # one for each thread
    ],
)
async def test_nobody_waits_for_a_batch_to_fill_and_a_third_of_what_waits_goes_together(
    batch: int, threads: int, batches: list[str]
) -> None:
    model = Model()
    queue = queue_of(model, batch=batch, threads=threads)
    queue.start()
    first = await asked(queue, "a")
    await computing(model)
    rest = await asked(queue, *"bcdefghijk")
    for _ in batches:
        model.may_go.release()
    answers = await asyncio.gather(*first, *rest)
    assert "".join(str(answer) for answer in answers) == "abcdefghijk"
    assert ["".join(one) for one in model.batches] == batches
    await queue.stop()


def test_more_than_may_be_inside_are_refused_at_once() -> None:
    queue = queue_of(Model(), size=2)
    with queue.place():
        with queue.place():
            assert queue.is_full
            with pytest.raises(QueueFull), queue.place():
                pass
        with queue.place():
            pass


async def test_who_waited_too_long_is_not_computed() -> None:
    model = Model()
    queue = queue_of(model, seconds=0)
    queue.start()
    [task] = await asked(queue, "a")
    with pytest.raises(TooLate):
        await task
    assert model.batches == []
    await queue.stop()


async def test_who_has_gone_is_not_computed() -> None:
    model = Model()
    queue = queue_of(model)
    queue.start()
    [first] = await asked(queue, "a")
    await computing(model)
    [gone, stays] = await asked(queue, "b", "c")
    gone.cancel()
    for _ in range(2):
        model.may_go.release()
    await asyncio.gather(first, stays)
    assert model.batches == [["a"], ["c"]]
    await queue.stop()


async def test_a_product_that_breaks_the_model_does_not_break_its_neighbours() -> None:
    model = Model()
    queue = queue_of(model)
    queue.start()
    [first] = await asked(queue, "a")
    await computing(model)
    tasks = await asked(queue, "b", "poison", "c")
    for _ in range(5):
        model.may_go.release()
    answers = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["a", "b", "broken", "c"]
    assert isinstance(answers[2], RuntimeError)
    await queue.stop()


async def test_the_queue_goes_on_after_a_failure_and_ends_when_told() -> None:
    model = Model()
    queue = queue_of(model)
    queue.start()
    model.may_go.release()
    with pytest.raises(RuntimeError):
        await queue.predict(Product("poison"))
    model.may_go.release()
    assert str(await queue.predict(Product("a"))) == "a"
    await queue.stop()


async def test_it_is_idle_while_nothing_waits_or_is_computed() -> None:
    model = Model()
    queue = queue_of(model)
    queue.start()
    assert queue.idle.is_set()
    tasks = await asked(queue, "a")
    await computing(model)
    tasks += await asked(queue, "b")
    assert not queue.idle.is_set()
    model.may_go.release()
    await tasks[0]
    assert not queue.idle.is_set()
    model.may_go.release()
    await tasks[1]
    await asyncio.wait_for(queue.idle.wait(), 10)
    await queue.stop()
