"""Bulk prediction on one machine: as many processes as cores, each of which does whole pieces of the table.

Text is Python's work, which threads do not share; so a process reads, decodes, encodes, classifies and writes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection

from aisle.batch.parts import Parts
from aisle.batch.pieces import Piece
from aisle.batch.predicting import Task, TaskPredictor
from aisle.errors import AisleError
from aisle.logs import get_logger

AHEAD = 2  # pieces that wait for each process
WORTH_A_PROCESS = 2  # pieces for each: with fewer, the start of processes takes longer than they save
LOSSES = 3  # processes that may die, one after the other, without a piece done in between

Engine = Callable[[Task, Sequence[Piece], Parts], Iterator[Piece]]
"""Does the pieces of a task in any order, and gives each when its part is written."""


def on_this_machine(task: Task, pieces: Sequence[Piece], parts: Parts, *, cores: int) -> Iterator[Piece]:
    """Raises what a piece raises, and AisleError where processes die again and again."""
    if cores == 1 or len(pieces) < WORTH_A_PROCESS * cores:
        with TaskPredictor(task, threads=cores) as predictor:
            for piece in pieces:
                yield predictor.write(piece, parts)
        return
    todo, losses = {piece.number: piece for piece in pieces}, 0
    while todo:
        try:
            for piece in _in_processes(task, list(todo.values()), parts, min(cores, len(todo))):
                del todo[piece.number]
                losses = 0
                yield piece
        except BrokenProcessPool:
            losses += 1
            if losses > LOSSES:
                raise AisleError(
                    "the processes that predict die again and again",
                    where=parts.folder,
                    hint="Is there memory enough? THREADS=1 needs least, and --resume goes on from here.",
                ) from None
            get_logger(__name__).warning("a process that predicts died, its work is done again", pieces=len(todo))


def _in_processes(task: Task, pieces: Iterable[Piece], parts: Parts, cores: int) -> Iterator[Piece]:
    waiting = iter(pieces)
    spawn = multiprocessing.get_context("spawn")  # what threads of this process hold is not to be forked
    follow, lead = spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(cores, mp_context=spawn, initializer=_start, initargs=(task, parts, follow))
    try:
        with _unheard(signal.SIGINT):  # the first piece starts the processes, which take that over
            running: set[Future[Piece]] = {pool.submit(_do, piece) for piece in islice(waiting, AHEAD * cores)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_do, piece) for piece in islice(waiting, len(done))}
            for one in done:
                yield one.result()
    except BaseException:
        lead.close()  # a part is whole or absent: nobody waits for what is being done
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        lead.close()
        follow.close()


@contextlib.contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """A signal waits until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """What a process of the pool does its pieces with; it is told at its start."""

    predictor: TaskPredictor
    parts: Parts
    refusal: AisleError | OSError | None = None


def _start(task: Task, parts: Parts, follow: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all of them: the first process ends the others
    threading.Thread(target=_end_with, args=(follow,), name="end with parent", daemon=True).start()
    try:
        _Worker.predictor, _Worker.parts = TaskPredictor(task, threads=1), parts
    except (AisleError, OSError) as error:  # a pool would say that it is broken, and not why
        _Worker.refusal = error


def _do(piece: Piece) -> Piece:
    if _Worker.refusal is not None:
        raise _Worker.refusal
    return _Worker.predictor.write(piece, _Worker.parts)


def _end_with(lead: Connection) -> None:
    """End when the other end of a pipe is closed, as it also is when the process that holds it is killed."""
    lead.poll(None)
    os._exit(1)
