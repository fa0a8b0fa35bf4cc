"""The work of `aisle labels audit`: a catalogue in, a report of its suspicious labels out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aisle.batch.table import read_product_table
from aisle.catalog import TypeChanges
from aisle.data import raw
from aisle.data.prepare import ensure_prepared
from aisle.data.split import Side
from aisle.errors import InputError
from aisle.files import sha256_json
from aisle.inputs.text import clean
from aisle.model.classifier import Inputs
from aisle.settings import Settings
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples, Rows
from aisle.training.label_audit import audit_labels, compare_without
from aisle.training.label_audit_report import write_label_audit
from aisle.training.light import image_encoder
from aisle.training.recipes import light
from aisle.training.train import lineage_of


def audit_catalogue(
    data: Path, settings: Settings, report: Path, *, top: int, compare: bool, measure: Path | None
) -> dict[str, Any]:
    """Audit the labels of a raw or prepared folder with the linear models of `light`, and write the report's folder.

    With `compare`, also say what the models are worth without the suspects: on the test side, and on the labelled
    products of the table `measure` (their texts). A run that was killed goes on where it stopped.
    """
    recipe = replace(light(), transformer=None)  # what it would add to an audit is not worth its minutes
    prepared = ensure_prepared(data, settings, threads=settings.cores)
    examples = Examples(prepared, settings.cache_path, settings.cores)
    stages = Checkpoints(settings.cache_path / "audits", sha256_json(lineage_of(recipe, prepared))[:16])
    graph = image_encoder(recipe, examples)
    audit = audit_labels(examples, recipe, stages, graph)
    comparisons = []
    if compare:
        measured = {"test side": examples.rows(Side.TEST, graph=graph)}
        if measure is not None:
            measured[measure.name] = _labelled(measure, examples.codes)
        comparisons = compare_without(audit, examples, recipe, stages, measured)
    found = write_label_audit(
        report,
        audit,
        prepared.types(),
        prepared.images(),
        top=top,
        data_hash=prepared.data_hash,
        comparisons=comparisons,
    )
    stages.clear()
    return found


def _labelled(file: Path, codes: tuple[str, ...]) -> Rows:
    """Raises InputError without a product of one of these types."""
    table = read_product_table(file, images=None, labelled=True)
    changes: TypeChanges = raw.type_changes(file.parent)
    today = [None if code is None else changes.now(code) for code in table["type_code"]]
    here = [row for row, code in enumerate(today) if code in codes]
    if not here:
        raise InputError("has no product of a type of the catalogue", where=file)
    titles, descriptions = (
        [clean(table[name][row]) for row in here] if name in table.columns else [""] * len(here)
        for name in ("title", "description")
    )
    targets = np.array([codes.index(str(today[row])) for row in here], dtype=np.intp)
    return Rows(Inputs(titles, descriptions, [None] * len(here)), targets, np.ones(len(here)))
