"""Structured logs: JSON lines in four rotating files, plain lines on the terminal.

Each part of the product's way has a file of its own: `import_data_logger.log` (import, validate, prepare),
`train_model_logger.log` (train), `test_model_logger.log` (evaluate, predict) and `serving_logger.log` (serve).
Several processes may write to one file: lines are appended whole, and rotation happens under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import logging.handlers
import os
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path

import structlog

MAX_BYTES = 5_000_000
BACKUPS = 3


class LogFile(StrEnum):
    IMPORT = "import_data_logger.log"
    TRAIN = "train_model_logger.log"
    TEST = "test_model_logger.log"
    SERVING = "serving_logger.log"


class SharedRotatingFileHandler(logging.handlers.RotatingFileHandler):
    """RotatingFileHandler for several processes: a lock serialises who rotates, and each follows a rotation.

    A line needs no lock: what is appended in one piece stays in one piece. Each is formatted once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True)
        self._complained = self._complaining = False
        self._lock_path = path.with_name(f".{path.name}.lock")

    def emit(self, record: logging.LogRecord) -> None:
        if self._complaining:
            return
        try:
            line = self.format(record) + self.terminator
            current = self._current()
            if self._is_full_with(line, current):
                with self._lock_path.open("a") as lock_file:
                    fcntl.flock(lock_file, fcntl.LOCK_EX)
                    if self._is_full_with(line, self._current()):  # nobody else has rotated since
                        self.doRollover()
                current = self._current()
            current.write(line)
            self.flush()
        except Exception:  # noqa: BLE001  a full or read-only disk must not stop the work that is being logged
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is logging's
        """Say once, on the terminal, that lines are lost, instead of a traceback for each of them."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._complained:
            self._complained = self._complaining = True
            get_logger(__name__).warning("log file not written", path=self.baseFilename, reason=error.strerror)
            self._complaining = False

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written before cannot be written now
            super().close()

    def _is_full_with(self, line: str, stream: TextIOWrapper) -> bool:
        """Whether the line is too much for the file."""
        size = os.fstat(stream.fileno()).st_size
        return size > 0 and size + len(line.encode(errors="replace")) > self.maxBytes

    def _current(self) -> TextIOWrapper:
        """The file that has the log's name now, opened if it is not."""
        if self.stream is not None:
            opened = os.fstat(self.stream.fileno())
            with contextlib.suppress(FileNotFoundError):
                named = os.stat(self.baseFilename)  # noqa: PTH116  a Path takes longer than the line
                if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
                    return self.stream
            rotated, self.stream = self.stream, None
            rotated.close()
        self.stream = self._open()
        return self.stream


def setup_logging(file: LogFile | None, folder: Path, *, level: str = "INFO", terminal: bool = True) -> None:
    """Send structlog to `folder/file` (JSON lines) and, if `terminal`, to standard error (plain lines).

    Raises nothing for a folder that cannot be written: work goes on with the terminal alone, and says so.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, "_aisle", False):
            root.removeHandler(handler)
            handler.close()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    if terminal:
        stream = logging.StreamHandler(sys.stderr)
        # Without rich, which would print every local variable of a traceback, tokens and products included.
        traceback = structlog.dev.plain_traceback
        plain = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=traceback
        )
        _add(root, stream, shared, [plain])
    if file is not None:
        problem = _add_file(root, folder / file, shared)
        if problem:
            get_logger(__name__).warning("log file not written", path=str(folder / file), reason=problem)
    root.setLevel(level)
    # Libraries speak up only when something is wrong; their chatter is not ours.
    for name in (
        "alembic",
        "uvicorn",
        "httpx",
        "httpcore",
        "botocore",
        "boto3",
        "urllib3",
        "PIL",
        "matplotlib",
        "fontTools",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


def log_failure(line: str, *, exit_code: int) -> None:
    """Note why the process ends in its log file, where it has one: the terminal is told in its own way."""
    files = [one for one in logging.getLogger().handlers if isinstance(one, SharedRotatingFileHandler)]
    record = logging.LogRecord("aisle", logging.ERROR, __file__, 0, line, None, None)
    record.exit_code = exit_code
    for handler in files:
        handler.handle(record)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


def _add_file(root: logging.Logger, path: Path, shared: list[structlog.typing.Processor]) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        return error.strerror or str(error)
    json_lines: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]
    _add(root, SharedRotatingFileHandler(path), shared, json_lines)
    return ""


def _add(
    root: logging.Logger,
    handler: logging.Handler,
    shared: list[structlog.typing.Processor],
    renderers: list[structlog.typing.Processor],
) -> None:
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    handler._aisle = True  # type: ignore[attr-defined]
    root.addHandler(handler)
