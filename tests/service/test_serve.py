"""Starting the prediction service where something that it needs is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from aisle.service.serve import TRY_AGAIN_SECONDS, worker


def test_a_worker_that_cannot_serve_yet_says_so_in_one_line_and_lets_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MODELS_PATH", "LOGS_PATH", "DATA_PATH"):
        monkeypatch.setenv(name, str(tmp_path / name))
    slept: list[float] = []
    with pytest.raises(SystemExit) as ended:
        worker(sleep=slept.append)
    assert ended.value.code == 1
    assert slept == [TRY_AGAIN_SECONDS]
    [line] = [one for one in capsys.readouterr().err.splitlines() if "cannot serve yet" in one]
    assert "there is no champion" in line
    assert "Traceback" not in line
