"""What is kept of one user or one product is shown whole, and erased whole; on both engines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, String, Text, select, text
from sqlalchemy.exc import DBAPIError
from tests.store.conftest import NOW
from tests.store.test_records import RECORD

from aisle.errors import CheckFailed
from aisle.loop.corrections import CORRECTIONS_FILE, Correction, alone, read_corrections, write_corrections
from aisle.privacy import Kind, Report, Subject, erase, export, plan
from aisle.settings import Settings
from aisle.store import (
    apikeys,
    audit,
    batches,
    experiments,
    predictions,
    privacy,
    refresh,
    retrainings,
    reviews,
    schema,
    sessions,
    users,
)
from aisle.store.apikeys import ApiKey
from aisle.store.batches import NewBatch
from aisle.store.engine import reading, writing
from aisle.store.experiments import Kind as ExperimentKind
from aisle.store.predictions import Feedback, PredictionRecord
from aisle.store.refresh import RefreshToken
from aisle.store.retrainings import Cause
from aisle.store.sessions import StoredSession
from aisle.store.users import Role, User

ANNE, PAUL = Subject(Kind.USER, "anne"), Subject(Kind.USER, "paul")
SKU = Subject(Kind.PRODUCT, "SKU 7")
BATCH = "b" * 32


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_path=tmp_path / "data")


def one(number: int, user: str, **more: Any) -> PredictionRecord:
    facts: dict[str, Any] = {"id": f"{number:032x}", "user_name": user, "input_hash": f"{number:064x}", **more}
    return replace(RECORD, **facts)


def correction(number: int, reviewer: str, key: str | None = None) -> Correction:
    return Correction(f"{number:064x}", key, "Poupée", "", "1280", reviewer, 1.0, number)


@pytest.fixture
def shop(engine: Engine, settings: Settings) -> Engine:
    """Anne and Paul did everything that is kept of somebody; so did an account that is called like a role."""
    with writing(engine) as connection:
        for name in ("anne", "paul", "admin"):
            users.add(connection, User(name, users.Kind.PERSON, Role.ADMIN, "$argon2 secret", NOW, None))
            apikeys.add(connection, ApiKey(f"aisle_{name}", "a" * 64, name, NOW))
            refresh.add(connection, RefreshToken(f"{name:0>64}", name, name, NOW, NOW))
            sessions.add(connection, StoredSession(f"{name:0>64}", name, "sealed up", NOW, NOW, NOW))
        records = [
            one(1, "anne", decision="review", product_key="SKU 7"),
            one(2, "paul", decision="review", product_key="SKU 7"),
            one(3, "paul", product_key="SKU 8"),
        ]
        predictions.add(connection, records)
        reviews.enqueue(connection, records)
        for record, name in ((1, "paul"), (2, "anne"), (3, "paul")):
            predictions.add_feedback(connection, Feedback(f"{record:032x}", NOW, name, "1281"))
        for number, name in ((BATCH, "anne"), ("c" * 32, "paul")):
            batches.add(connection, NewBatch(number, name, "table", None, None, None, "f" * 64, 10), at=NOW)
        experiments.start(
            connection, kind=ExperimentKind.AB, champion="a", challenger="b", share=0.5, rules={}, who="anne", at=NOW
        )
        detail = {"collected": {"reviewers": {"anne": 2, "paul": 1}}, "approved": "surely (approved by anne)"}
        retrainings.begin(connection, Cause.HAND, asked_by="paul", at=NOW, detail=detail)
        retrainings.ask(connection, Cause.HAND, asked_by="anne", reason="marianne said so", at=NOW)
        audit.record(connection, who="anne", what="user.add", subject="paul", at=NOW, after={"role": "admin"})
        audit.record(connection, who="paul", what="model.promote", subject="v1", at=NOW, after={"note": "for anne"})
    for number in (BATCH, "c" * 32):
        folder = settings.batches_path / number
        folder.mkdir(parents=True)
        (folder / "table.csv").write_text("designation\n")
    corrections = [correction(1, "anne", "SKU 7"), correction(2, "paul", "SKU 8"), correction(3, "anne")]
    write_corrections(settings.data_path / "retraining" / CORRECTIONS_FILE, corrections)
    return engine


def shown(shop: Engine, settings: Settings, subject: Subject) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("".join(export(shop, settings, subject, who="cli:root")))
    return found


def erased(shop: Engine, settings: Settings, subject: Subject) -> Report:
    return erase(shop, settings, subject, who="cli:root")


def everything(engine: Engine) -> str:
    """All rows of all tables."""
    with reading(engine) as connection:
        rows = [
            [str(value) for value in row]
            for table in schema.metadata.sorted_tables
            for row in connection.execute(select(table).order_by(*table.primary_key))
        ]
    return json.dumps(rows, ensure_ascii=False)


def corrections(settings: Settings) -> dict[int, str]:
    found = read_corrections(settings.data_path / "retraining" / CORRECTIONS_FILE)
    return {one.word: one.reviewer for one in found.values()}


def test_all_that_is_kept_of_a_user_is_shown(shop: Engine, settings: Settings) -> None:
    found = shown(shop, settings, ANNE)
    about = found.pop("about")
    assert (about["kind"], about["name"]) == ("user", "anne")
    assert {name: len(rows) for name, rows in found.items() if rows} == {
        "predictions": 1, "feedback": 1, "reviews": 1, "feedback_given": 1, "batches": 1, "batch_pieces": 1,
        "console_sessions": 1, "refresh_tokens": 1, "api_keys": 1, "users": 1, "experiments": 1, "retrainings": 1,
        "retraining_requests": 1, "audit": 3, "batch_files": 1, "corrections": 2,
    }  # fmt: skip
    assert found["predictions"][0]["designation"] == RECORD.designation


def test_nothing_of_others_and_no_secret_is_shown(shop: Engine, settings: Settings) -> None:
    found = json.dumps(shown(shop, settings, ANNE))
    for hidden in ("SKU 8", "secret", "sealed", "a" * 64, f"{'anne':0>64}", "c" * 32):
        assert hidden not in found


def test_all_that_is_kept_of_a_product_is_shown(shop: Engine, settings: Settings) -> None:
    found = shown(shop, settings, SKU)
    assert [row["user_name"] for row in found["predictions"]] == ["anne", "paul"]
    assert [row["word"] for row in found["corrections"]] == [1]
    assert (len(found["feedback"]), len(found["reviews"])) == (2, 2)


def test_an_erased_user_is_nowhere_but_in_sentences_that_people_wrote(shop: Engine, settings: Settings) -> None:
    report = erased(shop, settings, ANNE)
    left = everything(shop).replace("marianne", "").replace("approved by anne", "").replace("for anne", "")
    assert "anne" not in left
    assert report.rows.mentions == ("retrainings 1: approved", "audit 3: note")
    assert not (settings.batches_path / BATCH).exists()
    assert (settings.batches_path / ("c" * 32)).exists()
    assert corrections(settings) == {1: report.pseudonym, 2: "paul", 3: report.pseudonym}


def test_what_stays_of_an_erased_user_stays_under_one_pseudonym(shop: Engine, settings: Settings) -> None:
    name = erased(shop, settings, ANNE).pseudonym
    with reading(shop) as connection:
        entries = audit.entries(connection)
        said = predictions.feedback_on(connection, f"{2:032x}")
        begun = retrainings.latest(connection)[0]
    assert [one.who for one in entries if one.what in ("user.add", "experiment.start")] == [name, name]
    assert [one.user_name for one in said] == [name]
    assert begun.detail["collected"]["reviewers"] == {name: 2, "paul": 1}


def test_a_role_that_is_called_like_the_account_stays(shop: Engine, settings: Settings) -> None:
    erased(shop, settings, Subject(Kind.USER, "admin"))
    with reading(shop) as connection:
        assert [one.after for one in audit.entries(connection) if one.what == "user.add"] == [{"role": "admin"}]
        assert users.get(connection, "paul").role is Role.ADMIN


def test_an_erased_product_takes_what_was_said_of_it_along(shop: Engine, settings: Settings) -> None:
    report = erased(shop, settings, SKU)
    assert report.rows.erased == {"feedback": 2, "reviews": 2, "predictions": 2}
    assert "SKU 7" not in everything(shop)
    assert shown(shop, settings, Subject(Kind.PRODUCT, "SKU 8"))["predictions"]
    assert corrections(settings) == {2: "paul", 3: "anne"}


def test_an_erasure_is_in_the_audit_trail_without_the_name(shop: Engine, settings: Settings) -> None:
    report = erased(shop, settings, ANNE)
    with reading(shop) as connection:
        last = audit.entries(connection)[-1]
    assert (last.who, last.what, last.subject) == ("cli:root", "privacy.erase", ANNE.digest)
    assert last.after is not None
    assert last.after["erased"] == report.rows.erased


@pytest.mark.parametrize("subject", [ANNE, SKU], ids=["user", "product"])
def test_a_plan_says_what_goes_and_changes_nothing(shop: Engine, settings: Settings, subject: Subject) -> None:
    before = everything(shop)
    planned = plan(shop, settings, subject)
    assert not planned.done
    assert everything(shop) == before
    done = erased(shop, settings, subject)
    assert (planned.rows, planned.corrections, planned.batches) == (done.rows, done.corrections, done.batches)


def test_the_audit_trail_only_grows_after_an_erasure_as_before(shop: Engine, settings: Settings) -> None:
    erased(shop, settings, ANNE)
    for statement in ("UPDATE audit SET who = 'x'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="only grows"), writing(shop) as connection:
            connection.execute(text(statement))


def test_an_erasure_that_fails_leaves_everything_and_the_trail_guarded(
    shop: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(shop)
    monkeypatch.setattr("aisle.privacy.write_corrections", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        erased(shop, settings, ANNE)
    assert everything(shop) == before
    assert (settings.batches_path / BATCH).exists()
    with pytest.raises(DBAPIError, match="only grows"), writing(shop) as connection:
        connection.execute(text("DELETE FROM audit"))


def test_the_last_administrator_is_not_erased(shop: Engine, settings: Settings) -> None:
    erased(shop, settings, ANNE)
    erased(shop, settings, Subject(Kind.USER, "admin"))
    for way in (plan, erased):
        with pytest.raises(CheckFailed, match="last administrator"):
            way(shop, settings, PAUL)


def test_nothing_is_erased_while_a_retraining_works_on_the_corrections(shop: Engine, settings: Settings) -> None:
    with alone(settings.data_path / "retraining"), pytest.raises(CheckFailed, match="another process"):
        erased(shop, settings, ANNE)


def test_of_whom_nothing_is_kept_nothing_is_erased(shop: Engine, settings: Settings) -> None:
    nobody = plan(shop, settings, Subject(Kind.USER, "nobody"))
    assert (nobody.rows.erased, nobody.rows.renamed, nobody.corrections) == ({}, {}, 0)


def test_every_table_is_known_to_be_about_somebody_or_not() -> None:
    """Whoever adds a table or a column with a name in it says here whose it is."""
    known = {holding.table for holding in privacy.of_user("anne")}
    of_nobody = {"signing_keys"}
    assert {table.name for table in schema.metadata.sorted_tables} == {table.name for table in known} | of_nobody
    named = {
        (table.name, column.name)
        for table in schema.metadata.sorted_tables
        for column in table.c
        if isinstance(column.type, String) and not isinstance(column.type, Text)
        if column.name.endswith(("_by", "user_name", "who"))
    }
    covered = {(h.table.name, column) for h in privacy.of_user("anne") for column in h.columns}
    gone = {h.table.name for h in privacy.of_user("anne") if h.fate is privacy.Fate.ERASED}
    assert {(table, column) for table, column in named if table not in gone} <= covered
