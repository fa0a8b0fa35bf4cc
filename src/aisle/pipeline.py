"""The whole way, one function a stage: what `aisle run` does in a row, and each verb by itself.

A stage whose result is already there for the same input is not done again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aisle.data.prepare import Prepared, ensure_prepared, is_prepared, validated_beside
from aisle.data.source import import_catalogue, is_unfinished
from aisle.data.split import Side
from aisle.data.validate import ContractOptions
from aisle.errors import CheckFailed
from aisle.files import TEMPORARY_PREFIX, remove_abandoned
from aisle.logs import get_logger
from aisle.measuring import evaluate_side, judge_challenger
from aisle.model.bundle import METRICS_FILE, Bundle
from aisle.model.decisions import read_costs
from aisle.monitoring.stages import stage
from aisle.monitoring.told import tell_rows, tell_training
from aisle.registry.bundles import CHAMPION, BundleStore
from aisle.registry.gate import Verdict
from aisle.registry.promotion import THE_FIRST, promote
from aisle.settings import Settings
from aisle.training.recipes import Recipe, Teaching, choices_of, recipe
from aisle.training.report import JSON_FILE
from aisle.training.train import lineage_of, train
from aisle.training.vgg16 import AUTO, choose_weights

SAMPLE = "sample"


@dataclass(frozen=True, slots=True)
class Trained:
    """A bundle in the store (or where it was asked for), and whether it was trained now or found there."""

    bundle: Bundle
    new: bool


def choose_recipe(name: str, settings: Settings, **choices: str | int | None) -> Recipe:
    """The recipe with what was chosen of it, and pretrained weights, if none are, that can be had; its decisions are
    those of the settings.

    Raises UsageError for what the recipe has no choice of, InputError for a `teacher` that is no bundle and for
    costs that cannot be read.
    """
    chosen: dict[str, Any] = {choice: value for choice, value in choices.items() if value is not None}
    known = choices_of(name)
    if "weights" in known:
        chosen["weights"] = choose_weights(chosen.get("weights", AUTO), settings.keras_home)
    if "teacher" in known & chosen.keys():
        bundle = Bundle.load(BundleStore(settings.models_path).find(chosen["teacher"]))
        chosen["teacher"] = Teaching(bundle.version, bundle.path)
    found = recipe(name, **chosen)
    costs = read_costs(Path(settings.costs_file)) if settings.costs_file else ()
    return replace(found, decisions=replace(found.decisions, promise=settings.promised_accuracy, costs=costs))


def train_bundle(
    chosen: Recipe,
    data: Path,
    settings: Settings,
    *,
    who: str,
    out: Path | None = None,
    contract: ContractOptions = ContractOptions(),
    again: bool = False,
) -> Trained:
    """Train on a raw or prepared folder. Without `out` the bundle goes to the store, under its version, and is
    the champion if there was none; `who` trained it, for the audit trail.

    A bundle of the store that has the very same lineage is taken instead, unless `again`.
    """
    prepared = _prepared(data, settings, contract)
    with stage("train", settings) as figures:
        trained = _train_or_find(chosen, prepared, settings, who=who, out=out, again=again)
        tell_training(figures, trained.bundle.version, trained.bundle.json(METRICS_FILE).get("all", {}))
    return trained


def _prepared(data: Path, settings: Settings, contract: ContractOptions) -> Prepared:
    """`ensure_prepared`, told as the stages that it consists of."""
    threads = settings.cores
    if is_prepared(data):
        return Prepared.open(data)
    with stage("validate", settings) as figures:
        counted = partial(tell_rows, figures)
        validated_beside(data, settings, contract=contract, threads=threads, counted=counted)
    with stage("prepare", settings):
        return ensure_prepared(data, settings, contract=contract, threads=threads)


def _train_or_find(
    chosen: Recipe, prepared: Prepared, settings: Settings, *, who: str, out: Path | None, again: bool
) -> Trained:
    store = BundleStore(settings.models_path)
    if out is not None:
        return Trained(_train(chosen, prepared, out, settings), new=True)
    if not again:
        known = store.with_lineage(lineage_of(chosen, prepared))
        if known is not None:
            get_logger(__name__).info("trained before", version=known.version)
            return Trained(known, new=False)
    store.root.mkdir(parents=True, exist_ok=True)
    remove_abandoned(store.root, now=time.time())
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=store.root) as folder:
        stored = Bundle.load(store.add(_train(chosen, prepared, Path(folder) / "bundle", settings)))
    if store.serving().champion is None:
        _promote(stored, settings, who=who, reason=THE_FIRST)
    return Trained(stored, new=True)


def _train(chosen: Recipe, prepared: Prepared, out: Path, settings: Settings) -> Bundle:
    return train(
        chosen,
        prepared,
        out,
        cache=settings.cache_path,
        threads=settings.cores,
        attachments=settings.runs_path,
        source=settings.run_source,
    )


def run_all(
    chosen: Recipe,
    source: str,
    settings: Settings,
    *,
    who: str,
    rows: int = 2700,
    seed: int = 0,
    contract: ContractOptions = ContractOptions(),
) -> Bundle:
    """Import, validate, prepare, train, evaluate and register; the champion that serves from now on.

    That is the new model if the gate lets it pass, and nobody rolled it back before; `who` runs it, for the audit
    trail.

    A catalogue that is already in `data/raw` is used as it is, unless `source` names another; one whose import
    was not finished is refused as such, not replaced.
    """
    folder = settings.data_path / "raw"
    if source or is_unfinished(folder, SAMPLE):
        with stage("import", settings):
            import_catalogue(source or SAMPLE, folder, settings=settings, rows=rows, seed=seed)
    trained = train_bundle(chosen, folder, settings, who=who, contract=contract)
    report = settings.reports_path / trained.bundle.version
    if not (report / JSON_FILE).is_file():
        prepared = ensure_prepared(folder, settings, threads=settings.cores)
        if prepared.counts[Side.TEST.value]:
            with stage("evaluate", settings):
                figures = evaluate_side(trained.bundle, prepared, settings, report=report).figures
            get_logger(__name__).info(
                "evaluated", weighted_f1=figures["weighted_f1"], accuracy=figures["accuracy"], report=str(report)
            )
    store = BundleStore(settings.models_path)
    serving, version = store.serving(), trained.bundle.version
    if version in serving.rolled_back:
        get_logger(__name__).warning(
            "it was rolled back before, the champion stays",
            version=version,
            champion=serving.champion,
            hint=f"`aisle registry promote {version}` promotes it all the same",
        )
    elif version != serving.champion:
        judge = partial(judge_challenger, data=folder, settings=settings, contract=contract)
        _promote(trained.bundle, settings, who=who, judge=judge)
    return Bundle.load(store.find(CHAMPION))


def _promote(
    bundle: Bundle,
    settings: Settings,
    *,
    who: str,
    judge: Callable[[Bundle], Verdict] | None = None,
    reason: str | None = None,
) -> None:
    """Promote what was trained; that it does not become champion is no failure of the training."""
    try:
        promote(bundle, settings, who=who, judge=judge, reason=reason)
    except CheckFailed as refusal:
        get_logger(__name__).warning("not promoted, the champion stays", version=bundle.version, reason=str(refusal))
