"""Where a prediction comes from: its record, the model behind it, what that learnt from, and who let it serve.

Each part is found where it is kept: the record and what people said in the database, the lineage in the bundle, who
promoted it in the audit trail, the catalogue's version with a retraining or in `dvc.lock`. What is gone is named.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from aisle.data.prepare import Prepared
from aisle.errors import BundleError, InputError
from aisle.files import read_json
from aisle.model.bundle import LINEAGE_FILE, METRICS_FILE, MODEL_FILE, RUN_FILE, Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.store import audit, experiments, predictions, retrainings
from aisle.store.audit import Entry
from aisle.store.engine import reading
from aisle.store.experiments import Arm
from aisle.store.predictions import PredictionRecord

REGISTER = "model.register"
RELEASES = (REGISTER, "model.promote", "model.rollback")
LOCK = "dvc.lock"
CATALOGUE = "data/raw"
MOST = 1000
"""So many retrainings are looked through, the newest first."""


def trace(engine: Engine, settings: Settings, wanted: str) -> dict[str, Any]:
    """All that is known of the prediction `wanted`, or of a version of a model, which is what bulk results name.

    `missing` has a sentence for each part that is gone. Raises InputError where neither is known.
    """
    store = BundleStore(settings.models_path)
    with reading(engine) as connection:
        record = predictions.find(connection, wanted)
        if record is None and wanted not in store.versions():
            raise InputError(
                f"no prediction and no model is known as {wanted!r}",
                hint=f"A prediction is forgotten after PREDICTIONS_KEEP_DAYS, {settings.predictions_keep_days} days, "
                "or when its user or its product is erased.",
            )
        version = wanted if record is None else record.model_version
        model, missing = _model(store, version)
        found = {
            "prediction": record and _said(record),
            "model": {"version": version, **model},
            "data": _data(connection, settings, version, model),
            "releases": (releases := [_release(entry) for entry in _releases(connection, version)]),
            "champion_by": _champion_by(releases, record),
            "experiment": record and _experiment(connection, record),
            "feedback": _feedback(connection, record) if record else [],
        }
    return {**found, "missing": missing}


def _said(record: PredictionRecord) -> dict[str, Any]:
    """Without the texts: whoever may see those asks for the record itself."""
    names = (
        "id", "created_at", "user_name", "product_key", "input_hash", "image_hash", "predicted", "confidence",
        "decision", "top", "seconds",
    )  # fmt: skip
    return {name: getattr(record, name) for name in names}


def _model(store: BundleStore, version: str) -> tuple[dict[str, Any], list[str]]:
    folder = store.root / version
    try:
        bundle = Bundle.load(folder)
    except BundleError as error:
        return {}, [f"the bundle of {version} is gone or damaged ({error}): what it learnt from is not known"]
    of_all = bundle.json(METRICS_FILE).get("all", {})
    measured = {name: of_all[name] for name in ("rows", "accuracy", "weighted_f1") if name in of_all}
    return {
        "recipe": bundle.json(MODEL_FILE)["recipe"],
        "measured": measured,
        "trained": _run(folder / RUN_FILE),
        "lineage": bundle.json(LINEAGE_FILE),
    }, []


def _run(file: Path) -> dict[str, Any]:
    """When and by whom it was trained; this file stands beside the sums and may be lost."""
    try:
        run = read_json(file)
    except (OSError, ValueError):
        return {}
    return {name: run.get(name) for name in ("began", "source")}


def _data(
    connection: Connection, settings: Settings, version: str, model: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The sum of what it learnt from, and which version of the catalogue that is, where somebody kept it."""
    if not model:
        return None
    data_hash = model["lineage"]["data_hash"]
    of_it = (one for one in retrainings.latest(connection, MOST) if one.detail.get("version") == version)
    retraining = next(of_it, None)
    if retraining is not None:
        kept = retraining.detail.get("data_version") or {}
        known = {"retraining": retraining.id, "base": retraining.detail.get("base"), "dvc": kept.get("note")}
    else:
        known = {"retraining": None, "base": None, "dvc": _locked(settings.data_path, data_hash)}
    return {"data_hash": data_hash, **known}


def _locked(data: Path, data_hash: str) -> dict[str, Any] | None:
    """What `dvc.lock` says of the catalogue, if that is the one that was learnt from; else None."""
    root = next((one for one in data.resolve().parents if (one / LOCK).is_file()), None)
    if root is None or find_spec("ruamel.yaml") is None:
        return None
    from ruamel.yaml import YAML  # noqa: PLC0415  which comes with DVC
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    try:
        if Prepared.open(data / "preprocessed").data_hash != data_hash:
            return None
        stages = YAML(typ="safe").load(root / LOCK)["stages"].values()
        raw = next(out for stage in stages for out in stage.get("outs", ()) if out["path"] == CATALOGUE)
        return {"path": raw["path"], "md5": raw["md5"], "commit": _last_commit(root)}
    except (InputError, OSError, YAMLError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def _last_commit(root: Path) -> str | None:
    """Of the lock; None where it is not committed as it is."""
    try:
        if _git(root, "status", "--porcelain", "--", LOCK):
            return None
        return _git(root, "log", "-1", "--format=%H", "--", LOCK) or None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()  # noqa: S603


def _releases(connection: Connection, version: str) -> list[Entry]:
    """Who put it up, promoted it, and came back to it, the first first."""
    return [*audit.newest(connection, audit.Filter(subject=version, any_of=RELEASES))][::-1]


def _release(entry: Entry) -> dict[str, Any]:
    after = entry.after or {}
    gate = after.get("gate") or {}
    why = {
        "gate": gate.get("passed"),
        "forced": after.get("forced"),
        "note": after.get("note"),
    }
    known = {name: value for name, value in why.items() if value is not None}
    return {"entry": entry.id, "at": entry.at, "who": entry.who, "what": entry.what, **known}


def _champion_by(releases: list[dict[str, Any]], record: PredictionRecord | None) -> dict[str, Any] | None:
    """What made it the champion that gave this answer; None for a challenger, or one served from a folder."""
    if record is None or record.arm == Arm.CHALLENGER:
        return None
    made = [one for one in releases if one["what"] != REGISTER and one["at"] <= record.created_at]
    return made[-1] if made else None


def _experiment(connection: Connection, record: PredictionRecord) -> dict[str, Any] | None:
    if record.experiment_id is None:
        return None
    try:
        one = experiments.get(connection, record.experiment_id)
    except InputError:
        return {"id": record.experiment_id, "arm": record.arm}
    names = ("id", "kind", "champion", "challenger", "share", "started_by", "started_at", "outcome", "reason")
    return {**{name: getattr(one, name) for name in names}, "arm": record.arm}


def _feedback(connection: Connection, record: PredictionRecord) -> list[dict[str, Any]]:
    return [asdict(one) for one in predictions.feedback_on(connection, record.id)]
