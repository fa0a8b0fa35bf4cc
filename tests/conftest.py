"""What every test may use: a small generated catalogue, a bundle trained on it, and a clean log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

REAL_DATA = Path(__file__).parents[2] / "shared" / "rakuten"


@pytest.fixture(autouse=True)
def _fresh_logging() -> Iterator[None]:
    """No test sees the log configuration of another."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, "_aisle", False):
            root.removeHandler(handler)
            handler.close()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the developer's environment nor a `.env` reaches a test."""
    from aisle.settings import Settings, get_settings

    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setitem(os.environ, "LOGS_PATH", str(tmp_path / "logs"))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()


@pytest.fixture
def real_catalogue() -> Path:
    """The real catalogue beside the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real catalogue is not beside the repository (../shared/rakuten)")
    return REAL_DATA
