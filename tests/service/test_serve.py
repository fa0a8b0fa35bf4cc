"""Starting the prediction service, and where something that it needs is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.service.conftest import Starter

from aisle.registry.bundles import BundleStore
from aisle.service import serve
from aisle.service.serve import TRY_AGAIN_SECONDS, worker
from aisle.settings import Settings


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


def opened_and_closed(store: BundleStore, folder: Path) -> None:
    settings = Settings(models_path=store.root, database_url=f"sqlite:///{folder / 'aisle.db'}", threads=1)
    app = serve.open_service(settings)
    app.state.parts.champion.close()
    app.state.parts.engine.dispose()


def test_a_service_that_has_started_is_not_stopped_to_look_for_garbage_in_what_stays(
    store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[str] = []
    monkeypatch.setattr(serve, "pass_over_what_is_there", lambda: there.append("once"))
    monkeypatch.setattr(serve, "take_turns_often", lambda: None)  # it is of the whole process
    opened_and_closed(store, tmp_path)
    assert there == ["once"]


def test_a_service_that_has_started_lets_its_loop_interrupt_what_computes(
    store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[float] = []
    monkeypatch.setattr(sys, "setswitchinterval", chosen.append)
    monkeypatch.setattr(serve, "pass_over_what_is_there", lambda: None)  # it is of the whole process
    opened_and_closed(store, tmp_path)
    assert chosen
    assert max(chosen) <= 0.001


def test_no_request_waits_for_a_route_to_be_built(start_service: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    service = start_service()
    built: list[object] = []
    monkeypatch.setattr(TypeAdapter, "__init__", lambda _, *of, **__: built.append(of))
    assert service.post("/feedback", json={"prediction_id": "0" * 32, "type": "2583"}).status_code == 404
    assert service.client.get("/console/sign-in").status_code == 200
    assert built == []
