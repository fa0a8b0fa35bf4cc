"""What is backed up comes back as it was, whole or not at all, and replaces nothing."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Connection, Engine, Float, Integer, LargeBinary, Table, insert, text
from tests.store.conftest import NOW
from tests.store.test_records import RECORD

from aisle import backup
from aisle.backup import CONTENTS_FILE, Contents, back_up_to_file
from aisle.errors import CheckFailed, InputError, UsageError
from aisle.files import to_json
from aisle.loop.corrections import CORRECTIONS_FILE, FOLDER
from aisle.model.bundle import LINEAGE_FILE, Bundle
from aisle.registry.bundles import BundleStore, Serving
from aisle.registry.frozen import FROZEN_FILE
from aisle.settings import Settings
from aisle.store import audit, dump, predictions
from aisle.store.engine import open_database, reading, writing
from aisle.store.migrate import migrate
from aisle.store.predictions import Feedback
from aisle.store.schema import UtcTime, metadata

ENGINES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


def a_row(table: Table, number: int) -> dict[str, Any]:
    """A row with something in every column; one that refers to another refers to that of the same number."""

    def value(kind: Any) -> Any:
        if isinstance(kind, UtcTime):
            return NOW + timedelta(days=number, microseconds=7)
        if isinstance(kind, JSON):
            return {"é": [number, None, "«"]}
        if isinstance(kind, LargeBinary):
            return bytes([0, 255, number])
        if isinstance(kind, Float):
            return number / 3
        return number if isinstance(kind, Integer) else str(number)

    return {column.name: value(column.type) for column in table.c}


def fill(connection: Connection) -> None:
    for table in metadata.sorted_tables:
        connection.execute(insert(table), [a_row(table, number) for number in (1, 2)])


def everything(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    with reading(engine) as connection:
        return {name: list(dump.rows(connection, table)) for name, table in dump.TABLES.items()}


def restore(engine: Engine, settings: Settings, file: Path) -> Contents:
    with file.open("rb") as source:
        return backup.restore(engine, settings, source, name=file.name, who="cli:root")


def settings_of(folder: Path) -> Settings:
    return Settings(data_path=folder / "data", models_path=folder / "models")


@pytest.fixture
def settings(tmp_path: Path, bundle: Bundle) -> Settings:
    """A shop with a champion, frozen products and corrections."""
    settings = settings_of(tmp_path / "shop")
    store = BundleStore(settings.models_path)
    store.add(bundle)
    store.make_champion(bundle.version)
    (settings.models_path / FROZEN_FILE).write_text("{}")
    (settings.data_path / FOLDER).mkdir(parents=True)
    (settings.data_path / FOLDER / CORRECTIONS_FILE).write_text("input_hash\nabc\n")
    return settings


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    return settings_of(tmp_path / "elsewhere")


@pytest.fixture
def make_database(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Engine]]:
    """A function: an empty database of a kind. Of PostgreSQL there is one."""
    opened: list[Engine] = []

    def make(kind: str) -> Engine:
        url = f"sqlite:///{tmp_path / f'{len(opened)}.db'}"
        opened.append(open_database(url if kind == "sqlite" else request.getfixturevalue("empty_postgres")))
        return opened[-1]

    yield make
    for one in opened:
        one.dispose()


@pytest.fixture
def database(make_database: Callable[[str], Engine]) -> Engine:
    engine = make_database("sqlite")
    migrate(engine)
    with writing(engine) as connection:
        fill(connection)
    return engine


@pytest.fixture
def empty(make_database: Callable[[str], Engine]) -> Engine:
    return make_database("sqlite")


@pytest.fixture
def made(database: Engine, settings: Settings, tmp_path: Path) -> Path:
    back_up_to_file(database, settings, tmp_path / "made.tar", who="cli:root")
    return tmp_path / "made.tar"


def aisle(settings: Settings, verb: str, file: str, *, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command, in a shop; its database is beside its data."""
    return subprocess.run(
        [Path(sys.executable).with_name("aisle"), verb, file],
        input=given,
        capture_output=True,
        check=False,
        timeout=60,
        env=os.environ
        | {
            "DATA_PATH": str(settings.data_path),
            "MODELS_PATH": str(settings.models_path),
            "DATABASE_URL": f"sqlite:///{settings.data_path.parent / 'shop.db'}",
        },
    )


@pytest.mark.parametrize("target", ENGINES)
def test_every_row_comes_back_and_the_next_one_has_the_next_number(
    database: Engine, made: Path, elsewhere: Settings, make_database: Callable[[str], Engine], target: str
) -> None:
    new = make_database(target)
    contents = restore(new, elsewhere, made)
    found = everything(new)
    assert found["audit"].pop()["what"] == "backup.restore"
    assert found == everything(database)
    assert {name: len(rows) for name, rows in found.items()} == contents.rows
    with writing(new) as connection:
        predictions.add_feedback(connection, Feedback("1", NOW, "anne", "10"))
    assert [row["id"] for row in everything(new)["feedback"]] == [1, 2, 3]


@pytest.mark.slow
def test_from_postgresql_to_sqlite(
    settings: Settings, elsewhere: Settings, make_database: Callable[[str], Engine], tmp_path: Path
) -> None:
    old, new = make_database("postgresql"), make_database("sqlite")
    migrate(old)
    with writing(old) as connection:
        fill(connection)
        connection.execute(text("SELECT setval(pg_get_serial_sequence('audit', 'id'), 2)"))
    back_up_to_file(old, settings, tmp_path / "made.tar", who="cli:root")
    restore(new, elsewhere, tmp_path / "made.tar")
    found = everything(new)
    found["audit"].pop()
    assert found == everything(old)


def test_models_champion_frozen_products_and_corrections_come_back(
    made: Path, settings: Settings, empty: Engine, elsewhere: Settings
) -> None:
    restore(empty, elsewhere, made)
    before, after = BundleStore(settings.models_path), BundleStore(elsewhere.models_path)
    assert after.serving() == before.serving()
    for folder, other in ((settings.models_path, elsewhere.models_path), (settings.data_path, elsewhere.data_path)):
        files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
        assert files
        for name in files:
            assert (other / name).read_bytes() == (folder / name).read_bytes(), name


def test_nobody_is_signed_in_after_a_restore(made: Path, empty: Engine, elsewhere: Settings) -> None:
    restore(empty, elsewhere, made)
    with reading(empty) as connection:
        gone = {"refresh_tokens", "console_sessions", "batches", "batch_pieces"}
        assert set(dump.tables_in_use(connection)) == {table.name for table in metadata.sorted_tables} - gone


def test_who_made_it_is_in_the_trail_and_in_the_file(made: Path, database: Engine) -> None:
    with reading(database) as connection:
        last = audit.entries(connection)[-1]
    assert (last.who, last.what, last.subject) == ("cli:root", "backup.make", "made.tar")
    with tarfile.open(made) as archive:
        contents = json.load(archive.extractfile(CONTENTS_FILE))  # type: ignore[arg-type]
    assert contents["rows"]["audit"] == 3


def test_only_its_owner_reads_it(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_an_earlier_back_up_is_not_replaced(made: Path, database: Engine, settings: Settings) -> None:
    before = made.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        back_up_to_file(database, settings, made, who="cli:root")
    assert made.read_bytes() == before


def test_what_is_written_meanwhile_is_there_whole_or_not_at_all(
    database: Engine, settings: Settings, empty: Engine, elsewhere: Settings, tmp_path: Path
) -> None:
    """A prediction and the feedback on it, in one transaction, again and again."""
    over = threading.Event()

    def write() -> None:
        number = 2
        while not over.is_set():
            number += 1
            with writing(database) as connection:
                predictions.add(connection, [replace(RECORD, id=str(number))])
                predictions.add_feedback(connection, Feedback(str(number), NOW, "anne", "10"))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        contents = back_up_to_file(database, settings, tmp_path / "made.tar", who="cli:root")
    finally:
        over.set()
        writer.join()
    assert contents.rows["predictions"] == contents.rows["feedback"]
    restore(empty, elsewhere, tmp_path / "made.tar")


def test_a_damaged_model_is_left_out_and_named(
    database: Engine, settings: Settings, empty: Engine, elsewhere: Settings, bundle: Bundle, tmp_path: Path
) -> None:
    (settings.models_path / bundle.version / LINEAGE_FILE).write_text("altered")
    contents = back_up_to_file(database, settings, tmp_path / "made.tar", who="cli:root")
    assert (contents.versions, contents.damaged) == ((), (bundle.version,))
    restore(empty, elsewhere, tmp_path / "made.tar")
    assert len(everything(empty)["predictions"]) == 2


def is_untouched(engine: Engine, settings: Settings) -> bool:
    with reading(engine) as connection:
        return not dump.tables_in_use(connection) and not settings.models_path.exists()


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9, 0.999])
def test_one_that_was_cut_off_changes_nothing(made: Path, empty: Engine, elsewhere: Settings, share: float) -> None:
    content = made.read_bytes()
    made.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"is not a (whole )?back-up"):
        restore(empty, elsewhere, made)
    assert is_untouched(empty, elsewhere)


def test_one_that_was_altered_changes_nothing(made: Path, empty: Engine, elsewhere: Settings) -> None:
    content = bytearray(made.read_bytes())
    with tarfile.open(made) as archive:
        content[archive.getmember("database/users.ndjson.gz").offset_data + 20] ^= 1
    made.write_bytes(content)
    with pytest.raises(InputError, match=r"users\.ndjson\.gz was altered"):
        restore(empty, elsewhere, made)
    assert is_untouched(empty, elsewhere)


def changed(made: Path, **more: Any) -> None:
    """Write the file anew with another table of contents."""
    with tarfile.open(made) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    contents = json.loads(files[CONTENTS_FILE]) | more
    with tarfile.open(made, "w") as archive:
        for name, content in (files | {CONTENTS_FILE: to_json(contents).encode()}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "more",
    [{"versions": ["../../etc"]}, {"rows": {"secrets": 1}}, {"sums": {}}, {"format": None}, {"more": 1}],
    ids=["a path", "a table", "no sums", "no format", "more"],
)
def test_one_that_is_not_ours_is_refused(
    made: Path, empty: Engine, elsewhere: Settings, more: dict[str, Any]
) -> None:
    changed(made, **more)
    with pytest.raises(InputError):
        restore(empty, elsewhere, made)
    assert is_untouched(empty, elsewhere)


def test_a_database_of_a_newer_release_is_not_backed_up_in_part(
    database: Engine, settings: Settings, tmp_path: Path
) -> None:
    with writing(database) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CheckFailed, match="newer release"):
        back_up_to_file(database, settings, tmp_path / "made.tar", who="cli:root")
    assert not list(tmp_path.glob("*made.tar"))


def test_that_of_a_newer_release_is_refused(made: Path, empty: Engine, elsewhere: Settings) -> None:
    changed(made, revision="9999")
    with pytest.raises(CheckFailed, match="newer release"):
        restore(empty, elsewhere, made)
    with reading(empty) as connection:
        assert dump.tables_in_use(connection) == []


def test_a_database_in_use_is_not_touched(made: Path, database: Engine, elsewhere: Settings) -> None:
    before = everything(database)
    with pytest.raises(CheckFailed, match="the database is in use: "):
        restore(database, elsewhere, made)
    assert everything(database) == before
    assert not elsewhere.models_path.exists()


def test_a_store_in_service_is_not_touched(made: Path, empty: Engine, elsewhere: Settings) -> None:
    store = BundleStore(elsewhere.models_path)
    store.point_as(Serving("another"))
    with pytest.raises(CheckFailed, match="another model is in service here"):
        restore(empty, elsewhere, made)
    assert store.serving().champion == "another"
    assert store.versions() == []


def test_other_corrections_are_not_replaced(made: Path, empty: Engine, elsewhere: Settings) -> None:
    theirs = elsewhere.data_path / FOLDER / CORRECTIONS_FILE
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    with pytest.raises(CheckFailed, match="is another one"):
        restore(empty, elsewhere, made)
    assert theirs.read_text() == "theirs"


def test_a_pipe_takes_it_and_gives_it_back(settings: Settings, elsewhere: Settings, bundle: Bundle) -> None:
    made = aisle(settings, "backup", "-")
    assert made.returncode == 0, made.stderr
    restored = aisle(elsewhere, "restore", "-", given=made.stdout)
    assert restored.returncode == 0, restored.stderr
    assert BundleStore(elsewhere.models_path).serving().champion == bundle.version
    assert not list(elsewhere.models_path.glob(".tmp-*"))


def test_a_file_that_is_not_there_is_named(elsewhere: Settings) -> None:
    restored = aisle(elsewhere, "restore", "missing.tar")
    assert restored.returncode == InputError.exit_code
    assert b"missing.tar: is not there" in restored.stderr


@pytest.mark.parametrize("after", ["_restore_bundles", "_restore_table", "write_bytes", "_pointer"])
def test_one_that_was_killed_is_given_again(
    made: Path, database: Engine, empty: Engine, elsewhere: Settings, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    whole = getattr(backup, after)

    def killed(*given: Any) -> None:
        whole(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(backup, after, killed)
        with pytest.raises(KeyboardInterrupt):
            restore(empty, elsewhere, made)
    restore(empty, elsewhere, made)
    found = everything(empty)
    found["audit"].pop()
    assert found == everything(database)
