"""The four logs: JSON lines, rotating, safe with several processes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from aisle import logs
from aisle.logs import LogFile, get_logger, setup_logging


def lines(folder: Path) -> list[dict[str, object]]:
    found = []
    for path in folder.glob(f"{LogFile.IMPORT}*"):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


def test_a_log_line_is_json_with_time_level_and_fields(tmp_path: Path) -> None:
    setup_logging(LogFile.IMPORT, tmp_path, terminal=False)
    get_logger("aisle.test").info("étiquette", rows=3)
    [line] = lines(tmp_path)
    assert line["event"] == "étiquette"
    assert line["rows"] == 3
    assert line["level"] == "info"
    assert line["logger"] == "aisle.test"
    assert str(line["timestamp"]).endswith("Z")


def test_a_traceback_stays_on_its_line(tmp_path: Path) -> None:
    setup_logging(LogFile.IMPORT, tmp_path, terminal=False)
    try:
        raise ValueError("bad")  # noqa: TRY301
    except ValueError:
        get_logger("aisle.test").exception("failed")
    [line] = lines(tmp_path)
    assert "ValueError: bad" in str(line["exception"])


def test_no_value_of_a_variable_is_shown_with_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(LogFile.IMPORT, tmp_path)
    hidden = "a token"
    try:
        _ = len(hidden) / 0
    except ZeroDivisionError:
        get_logger("aisle.test").exception("failed")
    shown = capsys.readouterr().err + (tmp_path / LogFile.IMPORT).read_text()
    assert "ZeroDivisionError" in shown
    assert hidden not in shown


def test_setting_up_twice_writes_each_line_once(tmp_path: Path) -> None:
    setup_logging(LogFile.IMPORT, tmp_path, terminal=False)
    setup_logging(LogFile.IMPORT, tmp_path, terminal=False)
    get_logger("aisle.test").info("once")
    assert len(lines(tmp_path)) == 1


def test_a_full_log_rotates_and_keeps_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 1000)
    setup_logging(LogFile.IMPORT, tmp_path, terminal=False)
    for number in range(100):
        get_logger("aisle.test").info("line", number=number)
    names = sorted(path.name for path in tmp_path.glob(f"{LogFile.IMPORT}*"))
    assert names == [LogFile.IMPORT, *(f"{LogFile.IMPORT}.{n}" for n in (1, 2, 3))]
    assert max(path.stat().st_size for path in tmp_path.glob(f"{LogFile.IMPORT}*")) <= 1000
    assert max(int(str(line["number"])) for line in lines(tmp_path)) == 99


def test_a_line_is_formatted_once_and_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup_logging(LogFile.IMPORT, tmp_path, terminal=False)
    [handler] = [one for one in logging.getLogger().handlers if getattr(one, "_aisle", False)]
    formatted: list[logging.LogRecord] = []

    def formats(record: logging.LogRecord) -> str:
        formatted.append(record)
        return "{}"

    monkeypatch.setattr(handler, "format", formats)
    monkeypatch.setattr("fcntl.flock", None)  # whoever calls it fails
    get_logger("aisle.test").info("line")
    assert lines(tmp_path) == [{}]
    assert len(formatted) == 1


def test_a_line_goes_to_the_file_that_has_the_name_now(tmp_path: Path) -> None:
    setup_logging(LogFile.IMPORT, tmp_path, terminal=False)
    get_logger("aisle.test").info("before")
    (tmp_path / LogFile.IMPORT).rename(tmp_path / f"{LogFile.IMPORT}.1")
    get_logger("aisle.test").info("after")
    assert json.loads((tmp_path / LogFile.IMPORT).read_text())["event"] == "after"


def test_several_processes_lose_no_line_while_the_log_rotates(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from aisle import logs\n"
        "logs.MAX_BYTES = 40_000\n"
        "logs.setup_logging(logs.LogFile.IMPORT, Path(sys.argv[1]), terminal=False)\n"
        "for i in range(200): logs.get_logger('aisle.test').info('line', who=sys.argv[2], number=i)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(n)]) for n in range(4)]
    assert [worker.wait() for worker in workers] == [0, 0, 0, 0]
    found = lines(tmp_path)
    assert len({(line["who"], line["number"]) for line in found}) == len(found) == 800


def test_a_log_that_cannot_be_written_stops_no_work(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    setup_logging(LogFile.IMPORT, tmp_path / "logs", terminal=False)
    get_logger("aisle.test").info("still here")
    assert (tmp_path / "logs").read_text() == "a file where the folder should be"
