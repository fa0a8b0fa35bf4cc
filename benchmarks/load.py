"""A load generator for one HTTP server: raw requests over asyncio streams, so that it costs little itself."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

CONNECTION_ERROR = 0


@dataclass
class Outcome:
    """`seconds` of the requests that were answered 200; `statuses` of all, `CONNECTION_ERROR` among them."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    elapsed: float = 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connections:
    """Connections to one address, kept alive and used again."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> int:
        """The status of the answer; CONNECTION_ERROR where there is none."""
        try:
            reader, writer = self._kept() or await asyncio.open_connection(*self._address)
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"transfer-encoding: chunked" in head:
                while size := int(await reader.readline(), 16):
                    await reader.readexactly(size + 2)
                await reader.readline()
            else:
                _, _, rest = head.partition(b"content-length:")
                await reader.readexactly(int(rest.split(b"\r\n")[0]))
        except (OSError, EOFError, ValueError):
            return CONNECTION_ERROR
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1])

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """One that its server has not closed meanwhile, as servers do after some seconds without a request."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and reader.exception() is None:
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def saturate(connections: Connections, requests: Sequence[bytes], *, together: int, seconds: float) -> Outcome:
    """`together` clients, each asking again as soon as it is answered."""
    outcome, following = Outcome(), itertools.cycle(requests)
    started = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() - started < seconds:
            await _ask(connections, next(following), outcome, time.perf_counter())

    await asyncio.gather(*(client() for _ in range(together)))
    outcome.elapsed = time.perf_counter() - started
    return outcome


async def arrive(connections: Connections, requests: Sequence[bytes], gaps: Iterable[float]) -> Outcome:
    """Requests that come after `gaps` seconds, whether the ones before are answered or not.

    Time counts from when a request was due, so that a generator that is late shows, too.
    """
    outcome, following = Outcome(), itertools.cycle(requests)
    started = time.perf_counter()
    due, tasks = started, []
    for gap in gaps:
        due += gap
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(_ask(connections, next(following), outcome, due)))
    await asyncio.gather(*tasks)
    outcome.elapsed = time.perf_counter() - started
    return outcome


async def _ask(connections: Connections, request: bytes, outcome: Outcome, due: float) -> None:
    status = await connections.ask(request)
    outcome.statuses[status] += 1
    if status == 200:
        outcome.seconds.append(time.perf_counter() - due)
