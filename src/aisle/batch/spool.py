"""The files of batches, in a folder that the service and its workers share.

BATCH_ID/table.csv, images.zip     what was uploaded
BATCH_ID/parts/part-000007.parquet what is predicted so far
BATCH_ID/result.parquet            all of it, at the end
BATCH_ID/glances…                  what a page shows of it (`glances.py`)
.tmp-…                             an upload that is under way
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.batch.places import Place
from aisle.files import TEMPORARY_PREFIX, remove_abandoned

if TYPE_CHECKING:
    from aisle.batch.glances import Glances
    from aisle.batch.parts import Parts

TABLE, IMAGES, RESULT = "table", "images.zip", "result.parquet"
ORPHAN_SECONDS = 86_400.0


class Spool:
    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, batch_id: str) -> Path:
        return self._root / batch_id

    def table(self, batch_id: str) -> Place:
        """The table that was uploaded."""
        found = sorted(self.folder(batch_id).glob(f"{TABLE}.*"))
        return Place(str(found[0] if found else self.folder(batch_id) / f"{TABLE}.csv"))

    def images(self, batch_id: str) -> Place:
        return Place(str(self.folder(batch_id) / IMAGES))

    def parts(self, batch_id: str) -> Parts:
        from aisle.batch.parts import Parts  # noqa: PLC0415  tables are not what a service starts with

        folder = self.folder(batch_id)
        return Parts(Place(str(folder / RESULT)), Place(str(folder / "parts")))

    def glances(self, batch_id: str) -> Glances:
        from aisle.batch.glances import Glances  # noqa: PLC0415  as above

        return Glances(self.folder(batch_id))

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """A folder for an upload; what is in it at the end, and was not kept, is gone."""
        self._root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self._root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, incoming: Path, batch_id: str) -> None:
        incoming.rename(self.folder(batch_id))

    def remove(self, batch_id: str) -> None:
        shutil.rmtree(self.folder(batch_id), ignore_errors=True)

    def sweep(self, known: set[str], *, now: float) -> list[str]:
        """Remove what belongs to no batch, once it is old: uploads that broke off, parts that came too late."""
        remove_abandoned(self._root, now=now, older_than_seconds=ORPHAN_SECONDS)
        orphans = [
            path.name
            for path in self._root.glob("*")
            if re.fullmatch("[0-9a-f]{32}", path.name) and path.name not in known and _age(path, now) > ORPHAN_SECONDS
        ]
        for name in orphans:
            self.remove(name)
        return orphans


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
