"""Bulk work on a Ray cluster: each worker does whole pieces, and writes their parts itself.

`on_a_cluster` is the engine of bulk prediction; `each` does any job piece by piece. Pieces go out and what a job says
of them comes back; tables, images and results never pass through the first machine, so every node has to reach
them: in S3, or in a folder that all of them share. The model travels from here.

A worker that is lost takes its pieces with it, and they are done again. What a piece raises is raised here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import platform
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aisle.batch.local import Engine
from aisle.batch.parts import PLAN, Parts
from aisle.batch.pieces import Piece, SourceFile
from aisle.batch.places import Place
from aisle.batch.predicting import Task, TaskPredictor
from aisle.errors import AisleError, InputError, ServiceMissing, UsageError
from aisle.logs import get_logger
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.settings import provide

CONNECT_SECONDS = 5
MAX_BLOCKS = 1000  # what Ray schedules at once takes it 10 ms each; more pieces share one
WAITING = 2  # blocks that are sent to a worker: one that it does, and the next
BLOCK_BYTES = 1 << 20  # Ray reserves so much for what a worker gives back; it starts fewer if that is large
STORE_BYTES = 128 << 20  # beside the job itself
LONGEST_FOLDER = 40  # of the 107 bytes that the path of a socket may have, Ray takes the others
LOSSES = 3  # rounds in a row in which workers may die without a piece done
SHARED = "Every node reads and writes the same files: in S3, or in a folder that all of them share."

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Job(Protocol[Item_contra, Result_co]):
    """Plain data, which is sent to each worker once."""

    def start(self) -> Callable[[Item_contra], Result_co]:
        """What does an item there; it may be done twice. Raises what is told to whoever started all this."""
        ...


def cluster_engine(address: str, cores: int) -> Engine:
    """On the cluster at `address`, or on one of so many `cores` of this machine, which ends with the work."""
    return partial(on_a_cluster, address=address, cores=cores)


def on_a_cluster(task: Task, pieces: Sequence[Piece], parts: Parts, *, address: str, cores: int) -> Iterator[Piece]:
    """Raises what a piece raises; UsageError without Ray; ServiceMissing where there is no cluster; AisleError where
    workers die again and again."""
    job = PredictPieces(
        replace(
            task,
            source=replace(task.source, files=tuple(_everywhere(file) for file in task.source.files), pieces=()),
            images=None if task.images is None else _absolute(task.images),
        ),
        replace(parts, output=_absolute(parts.output), folder=_absolute(parts.folder)),
        Bundle.load(task.bundle),
        (parts.folder / PLAN).read_bytes(),
    )
    return each(job, pieces, address=address, cores=cores)


@dataclass(frozen=True, slots=True)
class PredictPieces:
    """`plan` is what the folder of the parts holds, by which a node knows that it sees the same one."""

    task: Task
    parts: Parts
    bundle: Bundle
    plan: bytes

    def start(self) -> Callable[[Piece], Piece]:
        images = [self.task.images] if self.task.images is not None else []
        for place in (*(file.place for file in self.task.source.files), *images):
            check_is_here(place)
        marker = self.parts.folder / PLAN
        if not marker.is_s3:
            check_is_here(marker, called=self.parts.output)
        if marker.read_bytes() != self.plan:
            raise InputError(f"is another folder on the node {platform.node()}", where=self.parts.output, hint=SHARED)
        predictor = TaskPredictor(self.task, threads=1, predictor=Predictor(self.bundle, threads=1))
        return partial(predictor.write, parts=self.parts)


def check_is_here(place: Place, *, called: object = None) -> None:
    """Raises InputError for a path that this node does not have; of S3 there is only one."""
    if not place.is_s3 and not place.path.exists():
        raise InputError(f"is not on the node {platform.node()}", where=called or place, hint=SHARED)


def each(job: Job[ItemT, ResultT], items: Sequence[ItemT], *, address: str, cores: int) -> Iterator[ResultT]:
    """What `job` says of each item, in any order. Raises as `on_a_cluster` does."""
    if not items:
        return
    packed = pickle.dumps(job)
    with _connected(address, cores, len(packed)) as ray:
        shared, todo, losses = ray.put(packed), dict(enumerate(items)), 0
        while todo:
            before = len(todo)
            for at, result in _round(shared, todo):
                if todo.pop(at, None) is not None:
                    yield result
            if todo:
                losses = losses + 1 if len(todo) == before else 0
                if losses == LOSSES:
                    raise AisleError(
                        "the workers of the Ray cluster die again and again",
                        where=address or "ray",
                        hint="Has a node memory enough for a worker per processor? --resume goes on from here.",
                    )
                get_logger(__name__).warning("workers were lost, their work is done again", pieces=len(todo))


def _round(shared: Any, todo: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
    """One pass over what is to do; what is lost with its worker is just missing.

    Ray itself would retry for ever, and wait for a node that never comes back although the others are idle.
    """
    import ray  # noqa: PLC0415
    from ray.data import ActorPoolStrategy, DataContext, from_items  # noqa: PLC0415

    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = [{"at": at, "item": pickle.dumps(item)} for at, item in todo.items()]
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers = max(1, min(int(resources.get("CPU", 1)), len(rows)))
    worker: Any = _Worker  # a class stands for what its instances do
    pool = ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=WAITING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray has no other name for `max_task_retries` yet
        done = from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
            worker, fn_constructor_args=(shared,), compute=pool, num_cpus=1, max_restarts=-1, max_task_retries=0
        )
    try:
        for row in done.iter_rows():
            result = pickle.loads(row["result"])  # noqa: S301  from our own workers
            if isinstance(result, _Failed):
                raise result.error
            yield row["at"], result
    except ray.exceptions.RayError as error:
        raise AisleError(
            f"the Ray cluster gave up: {type(error).__name__}: {[*str(error).strip().splitlines(), ''][-1]}",
            hint="Has every node the same aisle, Python and Ray? `aisle --debug …` shows more.",
        ) from error


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


class _Worker:
    """One process of the cluster. It starts the job with its first item, as Ray hides why a start fails."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared
        self._do: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"at": row["at"], "result": self._result(row["item"])}

    def _result(self, item: bytes) -> bytes:
        try:
            return pickle.dumps(self._done(pickle.loads(item)))  # noqa: S301
        except Exception as error:  # noqa: BLE001  whatever it is, the first machine tells it
            return _packed(error)

    def _done(self, item: Any) -> Any:
        if self._do is None:
            import ray  # noqa: PLC0415

            job: Job[Any, Any] = pickle.loads(ray.get(self._shared))  # noqa: S301
            self._do = job.start()
        return self._do(item)


def _packed(error: Exception) -> bytes:
    try:
        packed = pickle.dumps(_Failed(error))
        pickle.loads(packed)  # noqa: S301  some errors can be packed and not be unpacked
    except Exception:  # noqa: BLE001
        return pickle.dumps(_Failed(AisleError(f"{type(error).__name__}: {error}")))
    return packed


@contextlib.contextmanager
def _connected(address: str, cores: int, job_bytes: int) -> Iterator[Any]:
    """Ray, connected for as long as this takes; it keeps quiet, as the terminal is ours."""
    provide(ray_usage_stats_enabled=0, ray_backend_log_level="fatal", ray_accel_env_var_override_on_zero=0)
    try:
        import ray  # noqa: PLC0415
        import ray.data  # noqa: PLC0415
    except ImportError:
        raise UsageError("Ray is not installed", where="--engine ray", hint="`pip install 'aisle[ray]'`.") from None
    if ray.is_initialized():  # by whoever calls us, and whose it stays
        yield ray
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        if address:
            _check_answers(address)
            where: dict[str, Any] = {"address": address}
        else:
            folder = tempfile.mkdtemp(prefix="aisle-ray-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            where = {
                "address": "local",
                "num_cpus": cores,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES + 2 * job_bytes,
                "_temp_dir": folder if len(folder) <= LONGEST_FOLDER else None,
            }
        stack.callback(ray.shutdown)
        get_logger(__name__).info("connecting to Ray", cluster=address or f"{cores} cores of this machine")
        with _native_output_dropped():
            try:
                ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                reason = [*str(error).strip().splitlines(), ""][0]
                raise ServiceMissing(
                    f"cannot be used: {reason}", where=f"Ray at {address or 'local'}", hint=_NODE
                ) from None
        yield ray


_NODE = "RAY_ADDRESS is HOST:6379 of a cluster that this machine is a node of; empty: one on this machine is started."


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes. Raises ServiceMissing, and UsageError for Ray's client, which has no Ray Data."""
    if "://" in address:
        raise UsageError("is no address of a cluster", where=f"RAY_ADDRESS={address}", hint=_NODE)
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise UsageError("is no HOST:PORT", where=f"RAY_ADDRESS={address}", hint=_NODE)
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServiceMissing(f"does not answer: {reason}", where=f"Ray at {address}", hint=_NODE) from None


@contextlib.contextmanager
def _native_output_dropped() -> Iterator[None]:
    """What Ray's C++ tells while it starts goes past every setting but this one."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _everywhere(file: SourceFile) -> SourceFile:
    return replace(file, place=_absolute(file.place))


def _absolute(place: Place) -> Place:
    """Workers have a working folder of their own."""
    return place if place.is_s3 else replace(place, address=str(place.path.absolute()))
