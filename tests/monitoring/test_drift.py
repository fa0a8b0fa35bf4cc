"""`aisle drift`: what is served, as it was recorded, against the champion's reference."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from aisle.batch.table import product_rows, read_product_table
from aisle.catalog import Prediction
from aisle.cli.monitoring import drift
from aisle.data.images import open_given_images
from aisle.data.sample import write_sample
from aisle.errors import BundleError, CheckFailed, UsageError
from aisle.files import sha256_bytes, sha256_json
from aisle.model.bundle import MANIFEST_FILE, Bundle
from aisle.model.predictor import Predictor
from aisle.model.reference import REFERENCE_ARRAYS, REFERENCE_TABLE
from aisle.monitoring.drift import Look, look
from aisle.monitoring.stages import textfile
from aisle.registry.bundles import BundleStore
from aisle.settings import get_settings
from aisle.store import predictions
from aisle.store.engine import open_database, writing
from aisle.store.migrate import migrate
from aisle.store.predictions import Feedback, PredictionRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRODUCTS = 150


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of the same shop that no model has learnt from."""
    folder = tmp_path_factory.mktemp("elsewhere") / "raw"
    write_sample(folder, rows=PRODUCTS, seed=7)
    return folder


@pytest.fixture(scope="module")
def served(elsewhere: Path, predictor: Predictor) -> list[PredictionRecord]:
    """What the service records of these products, one a minute, the last one at `NOW`."""
    images = open_given_images(elsewhere)
    rows = list(product_rows(read_product_table(elsewhere / "X_train_update.csv", images=images), images))
    records = []
    for place, (row, outcome) in enumerate(zip(rows, predictor.predict([one.product for one in rows]), strict=True)):
        if isinstance(outcome, Prediction):
            image = row.product.image if outcome.image_error is None else None
            records.append(
                PredictionRecord(
                    id=f"{place:032x}",
                    created_at=NOW - timedelta(minutes=len(rows) - 1 - place),
                    user_name="shop",
                    input_hash=sha256_json([row.product.title, row.product.description, place]),
                    designation=row.product.title,
                    description=row.product.description,
                    image_hash=None if image is None else sha256_bytes(image),
                    predicted=outcome.type.code,
                    confidence=outcome.confidence,
                    top=[],
                    decision=outcome.decision.value,
                    model_version=outcome.model_version,
                    image_facts=None if outcome.image_traits is None else asdict(outcome.image_traits),
                )
            )
    return records


@pytest.fixture
def champion(bundle: Bundle) -> Bundle:
    store = BundleStore(get_settings().models_path)
    store.add(bundle)
    store.make_champion(bundle.version)
    return bundle


Record = Callable[[Sequence[PredictionRecord]], Engine]


@pytest.fixture
def record(champion: Bundle) -> Record:
    """Put records into the database of a shop with a champion."""
    assert champion

    def record(records: Sequence[PredictionRecord]) -> Engine:
        engine = open_database(get_settings().database_url)
        migrate(engine)
        with writing(engine) as connection:
            predictions.add(connection, records)
        return engine

    return record


def seen(**how: Any) -> Look:
    return look(get_settings(), **how)


def alarms(found: Look) -> set[str]:
    return {one.name for one in found.alarms}


def test_products_like_those_that_the_champion_was_measured_on_raise_no_alarm(
    record: Record, served: list[PredictionRecord]
) -> None:
    record(served)
    found = seen()
    assert found.drift.window_products == len(served)
    assert alarms(found) == set()


def test_descriptions_that_are_dropped_raise_an_alarm(record: Record, served: list[PredictionRecord]) -> None:
    record([replace(one, description="") for one in served])
    assert "description_missing" in alarms(seen())


def test_images_that_are_missing_raise_an_alarm(record: Record, served: list[PredictionRecord]) -> None:
    record([replace(one, image_hash=None, image_facts=None) for one in served])
    assert "image_missing" in alarms(seen())


def test_images_that_turn_grey_raise_an_alarm(record: Record, served: list[PredictionRecord]) -> None:
    record([replace(one, image_facts=one.image_facts and {**one.image_facts, "saturation": 0.0}) for one in served])
    assert "image_saturation" in alarms(seen())


def test_a_record_without_the_traits_of_its_image_is_not_taken_for_one_without_an_image(
    record: Record, served: list[PredictionRecord]
) -> None:
    """As an older version wrote them; what is known of the products is compared all the same."""
    record([replace(one, image_facts={"width": 3} if place % 2 else None) for place, one in enumerate(served)])
    assert alarms(seen()) == set()


def test_what_another_version_answered_is_left_out(record: Record, served: list[PredictionRecord]) -> None:
    record([*served, *(replace(one, id=f"x{one.id[1:]}", model_version="another", description="") for one in served)])
    found = seen()
    assert found.drift.window_products == len(served)
    assert alarms(found) == set()


def test_a_product_that_was_sent_again_counts_once(record: Record, served: list[PredictionRecord]) -> None:
    record([*served, *(replace(served[0], id=f"{place:032x}") for place in range(1000, 1200))])
    assert seen().drift.window_products == len(served)


def test_a_product_that_the_shop_sent_with_other_texts_counts_as_it_is_now(
    record: Record, served: list[PredictionRecord]
) -> None:
    first = [
        replace(one, id=f"x{one.id[1:]}", created_at=one.created_at - timedelta(days=1), product_key=str(place),
                designation="", input_hash=one.input_hash[::-1])
        for place, one in enumerate(served)
    ]  # fmt: skip
    record([*first, *(replace(one, product_key=str(place)) for place, one in enumerate(served))])
    titles = sorted(one.title for one in seen().window.products)
    assert titles == sorted(one.designation for one in served)


def test_the_window_holds_the_last_products(record: Record, served: list[PredictionRecord]) -> None:
    record(served)
    found = seen(count=110)
    assert found.drift.window_products == 110
    assert found.window.last_at == max(one.created_at for one in served)
    assert found.window.first_at == sorted(one.created_at for one in served)[-110]


def test_what_was_served_before_a_moment_is_left_out(record: Record, served: list[PredictionRecord]) -> None:
    record(served)
    assert seen(since=NOW - timedelta(minutes=9, seconds=30)).drift.window_products == 10


def test_a_window_that_is_too_small_is_said(record: Record, served: list[PredictionRecord]) -> None:
    record(served[:30])
    found = seen()
    assert "only 30 products" in found.drift.too_few
    assert not found.detected


def test_before_anything_was_served_there_is_no_drift(record: Record) -> None:
    record([])
    found = seen()
    assert "only 0 products" in found.drift.too_few
    assert (found.detected, found.labelled, found.estimate) == (False, None, None)


def test_the_last_word_of_people_counts(record: Record, served: list[PredictionRecord]) -> None:
    engine = record(served)
    with writing(engine) as connection:
        for one in served[:20]:
            predictions.add_feedback(connection, Feedback(one.id, NOW, "anne", "wrong"))
            predictions.add_feedback(connection, Feedback(one.id, NOW, "marc", one.predicted))
        predictions.add_feedback(connection, Feedback(served[20].id, NOW, "anne", "wrong"))
    labelled = seen().labelled
    assert labelled is not None
    assert sum(labelled.labels.values()) == 21
    first = min(one.created_at for one in served[:21])
    assert sum(labelled.predictions.values()) == sum(one.created_at >= first for one in served)


def test_labels_of_another_version_are_left_out(record: Record, served: list[PredictionRecord]) -> None:
    other = replace(served[0], id="f" * 32, model_version="another")
    with writing(record([*served, other])) as connection:
        predictions.add_feedback(connection, Feedback(other.id, NOW, "anne", "10"))
    assert seen().labelled is None


def test_a_table_is_compared_with_its_images(champion: Bundle, elsewhere: Path) -> None:
    assert champion
    found = seen(table=elsewhere / "X_train_update.csv", images=elsewhere)
    assert alarms(found) == set()
    assert {one.group for one in found.drift.features} == {"text", "image", "predictions"}


def test_of_a_table_without_images_only_the_texts_are_compared(champion: Bundle, elsewhere: Path) -> None:
    assert champion
    found = seen(table=elsewhere / "X_train_update.csv", count=120)
    assert found.drift.window_products == 120
    assert {one.group for one in found.drift.features} == {"text"}


def test_a_bundle_without_a_reference_still_predicts_and_asks_to_be_trained_again(
    bundle: Bundle, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    kept = {name: content for name, content in bundle.contents.items() if not name.startswith("reference")}
    assert set(bundle.contents) - set(kept) == {REFERENCE_TABLE, REFERENCE_ARRAYS}
    for name, content in kept.items():
        (old / name).write_bytes(content)
    sums = {name: sha256_bytes(content) for name, content in kept.items()}
    manifest = {"format": 2, "version": sha256_json(sums)[:12], "files": sums}
    (old / MANIFEST_FILE).write_text(json.dumps(manifest))
    with Predictor(Bundle.load(old), threads=1) as predictor:
        assert predictor.version == manifest["version"]
    with pytest.raises(BundleError, match=r"has no reference .* Train again"):
        seen(model=str(old))


# The verb


Verb = Callable[..., dict[str, Any]]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    def verb(*words: str) -> dict[str, Any]:
        drift.main([*words, "--json"], standalone_mode=False)
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return verb


def told() -> dict[str, float]:
    """The figures of the last look, by name and labels."""
    text = textfile("drift", get_settings()).read_text()
    return {
        f"{one.name}{sorted(one.labels.items()) if one.labels else ''}": one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_drift_that_is_found_is_no_failure_of_the_verb(
    verb: Verb, record: Record, served: list[PredictionRecord]
) -> None:
    record([replace(one, description="") for one in served])
    found = verb()
    assert found["detected"]
    assert "description_missing" in found["alarms"]


def test_drift_that_is_found_fails_where_that_is_asked_for(
    verb: Verb, record: Record, served: list[PredictionRecord]
) -> None:
    record([replace(one, description="") for one in served])
    with pytest.raises(CheckFailed, match=r"drift in .*description_missing"):
        verb("--fail-on-drift")
    assert told()["aisle_drift_detected"] == 1


def test_prometheus_is_told_of_every_feature(
    verb: Verb, record: Record, served: list[PredictionRecord], bundle: Bundle
) -> None:
    record([replace(one, description="") for one in served])
    found, figures = verb(), told()
    for one in found["features"]:
        labels = [("feature", one["name"])]
        assert figures[f"aisle_drift_effect{labels}"] == one["effect"]
        assert figures[f"aisle_drift_p_value{labels}"] == one["adjusted_p_value"]
        assert figures[f"aisle_drift_alarm{labels}"] == one["alarm"]
    assert figures["aisle_drift_window_products"] == len(served)
    model = [("model", bundle.version)]
    assert figures[f"aisle_estimated_accuracy{model}"] == found["estimated_accuracy"]["value"]
    assert figures[f"aisle_reference_accuracy{model}"] == found["reference_accuracy"]
    assert figures[f"aisle_feedback_labels{model}"] == 0


def test_prometheus_is_told_what_people_said(
    verb: Verb, record: Record, served: list[PredictionRecord], bundle: Bundle
) -> None:
    with writing(record(served)) as connection:
        for one in served[:40]:
            predictions.add_feedback(connection, Feedback(one.id, NOW, "anne", one.predicted))
    found, figures = verb(), told()
    for name in ("accuracy", "weighted_f1"):
        for bound, value in found["labels"][name].items():
            assert figures[f"aisle_feedback_{name}{[('bound', bound), ('model', bundle.version)]}"] == value
    error = figures[f"aisle_feedback_calibration_error{[('model', bundle.version)]}"]
    assert error == found["labels"]["calibration_error"]


def test_an_alarm_ends_when_a_new_champion_has_served_too_little_to_compare(
    verb: Verb, record: Record, served: list[PredictionRecord], bundle: Bundle
) -> None:
    record([replace(one, description="") for one in served])
    verb()
    feature = [("feature", "description_missing")]
    assert told()[f"aisle_drift_alarm{feature}"] == 1
    verb("--since", (NOW - timedelta(minutes=5)).isoformat())
    figures = told()
    assert (figures["aisle_drift_detected"], figures[f"aisle_drift_alarm{feature}"]) == (0, 0)
    assert math.isnan(figures[f"aisle_drift_effect{feature}"])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--since", "yesterday"], "takes a time like"),
        (["--input", "a.csv", "--since", "2026-01-01"], "a table has no times"),
        (["--images", "images.zip"], "belongs to --input"),
    ],
)
def test_options_that_do_not_fit_are_wrong_use(verb: Verb, words: list[str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        verb(*words)
