"""What stands between aisle and a service that it leans on, and can make that slow, silent, or gone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from enum import StrEnum

CHUNK = 1 << 16
SLOW_SECONDS = 0.1
"""For each piece that passes, either way."""


class Mode(StrEnum):
    PASSING = "passing"
    SLOW = "slow"
    SILENT = "silent"
    """Connections are accepted, and nothing comes."""
    REFUSING = "refusing"
    """Connections break, and so does every new one."""


class Proxy:
    """Passes TCP on from `port` to another port of this machine; `set` is for any thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._mode = Mode.PASSING
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    def set(self, mode: Mode) -> None:
        self._loop.call_soon_threadsafe(self._set, mode)

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        started = threading.Event()
        thread = threading.Thread(target=self._run, args=(started,), name="proxy")
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        self._set(Mode.REFUSING)
        tasks = asyncio.all_tasks(self._loop)
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=5))
        self._loop.close()

    def _set(self, mode: Mode) -> None:
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if mode is Mode.REFUSING:
            self._break()

    def _break(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.REFUSING:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        finally:
            self._open -= {writer, back}
            for one in (writer, back):
                one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while content := await reader.read(CHUNK):
                while self._mode is Mode.SILENT:
                    await self._changed.wait()
                if self._mode is Mode.SLOW:
                    await asyncio.sleep(SLOW_SECONDS)
                writer.write(content)
                await writer.drain()
            writer.write_eof()
        except OSError:  # of a client that was killed, say: whoever it spoke to sees it end, too
            writer.transport.abort()
