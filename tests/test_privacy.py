"""`aisle privacy`: nothing goes without `--yes`, and what is shown is for its reader alone."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import click
import pytest
from tests.store.test_records import RECORD

from aisle.cli.evidence import privacy
from aisle.settings import get_settings
from aisle.store import predictions
from aisle.store.engine import open_database, reading, writing
from aisle.store.migrate import migrate


@pytest.fixture(autouse=True)
def _recorded() -> None:
    engine = open_database(get_settings().database_url)
    migrate(engine)
    with writing(engine) as connection:
        predictions.add(connection, [RECORD])
    engine.dispose()


def is_there() -> bool:
    engine = open_database(get_settings().database_url)
    with reading(engine) as connection:
        found = predictions.find(connection, RECORD.id)
    engine.dispose()
    return found is not None


def test_only_yes_erases(capsys: pytest.CaptureFixture[str]) -> None:
    privacy.main(["erase", "--user", "anne"], standalone_mode=False)
    assert "would be erased:\n       1 predictions\n" in capsys.readouterr().out
    assert is_there()
    privacy.main(["erase", "--user", "anne", "--yes"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("erased:\n       1 predictions\n")
    assert not is_there()


def test_what_is_kept_is_shown_to_the_owner_of_the_file_alone(tmp_path: Path) -> None:
    privacy.main(["export", "--user", "anne", "--out", str(tmp_path / "anne.json")], standalone_mode=False)
    assert stat.S_IMODE((tmp_path / "anne.json").stat().st_mode) == 0o600
    assert json.loads((tmp_path / "anne.json").read_text())["predictions"][0]["designation"] == RECORD.designation


@pytest.mark.parametrize("words", [[], ["--user", "anne", "--product", "SKU"]])
def test_whose_data_it_is_has_to_be_said(words: list[str]) -> None:
    with pytest.raises(click.UsageError, match="one of the two"):
        privacy.main(["erase", *words], standalone_mode=False)
