"""Settings come from the environment or `.env`, and a bad one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from aisle.errors import UsageError
from aisle.settings import Settings, env_example, get_settings


def test_a_variable_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    assert get_settings().port == 9000


def test_a_variable_is_read_from_dot_env_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=9000\nDATA_PATH=/somewhere\n")
    monkeypatch.setenv("PORT", "9001")
    settings = get_settings()
    assert settings.port == 9001
    assert settings.data_path == Path("/somewhere")


@pytest.mark.parametrize(("name", "value"), [("PORT", "many"), ("PORT", "70000"), ("LOG_LEVEL", "loud")])
def test_a_bad_value_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"settings: {name}"):
        get_settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        get_settings().port = 1  # type: ignore[misc]


def test_the_example_names_every_variable() -> None:
    example = env_example()
    assert all(f"\n#{name.upper()}=" in example for name in Settings.model_fields)
