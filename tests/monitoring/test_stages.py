"""What a verb tells of its work: as a file for node exporter, or to a Pushgateway."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.servers import free_port, node_exporter, pushgateway

from aisle.cli.catalogue import import_, prepare, validate
from aisle.cli.models import evaluate, predict
from aisle.data.prepare import Prepared
from aisle.errors import CatalogError
from aisle.logs import setup_logging
from aisle.model.bundle import Bundle
from aisle.monitoring.stages import STAGES, Stage, stage, textfile
from aisle.pipeline import train_bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings, get_settings
from aisle.training.recipes import light

MORNING = datetime(2026, 11, 25, 6, tzinfo=UTC)
SUCCESS, FAILURE = "aisle_stage_last_success_timestamp_seconds", "aisle_stage_last_failure_timestamp_seconds"
DURATION = "aisle_stage_duration_seconds"

Told = dict[str, float]
Read = Callable[[Stage], Told]


class WallClock:
    """Each look at it is a minute later."""

    def __init__(self) -> None:
        self.time = MORNING

    def __call__(self) -> datetime:
        self.time += timedelta(minutes=1)
        return self.time


@pytest.fixture
def settings() -> Settings:
    return get_settings()


def read(text: str) -> Told:
    """Each sample of ours; its name with its labels in braces, in their order, is the key."""
    return {
        name(sample.name, **{key: sample.labels[key] for key in sorted(sample.labels) if key not in GATEWAYS_OWN}):
            sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("aisle_")
    }  # fmt: skip


GATEWAYS_OWN = ("job", "verb", "instance")


def name(metric: str, /, **labels: str) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{metric}{{{inside}}}" if inside else metric


def told(stage: Stage) -> Told:
    return read(textfile(stage, get_settings()).read_text())


@pytest.fixture(params=["textfile", pytest.param("pushgateway", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Settings, Read]]:
    """Settings that tell in one of the two ways, and who reads what was told."""
    if request.param == "textfile":
        yield get_settings(), told
        return
    with pushgateway(tmp_path / "pushgateway") as url:
        yield (
            get_settings().model_copy(update={"pushgateway_url": url}),
            lambda _: read(httpx.get(f"{url}/metrics").text),
        )


def fail(name: Stage, settings: Settings, error: BaseException, **more: Any) -> None:
    with pytest.raises(type(error)) as raised, stage(name, settings, **more):
        raise error
    assert raised.value is error


def test_a_stage_tells_when_it_succeeded_how_long_it_took_and_its_figures(place: tuple[Settings, Read]) -> None:
    settings, read = place
    with stage("drift", settings, clock=WallClock()) as figures:
        figures.set("aisle_drift_effect", 0.5, "An effect.", feature='the "title"')
        figures.set("aisle_drift_effect", 0.2, "An effect.", feature='the "title"')
        figures.set("aisle_drift_effect", 0.1, "An effect.", feature="language")
        figures.set("aisle_drift_detected", 0, "Whether there is any.")
    ended = (MORNING + timedelta(minutes=3)).timestamp()
    assert read("drift") == {
        'aisle_drift_effect{feature="the "title""}': 0.2,
        'aisle_drift_effect{feature="language"}': 0.1,
        "aisle_drift_detected": 0,
        name(SUCCESS, stage="drift"): ended,
        name(DURATION, stage="drift"): 60,
    }


def test_a_failure_leaves_the_last_success_known_and_the_other_way_round(place: tuple[Settings, Read]) -> None:
    settings, read = place
    clock = WallClock()
    with stage("train", settings, clock=clock):
        pass
    first = read("train")
    fail("train", settings, CatalogError("no rows"), clock=clock)
    failed = read("train")
    assert failed[name(SUCCESS, stage="train")] == first[name(SUCCESS, stage="train")]
    with stage("train", settings, clock=clock):
        pass
    last = read("train")
    assert last[name(FAILURE, stage="train")] == failed[name(FAILURE, stage="train")]
    assert last[name(SUCCESS, stage="train")] > first[name(SUCCESS, stage="train")]


def test_figures_of_a_stage_that_failed_are_told(place: tuple[Settings, Read]) -> None:
    settings, read = place
    with pytest.raises(CatalogError), stage("validate", settings) as figures:
        figures.set("aisle_catalogue_rows", 7, "Rows.", kind="quarantined")
        raise CatalogError("too many of them")
    assert read("validate")[name("aisle_catalogue_rows", kind="quarantined")] == 7


def test_a_name_that_is_told_again_has_none_of_its_earlier_values(place: tuple[Settings, Read]) -> None:
    settings, read = place
    for model in ("aaa", "bbb"):
        with stage("train", settings) as figures:
            figures.set("aisle_training_figure", 0.9, "A figure.", model=model)
    assert [one for one in read("train") if "training_figure" in one] == [name("aisle_training_figure", model="bbb")]


def test_a_figure_may_have_a_label_stage_of_its_own(place: tuple[Settings, Read]) -> None:
    settings, read = place
    with stage("retrain", settings) as figures:
        for one in ("training", "shadow"):
            figures.set("aisle_retraining_stage", one == "shadow", "Where it is.", stage=one)
    found = read("retrain")
    assert found[name("aisle_retraining_stage", stage="shadow")] == 1
    assert found[name("aisle_retraining_stage", stage="training")] == 0


def test_stages_do_not_touch_each_others_figures(place: tuple[Settings, Read]) -> None:
    settings, read = place
    for one in STAGES:
        with stage(one, settings):
            pass
    for one in STAGES:
        assert name(SUCCESS, stage=one) in read(one)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)], ids=lambda one: type(one).__name__)
def test_who_stops_a_stage_by_hand_has_seen_no_failure(settings: Settings, error: BaseException) -> None:
    fail("train", settings, error)
    assert not textfile("train", settings).exists()


def test_a_spoilt_file_is_written_anew(settings: Settings) -> None:
    file = textfile("train", settings)
    file.parent.mkdir(parents=True)
    file.write_text("no figures { at all")
    with stage("train", settings):
        pass
    assert name(SUCCESS, stage="train") in told("train")


def lead_astray(settings: Settings) -> Settings:
    """Make the folder of the figures one that cannot be written to."""
    settings.data_path.mkdir(parents=True)
    (settings.data_path / "metrics").write_text("a file")
    return settings


def send_nowhere(settings: Settings) -> Settings:
    return settings.model_copy(update={"pushgateway_url": f"http://127.0.0.1:{free_port()}"})


@pytest.mark.parametrize("harm", [lead_astray, send_nowhere], ids=["disk", "pushgateway"])
def test_figures_that_reach_nobody_are_one_warning_and_no_failure(
    settings: Settings, harm: Callable[[Settings], Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(None, settings.logs_path)
    harmed = harm(settings)
    with stage("train", harmed):
        pass
    logging.shutdown()
    [line] = capsys.readouterr().err.splitlines()
    assert "figures not told" in line
    assert "stage=train" in line
    fail("train", harmed, CatalogError("no rows"))


@pytest.mark.slow
def test_node_exporter_hands_on_the_files_of_all_stages(settings: Settings, tmp_path: Path) -> None:
    for one in STAGES:
        with stage(one, settings) as figures:
            figures.set("aisle_training_figure", 0.9, "A figure.", model=one)
        fail(one, settings, CatalogError("no rows"))
    with node_exporter(tmp_path / "node", settings.data_path / "metrics") as url:
        page = httpx.get(f"{url}/metrics").text
    found = read(page)
    assert "node_textfile_scrape_error 0" in page
    for one in STAGES:
        assert {name(metric, stage=one) for metric in (SUCCESS, FAILURE, DURATION)} <= found.keys()


def call(verb: Any, *words: str | Path) -> None:
    verb.main([str(word) for word in words], standalone_mode=False)


def test_import_validate_and_prepare_tell_their_stage_and_the_rows_of_the_catalogue() -> None:
    call(import_, "--source", "sample", "--rows", "540")
    call(validate)
    call(prepare)
    for one in ("import", "validate", "prepare"):
        found = told(one)
        assert name(SUCCESS, stage=one) in found
        assert name(FAILURE, stage=one) not in found
    rows = [told("validate")[name("aisle_catalogue_rows", kind=kind)] for kind in ("read", "accepted", "quarantined")]
    assert rows == [540, 538, 2]


def test_a_catalogue_that_is_refused_tells_how_many_of_its_rows_are_bad(sample: Path) -> None:
    with pytest.raises(CatalogError):
        call(validate, "--data", sample, "--max-bad", "0")
    found = told("validate")
    assert found[name("aisle_catalogue_rows", kind="quarantined")] == 2
    assert name(FAILURE, stage="validate") in found
    assert name(SUCCESS, stage="validate") not in found


def test_training_tells_what_the_bundle_reaches(bundle: Bundle, prepared: Prepared, settings: Settings) -> None:
    BundleStore(settings.models_path).add(bundle)  # which is found to be of the same lineage
    trained = train_bundle(light(), prepared.folder, settings, who="anne").bundle
    found, measured = told("train"), trained.json("metrics.json")["all"]
    for one in ("accuracy", "weighted_f1", "macro_f1", "calibration_error"):
        assert found[name("aisle_training_figure", figure=one, model=trained.version)] == measured[one]
    assert name(SUCCESS, stage="train") in found


def test_training_on_a_raw_catalogue_is_told_as_the_stages_before_it_as_well(
    sample: Path, bundle: Bundle, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> Bundle:
        raise CatalogError("nothing to learn")

    monkeypatch.setattr("aisle.pipeline.train", refused)
    with pytest.raises(CatalogError):
        train_bundle(light(), sample, settings, who="anne")
    assert told("validate")[name("aisle_catalogue_rows", kind="read")] == 540
    assert name(SUCCESS, stage="prepare") in told("prepare")
    assert name(FAILURE, stage="train") in told("train")


def test_evaluate_and_predict_tell_their_stage(
    bundle: Bundle, prepared: Prepared, settings: Settings, sample: Path, tmp_path: Path
) -> None:
    call(evaluate, "--model", bundle.path, "--data", prepared.folder)
    call(predict, sample / "X_test_update.csv", "--model", bundle.path, "--output", tmp_path / "out.csv")
    assert name(SUCCESS, stage="evaluate") in told("evaluate")
    assert name(SUCCESS, stage="predict") in told("predict")
