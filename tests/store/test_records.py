"""What is stored comes back as it was, and the audit trail only grows."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from aisle.errors import ServiceMissing, UsageError
from aisle.store import audit, predictions, refresh, users
from aisle.store.engine import open_database, reading, writing
from aisle.store.migrate import migrate
from aisle.store.predictions import Feedback, PredictionRecord
from aisle.store.refresh import RefreshToken
from aisle.store.users import Kind, Role, User

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANNE = User("anne", Kind.PERSON, Role.REVIEWER, "a hash", NOW, None)
RECORD = PredictionRecord(
    id="1",
    created_at=NOW,
    user_name="anne",
    input_hash="0" * 64,
    designation="Poupée à l'ancienne",
    description="",
    image_hash=None,
    predicted="1280",
    confidence=0.9,
    top=[{"code": "1280", "label": "Jouets pour enfants", "confidence": 0.9}],
    decision="accept",
    model_version="v1",
)


def test_an_account_comes_back_as_it_was_stored(engine: Engine) -> None:
    with writing(engine) as connection:
        users.add(connection, ANNE)
    with reading(engine) as connection:
        assert users.find(connection, "anne") == ANNE
        assert users.find(connection, "bob") is None


def test_a_name_is_given_once_and_the_transaction_goes_on(engine: Engine) -> None:
    with writing(engine) as connection:
        users.add(connection, ANNE)
        with pytest.raises(UsageError, match="anne"):
            users.add(connection, ANNE)
        users.add(connection, replace(ANNE, name="bob"))
    with reading(engine) as connection:
        assert [user.name for user in users.all_users(connection)] == ["anne", "bob"]


def test_times_come_back_in_utc_whatever_zone_they_went_in(engine: Engine) -> None:
    paris = NOW.astimezone(timezone(timedelta(hours=2)))
    with writing(engine) as connection:
        users.add(connection, replace(ANNE, created_at=paris))
        stored = users.get(connection, "anne").created_at
    assert stored == NOW
    assert stored.tzinfo == UTC


def test_a_time_without_a_zone_is_refused(engine: Engine) -> None:
    with pytest.raises(StatementError, match="zone"), writing(engine) as connection:
        users.add(connection, replace(ANNE, created_at=NOW.replace(tzinfo=None)))


def test_an_error_leaves_nothing_of_a_transaction(engine: Engine) -> None:
    with pytest.raises(RuntimeError), writing(engine) as connection:
        users.add(connection, ANNE)
        raise RuntimeError
    with reading(engine) as connection:
        assert users.find(connection, "anne") is None


def test_an_audit_entry_comes_back_with_before_and_after(engine: Engine) -> None:
    with writing(engine) as connection:
        audit.record(connection, who="root", what="user.role", subject="anne", at=NOW, before={"role": "client"},
                     after={"role": "admin"})  # fmt: skip
        audit.record(connection, who="root", what="user.add", subject="bob", at=NOW + timedelta(1))
    with reading(engine) as connection:
        first, second = audit.entries(connection)
        later = audit.entries(connection, since=NOW + timedelta(hours=1))
    assert (first.before, first.after) == ({"role": "client"}, {"role": "admin"})
    assert (second.before, second.after) == (None, None)
    assert later == [second]


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit"])
def test_an_audit_entry_is_neither_changed_nor_deleted(engine: Engine, statement: str) -> None:
    with writing(engine) as connection:
        audit.record(connection, who="root", what="user.add", subject="anne", at=NOW)
    with pytest.raises(DBAPIError, match="only grows"), writing(engine) as connection:
        connection.execute(text(statement))
    with reading(engine) as connection:
        assert [entry.who for entry in audit.entries(connection)] == ["root"]


@pytest.mark.slow
def test_the_audit_trail_cannot_be_emptied_at_once(empty_postgres: str) -> None:
    engine = open_database(empty_postgres)
    migrate(engine)
    with pytest.raises(DBAPIError, match="only grows"), writing(engine) as connection:
        connection.execute(text("TRUNCATE audit"))
    engine.dispose()


def test_a_refresh_token_is_used_once(engine: Engine) -> None:
    token = RefreshToken("hash", "family", "anne", NOW, NOW + timedelta(1))
    with writing(engine) as connection:
        users.add(connection, ANNE)
        refresh.add(connection, token)
        assert refresh.use(connection, "hash", at=NOW)
        assert not refresh.use(connection, "hash", at=NOW)
        assert refresh.find(connection, "hash") == replace(token, used_at=NOW)


def test_a_session_belongs_to_an_account(engine: Engine) -> None:
    with pytest.raises(IntegrityError), writing(engine) as connection:
        refresh.add(connection, RefreshToken("hash", "family", "nobody", NOW, NOW))


def test_a_prediction_and_what_was_said_about_it_come_back_and_go_together(engine: Engine) -> None:
    given = Feedback("1", NOW, "bob", "1281")
    with writing(engine) as connection:
        predictions.add(connection, [RECORD, replace(RECORD, id="2", created_at=NOW + timedelta(1))])
        predictions.add_feedback(connection, given)
    with writing(engine) as connection:
        assert predictions.find(connection, "1") == RECORD
        assert predictions.feedback_on(connection, "1") == [given]
        assert predictions.delete_older(connection, than=NOW + timedelta(hours=1)) == 1
        assert predictions.find(connection, "1") is None
        assert predictions.feedback_on(connection, "1") == []
        assert predictions.find(connection, "2") is not None


def test_only_its_owner_reads_the_database_file(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/new/aisle.db")
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()]
    engine.dispose()
    assert len(modes) > 1  # the write-ahead log is there too
    assert set(modes) == {0o600}


@pytest.mark.parametrize("url", ["mysql://u:secret@host/d", "not an address secret", "sqlite://"])
def test_an_address_that_cannot_be_used_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(UsageError) as refusal:
        open_database(url)
    assert "secret" not in str(refusal.value)


def test_a_database_that_does_not_answer_is_a_missing_service() -> None:
    engine = open_database("postgresql+psycopg://u:secret@127.0.0.1:1/d")
    with pytest.raises(ServiceMissing) as refusal, reading(engine):
        pass
    assert "secret" not in str(refusal.value)


def test_two_that_read_before_they_write_take_turns_on_sqlite(tmp_path: Path) -> None:
    """The second would otherwise fail half-way, because the first changed what it had read."""
    engine = open_database(f"sqlite:///{tmp_path / 'aisle.db'}")
    migrate(engine)
    done = threading.Event()

    def other() -> None:
        with writing(engine) as connection:
            users.add(connection, replace(ANNE, name="bob"))
        done.set()

    thread = threading.Thread(target=other)
    with writing(engine) as connection:
        assert users.all_users(connection) == []
        thread.start()
        assert not done.wait(0.5)
        users.add(connection, ANNE)
    thread.join()
    with reading(engine) as connection:
        assert [user.name for user in users.all_users(connection)] == ["anne", "bob"]
    engine.dispose()
