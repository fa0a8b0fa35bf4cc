"""What a worker does with a claim: plan a batch, predict a piece of it, put its result together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from aisle.batch.bulk import BulkOptions, empty_result, make_task
from aisle.batch.csv_file import CsvLayout
from aisle.batch.locations import Locations
from aisle.batch.pieces import Piece, Source, SourceFile
from aisle.batch.places import Place
from aisle.batch.predicting import Task, TaskPredictor
from aisle.batch.spool import Spool
from aisle.clock import Clock
from aisle.data.archive import check_archive
from aisle.errors import AisleError, InputError
from aisle.logs import get_logger
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.registry.bundles import CHAMPION, BundleStore
from aisle.settings import Settings
from aisle.store import batches
from aisle.store.batches import FINISH, PLAN, Batch, Claim, PieceRow
from aisle.store.engine import writing

DEATHS = 5
"""So many workers may die of a piece; then its rows have an error, and the others of the batch go on."""
KEPT = 2  # batches, and models, that a worker goes on with without loading again

_log = get_logger(__name__)


@dataclass
class _Open:
    """A batch that a worker is at."""

    task: Task
    predictor: TaskPredictor


class Jobs:
    """Does claims, one at a time, with so many `threads`."""

    def __init__(self, engine: Engine, settings: Settings, *, threads: int, clock: Clock) -> None:
        self._engine, self._settings, self._threads, self._clock = engine, settings, threads, clock
        self._spool = Spool(settings.batches_path)
        self._store = BundleStore(settings.models_path)
        self._locations = Locations(settings.batch_locations, settings.s3_endpoint_url)
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._predictors: OrderedDict[str, Predictor] = OrderedDict()

    def do(self, claim: Claim) -> None:
        """Do it and say so in the database.

        Raises InputError for what no other try would change; ServiceMissing, BundleError and OSError for what time
        may change.
        """
        batch, number = claim.batch, claim.piece.number
        if claim.deaths >= 2 * DEATHS or (number < 0 and claim.deaths >= DEATHS):
            raise InputError("the table stops the program that reads it", where=batch.name)
        steps: dict[int, Callable[[Claim], None]] = {PLAN: self._plan, FINISH: self._finish}
        steps.get(number, self._predict)(claim)

    def close(self) -> None:
        for opened in self._open.values():
            opened.predictor.close()
        for predictor in self._predictors.values():
            predictor.close()

    def _plan(self, claim: Claim) -> None:
        batch = claim.batch
        bundle = Bundle.load(self._store.find(CHAMPION))
        images = self._images(batch)
        if images is not None and batch.location is None:
            check_archive(images.path, shown_as=Path(str(batch.images)))
        task = make_task(bundle, self._table(batch), BulkOptions(images=images, max_rows=batch.max_rows))
        if batch.location is not None:
            for file in task.source.files:
                self._locations.check(file.place)  # a link in an allowed folder may lead out of it
        pieces, first = [], 0
        for piece in task.source.pieces:
            pieces.append(PieceRow(piece.number, piece.file, piece.start, piece.stop, first, piece.rows))
            first += piece.rows
        files = [_file_as_dict(file, self._spool.folder(batch.id)) for file in task.source.files]
        source = {"files": files, "images": "" if images is None else images.stamp()}
        with writing(self._engine) as connection:
            batches.planned(connection, claim, pieces, source=source, model_version=bundle.version, at=self._clock())
        _log.info("batch planned", batch=batch.id, rows=task.source.rows, pieces=len(pieces), model=bundle.version)

    def _predict(self, claim: Claim) -> None:
        predictor = self._opened(claim.batch).predictor
        row = claim.piece
        piece = Piece(row.number, row.file, row.start, row.stop, row.rows)
        table = predictor.read(piece)
        if claim.deaths < DEATHS:
            part = predictor.predicted(table)
        else:
            _log.error("a piece killed its workers and is given up", batch=claim.batch.id, piece=row.number)
            part = predictor.unpredicted(table, "could not be predicted: a product of these rows stops the program")
        self._spool.parts(claim.batch.id).write(piece.number, part)
        first = row.first + 1
        self._spool.glances(claim.batch.id).write(first, predictor.glances(table, part, first))
        errors = [
            {"row": first + at, "error": error}
            for at, error in enumerate(part["error"].to_list())
            if error is not None
        ]
        accepted = int((part["decision"] == "accept").sum())
        with writing(self._engine) as connection:
            is_ours = batches.piece_done(connection, claim, accepted=accepted, errors=errors, at=self._clock())
        if not is_ours:  # nor is the batch any more, perhaps
            self._close(claim.batch.id)

    def _finish(self, claim: Claim) -> None:
        batch = claim.batch
        parts = self._spool.parts(batch.id)
        task = self._task(batch)
        counts = parts.assemble(batch.pieces or 0, empty_result(task.source))
        if counts.rows != batch.rows:
            raise AisleError(f"{counts.rows} rows were predicted of {batch.rows}", where=batch.id)
        glances = self._spool.glances(batch.id)
        glances.finish()
        with writing(self._engine) as connection:
            is_ours = batches.finished(connection, claim, at=self._clock())
        if is_ours:
            parts.folder.remove()
            glances.remove_parts()
            _log.info("batch done", batch=batch.id, rows=batch.rows, errors=batch.errors, accepted=batch.accepted)
        self._close(batch.id)

    def _table(self, batch: Batch) -> Place:
        return self._spool.table(batch.id) if batch.location is None else self._locations.place(batch.location)

    def _images(self, batch: Batch) -> Place | None:
        if batch.images is None:
            return None
        return self._spool.images(batch.id) if batch.location is None else self._locations.place(batch.images)

    def _task(self, batch: Batch) -> Task:
        folder, endpoint = self._spool.folder(batch.id), self._settings.s3_endpoint_url
        files = tuple(_file_from_dict(one, folder, endpoint) for one in (batch.source or {})["files"])
        version = str(batch.model_version)
        images = self._images(batch)
        if images is not None and images.stamp() != (batch.source or {})["images"]:
            raise InputError("the images have changed since the batch began", hint="Begin again.")
        return Task(Source(files, ()), self._store.find(version), version, images)

    def _opened(self, batch: Batch) -> _Open:
        if batch.id not in self._open:
            task = self._task(batch)
            predictor = self._predictor(task)
            self._open[batch.id] = _Open(task, TaskPredictor(task, threads=self._threads, predictor=predictor))
        self._open.move_to_end(batch.id)
        while len(self._open) > KEPT:
            self._close(next(iter(self._open)))
        return self._open[batch.id]

    def _predictor(self, task: Task) -> Predictor:
        if task.version not in self._predictors:
            while len(self._predictors) >= KEPT:
                version, predictor = self._predictors.popitem(last=False)
                for batch_id in [one for one, opened in self._open.items() if opened.task.version == version]:
                    self._close(batch_id)
                predictor.close()
            self._predictors[task.version] = Predictor(Bundle.load(task.bundle), threads=self._threads)
        self._predictors.move_to_end(task.version)
        return self._predictors[task.version]

    def _close(self, batch_id: str) -> None:
        opened = self._open.pop(batch_id, None)
        if opened is not None:
            opened.predictor.close()


def _file_as_dict(file: SourceFile, folder: Path) -> dict[str, Any]:
    """Plain JSON. What lies in the batch's own folder is named without it: each worker has its own way there."""
    address = file.place.address
    if not file.place.is_s3 and Path(address).is_relative_to(folder):
        address = str(Path(address).relative_to(folder))
    layout = file.layout and {
        "encoding": file.layout.encoding, "separator": file.layout.separator, "columns": list(file.layout.columns),
    }  # fmt: skip
    return {"address": address, "version": file.version, "names": dict(file.names), "layout": layout}


def _file_from_dict(found: Mapping[str, Any], folder: Path, endpoint: str) -> SourceFile:
    address, layout = str(found["address"]), found["layout"]
    is_s3 = address.startswith("s3://")
    place = Place(address if is_s3 else str(folder / address), endpoint if is_s3 else "")
    known = layout and CsvLayout(layout["encoding"], layout["separator"], tuple(layout["columns"]))
    return SourceFile(place, str(found["version"]), found["names"], known)
