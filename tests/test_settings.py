"""Settings come from the environment or `.env`, and a bad one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

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


SECRET = "sekret"


@pytest.mark.parametrize(
    "uri",
    [
        f"https://anne:{SECRET}@host/anne/shop.mlflow",
        f"HTTPS://anne:{SECRET}@host",
        f"http://{SECRET}@host:5000",
        f"postgresql://anne:{SECRET}@host/mlflow",
        f"mysql+pymysql://anne:{SECRET}@host/mlflow",
        f"sqlite://anne:{SECRET}@/file.db",
        f"https://anne:{SECRET}@[host",
        f"https://anne:{SECRET}@host\N{DOUBLE QUESTION MARK}",
    ],
)
def test_an_address_of_mlflow_with_a_password_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    get_settings.cache_clear()
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI") as refused:
        get_settings()
    with pytest.raises(ValidationError) as invalid:
        Settings()
    assert SECRET not in str(refused.value) + str(invalid.value)


@pytest.mark.parametrize("uri", ["postgresql://host/mlflow", "mlruns", "file:///mlruns", "http://", "sqlite:///"])
def test_what_is_neither_sqlite_nor_a_server_is_no_address_of_mlflow(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    get_settings.cache_clear()
    with pytest.raises(UsageError, match="none of: empty, off, sqlite:///FILE"):
        get_settings()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", "sqlite:///data/mlflow.db"),
        ("OFF", ""),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
        ("HTTPS://Host:5000/Shop", "https://Host:5000/Shop"),
    ],
)
def test_mlflow_is_where_the_address_says(monkeypatch: pytest.MonkeyPatch, given: str, used: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    get_settings.cache_clear()
    assert get_settings().mlflow_uri == used
