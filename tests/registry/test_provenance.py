"""`aisle lineage`: what is behind a prediction, and what is said of a part that is gone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from tests.store.test_records import RECORD

from aisle.clock import utc_now
from aisle.data.prepare import Prepared
from aisle.errors import CheckFailed, InputError
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.registry.promotion import promote
from aisle.settings import get_settings
from aisle.store import experiments, predictions, retrainings
from aisle.store.engine import open_database, writing
from aisle.store.experiments import Kind
from aisle.store.predictions import Feedback, PredictionRecord
from aisle.store.retrainings import Cause, Stage

Lineage = Callable[[str], dict[str, Any]]


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    """Of a shop whose champion was promoted for a reason."""
    promote(bundle, get_settings(), who="rita", reason="the first", note="as asked")
    engine = open_database(get_settings().database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def lineage(capsys: pytest.CaptureFixture[str]) -> Lineage:
    from aisle.cli.evidence import lineage as verb

    def ask(wanted: str) -> dict[str, Any]:
        capsys.readouterr()
        try:
            verb.main([wanted, "--json"], standalone_mode=False)
        finally:
            printed = capsys.readouterr().out
            ask.printed = json.loads(printed) if printed else {}  # type: ignore[attr-defined]
        return ask.printed  # type: ignore[attr-defined,no-any-return]

    return ask


def recorded(engine: Engine, version: str, **more: Any) -> PredictionRecord:
    facts: dict[str, Any] = {"created_at": utc_now(), "model_version": version, **more}
    record = replace(RECORD, **facts)
    with writing(engine) as connection:
        predictions.add(connection, [record])
    return record


def test_a_prediction_leads_to_its_model_its_data_its_code_and_who_promoted_it(
    engine: Engine, bundle: Bundle, lineage: Lineage
) -> None:
    recorded(engine, bundle.version, product_key="SKU 7")
    found = lineage(RECORD.id)
    assert found["prediction"]["product_key"] == "SKU 7"
    assert found["model"]["version"] == bundle.version
    assert found["model"]["lineage"] == bundle.json("lineage.json")
    assert found["data"]["data_hash"] == bundle.json("lineage.json")["data_hash"]
    by = found["champion_by"]
    assert (by["who"], by["what"], by["forced"], by["note"]) == ("rita", "model.promote", "the first", "as asked")
    assert found["missing"] == []


def test_no_text_of_the_product_is_shown(engine: Engine, bundle: Bundle, lineage: Lineage) -> None:
    recorded(engine, bundle.version)
    assert RECORD.designation not in json.dumps(lineage(RECORD.id), ensure_ascii=False)


def test_an_experiment_and_what_people_said_are_part_of_it(engine: Engine, bundle: Bundle, lineage: Lineage) -> None:
    with writing(engine) as connection:
        begun = experiments.start(
            connection, kind=Kind.CANARY, champion="v0", challenger=bundle.version, share=0.1, rules={}, who="rita",
            at=utc_now(),
        )  # fmt: skip
    recorded(engine, bundle.version, experiment_id=begun.id, arm="challenger")
    with writing(engine) as connection:
        predictions.add_feedback(connection, Feedback(RECORD.id, utc_now(), "anne", "1281"))
    found = lineage(RECORD.id)
    assert (found["experiment"]["kind"], found["experiment"]["arm"]) == ("canary", "challenger")
    assert [(one["user_name"], one["type_code"]) for one in found["feedback"]] == [("anne", "1281")]
    assert found["champion_by"] is None


def test_an_answer_from_before_its_promotion_is_not_put_down_to_it(
    engine: Engine, bundle: Bundle, lineage: Lineage
) -> None:
    recorded(engine, bundle.version, created_at=utc_now() - timedelta(days=1))
    assert lineage(RECORD.id)["champion_by"] is None


def test_a_retrained_model_names_the_version_of_its_corrections(
    engine: Engine, bundle: Bundle, lineage: Lineage
) -> None:
    detail = {"version": bundle.version, "base": "raw", "data_version": {"corrections": "0", "note": "outs: …"}}
    with writing(engine) as connection:
        begun = retrainings.begin(connection, Cause.HAND, asked_by="rita", at=utc_now(), detail={})
        retrainings.move(connection, begun, Stage.DONE, at=utc_now(), detail=detail)
    data = lineage(bundle.version)["data"]
    assert (data["retraining"], data["dvc"]) == (begun.id, "outs: …")


def test_a_catalogue_that_dvc_keeps_is_named_by_its_sum_and_commit(
    engine: Engine, bundle: Bundle, prepared: Prepared, lineage: Lineage
) -> None:
    root = get_settings().data_path.absolute().parent
    shutil.copytree(prepared.folder, root / "data" / "preprocessed")
    lock = {"schema": "2.0", "stages": {"import": {"outs": [{"path": "data/raw", "md5": "abc.dir"}]}}}
    (root / "dvc.lock").write_text(json.dumps(lock))  # which is YAML, too
    for words in ("init -q", "add dvc.lock", "-c user.name=a -c user.email=b commit -qm c"):
        subprocess.run(["git", *words.split()], cwd=root, check=True)
    dvc = lineage(bundle.version)["data"]["dvc"]
    assert (dvc["path"], dvc["md5"]) == ("data/raw", "abc.dir")
    assert len(dvc["commit"]) == 40


def test_a_bundle_that_is_gone_is_said_to_be_and_the_rest_is_shown(
    engine: Engine, bundle: Bundle, lineage: Lineage
) -> None:
    recorded(engine, bundle.version)
    shutil.rmtree(BundleStore(get_settings().models_path).root / bundle.version)
    with pytest.raises(CheckFailed, match=f"the bundle of {bundle.version} is gone"):
        lineage(RECORD.id)
    shown = lineage.printed  # type: ignore[attr-defined]
    assert (shown["champion_by"]["who"], shown["data"]) == ("rita", None)


def test_a_prediction_that_is_not_there_any_more_is_said_to_be_forgotten(engine: Engine, lineage: Lineage) -> None:
    with pytest.raises(InputError, match="no prediction") as refused:
        lineage("f" * 32)
    assert "PREDICTIONS_KEEP_DAYS" in str(refused.value)


def test_people_are_told_in_lines(engine: Engine, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    from aisle.cli.evidence import lineage

    recorded(engine, bundle.version, product_key="SKU\x1b[31m")
    lineage.main([RECORD.id], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "by rita; reason: the first; note: as asked; gave this answer as champion by that" in printed
    assert "\x1b" not in printed
