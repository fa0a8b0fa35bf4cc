"""Who becomes champion, by whom and why, is one function's: for a promotion by hand, a training and a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from structlog.testing import capture_logs

from aisle.data.prepare import Prepared
from aisle.errors import CheckFailed, UsageError
from aisle.files import read_json, sha256_bytes, sha256_json, write_json
from aisle.model.bundle import CARD_FILE, MANIFEST_FILE, Bundle
from aisle.pipeline import run_all, train_bundle
from aisle.registry.bundles import BundleStore
from aisle.registry.gate import Criterion, Limits, Verdict, judge
from aisle.registry.promotion import THE_FIRST, VERDICT_FILE, promote, roll_back
from aisle.settings import Settings
from aisle.store.audit import Entry, entries
from aisle.store.engine import open_database, reading
from aisle.training.behaviour import Behaviour
from aisle.training.evaluate import Evaluation
from aisle.training.recipes import light


def another(bundle: Bundle, folder: Path) -> Bundle:
    """The same model as another version: its card is written differently."""
    shutil.copytree(bundle.path, folder)
    card = f"# {folder.name}\n".encode()
    (folder / CARD_FILE).write_bytes(card)
    files = read_json(folder / MANIFEST_FILE)["files"] | {CARD_FILE: sha256_bytes(card)}
    manifest = read_json(folder / MANIFEST_FILE)
    write_json(folder / MANIFEST_FILE, manifest | {"files": files, "version": sha256_json(files)[:12]})
    return Bundle.load(folder)


@pytest.fixture
def settings(sample: Path, cache: Path, tmp_path: Path) -> Settings:
    """Of a shop with a catalogue and nothing else."""
    shutil.copytree(sample, tmp_path / "data" / "raw")
    return Settings(data_path=tmp_path / "data", models_path=tmp_path / "models", cache_path=cache)


@pytest.fixture
def champion(settings: Settings, bundle: Bundle, tmp_path: Path) -> str:
    """Of a shop that has a model already."""
    store = BundleStore(settings.models_path)
    version = another(bundle, tmp_path / "champion").version
    store.add(Bundle.load(tmp_path / "champion"))
    store.make_champion(version)
    return version


def lenient(challenger: Evaluation, champion: Evaluation | None, behaviours: Sequence[Behaviour]) -> Verdict:
    """The gate with budgets that a small sample and a slow machine keep."""
    return judge(challenger, champion, behaviours, Limits(worse=1, type_fall=1, calibration_error=1, latency_ms=1e6))


def severe(challenger: Evaluation, champion: Evaluation | None, behaviours: Sequence[Behaviour]) -> Verdict:
    return judge(challenger, champion, behaviours, Limits(latency_ms=0))


def trail(settings: Settings) -> list[Entry]:
    with reading(open_database(settings.database_url)) as connection:
        return entries(connection)


@pytest.mark.slow
def test_a_run_promotes_with_a_verdict_a_report_and_an_entry(
    settings: Settings, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aisle.measuring.judge", lenient)
    version = run_all(light(), "", settings, who="anne").version
    assert BundleStore(settings.models_path).serving().champion == version != champion
    report = read_json(settings.reports_path / version / VERDICT_FILE)
    assert (report["challenger"], report["champion"], report["passed"]) == (version, champion, True)
    [entry] = trail(settings)
    assert (entry.who, entry.what, entry.subject) == ("anne", "model.promote", version)
    assert (entry.before, entry.after) == (
        {"champion": champion},
        {"champion": version, "forced": None, "gate": report},
    )


@pytest.mark.slow
def test_a_run_whose_model_is_refused_writes_the_verdict_and_goes_on_with_the_champion(
    settings: Settings, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aisle.measuring.judge", severe)
    with capture_logs() as logs:
        assert run_all(light(), "", settings, who="anne").version == champion
    [refused] = [one for one in logs if one["event"] == "not promoted, the champion stays"]
    assert "latency" in refused["reason"]
    assert not read_json(settings.reports_path / refused["version"] / VERDICT_FILE)["passed"]
    [entry] = trail(settings)
    assert (entry.who, entry.what, entry.subject) == ("anne", "model.promote.refuse", refused["version"])
    assert "latency" in (entry.after or {})["reason"]


@pytest.mark.slow
def test_a_run_does_not_promote_again_what_was_rolled_back(
    settings: Settings, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aisle.measuring.judge", lenient)
    version = run_all(light(), "", settings, who="anne").version
    assert roll_back(settings, who="bob") == (version, champion)
    with capture_logs() as logs:
        assert run_all(light(), "", settings, who="anne").version == champion
    [said] = [one for one in logs if one["event"] == "it was rolled back before, the champion stays"]
    assert f"`aisle registry promote {version}`" in said["hint"]
    promote(Bundle.load(settings.models_path / version), settings, who="bob", reason="it was right after all")
    assert run_all(light(), "", settings, who="anne").version == version
    assert [(one.who, one.what) for one in trail(settings)] == [
        ("anne", "model.promote"),
        ("bob", "model.rollback"),
        ("bob", "model.promote"),
    ]


def test_the_first_champion_of_a_store_is_in_the_trail_with_its_reason(
    settings: Settings, prepared: Prepared
) -> None:
    version = train_bundle(light(), prepared.folder, settings, who="anne").bundle.version
    [entry] = trail(settings)
    assert (entry.who, entry.what, entry.before) == ("anne", "model.promote", {"champion": None})
    assert entry.after == {"champion": version, "forced": THE_FIRST, "gate": None}


def test_the_first_of_a_store_serves_whatever_the_gate_says_of_it(settings: Settings, bundle: Bundle) -> None:
    refused = Verdict(bundle.version, None, 1, (Criterion("latency", False, "too slow"),))
    done = promote(bundle, settings, who="anne", judge=lambda _: refused)
    assert (done.champion, done.forced, done.gate) == (bundle.version, THE_FIRST, refused.as_dict())
    with pytest.raises(CheckFailed, match="too slow"):  # the next one has to be good
        promote(bundle, settings, who="anne", judge=lambda _: refused)


def test_a_promotion_has_a_verdict_or_a_reason(settings: Settings, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="needs a reason"):
        promote(bundle, settings, who="anne")
    assert BundleStore(settings.models_path).versions() == []


PROMOTE = """
import sys
from pathlib import Path
from aisle.errors import CheckFailed
from aisle.model.bundle import Bundle
from aisle.registry.gate import Verdict
from aisle.registry.promotion import promote
from aisle.settings import get_settings

def judge(bundle):
    print("measured", flush=True)
    sys.stdin.readline()
    return Verdict(bundle.version, None, 1, ())

try:
    print("champion:", promote(Bundle.load(Path(sys.argv[1])), get_settings(), who="anne", judge=judge).champion)
except CheckFailed as told:
    print("told:", told)
"""


@contextmanager
def promoting(bundle: Bundle, settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A process that promotes a bundle, as soon as it is sent a line."""
    environment = os.environ | {"MODELS_PATH": str(settings.models_path), "DATA_PATH": str(settings.data_path)}
    command = [sys.executable, "-c", PROMOTE, str(bundle.path)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


@pytest.mark.parametrize("there_is_one", [False, True], ids=["the first of a store", "after another"])
def test_of_two_processes_that_promote_at_once_one_wins_and_the_other_is_told(
    settings: Settings, bundle: Bundle, tmp_path: Path, request: pytest.FixtureRequest, there_is_one: bool
) -> None:
    before = request.getfixturevalue("champion") if there_is_one else None
    both = [another(bundle, tmp_path / name) for name in ("one", "other")]
    with promoting(both[0], settings) as one, promoting(both[1], settings) as other:
        assert [line_of(process.stdout) for process in (one, other)] == ["measured\n"] * 2
        said = [process.communicate("\n")[0] for process in (one, other)]
    serving = BundleStore(settings.models_path).serving()
    assert said[0] == f"champion: {both[0].version}\n"
    wanted = f"replace {before}" if before else "be the first champion"
    assert f"told: {both[1].version} was to {wanted}, but {both[0].version} is the champion by now" in said[1]
    assert serving.champion == both[0].version
    assert [(one.what, one.subject) for one in trail(settings)] == [
        ("model.promote", both[0].version),
        ("model.promote.refuse", both[1].version),
    ]


def test_the_pointer_says_who_was_rolled_back_until_somebody_promotes_it(
    settings: Settings, champion: str, bundle: Bundle
) -> None:
    promote(bundle, settings, who="anne", reason="newer")
    roll_back(settings, who="anne")
    store = BundleStore(settings.models_path)
    assert store.serving().rolled_back == (bundle.version,)
    promote(bundle, settings, who="anne", reason="newer, and mended")
    assert store.serving().rolled_back == ()


def test_a_pointer_of_before_there_were_rollbacks_is_read(settings: Settings, champion: str) -> None:
    path = settings.models_path / "serving.json"
    path.write_text(json.dumps({"champion": champion, "challenger": None, "before": []}))
    assert BundleStore(settings.models_path).serving().rolled_back == ()
