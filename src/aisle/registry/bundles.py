"""The bundle store: one folder a version, and a small pointer file that says which one serves.

`<root>/<version>/` holds a bundle; `<root>/serving.json` names the champion, those before it and the challenger.
The pointer is replaced as a whole, so that whoever reads it sees the old or the new one; writers lock it first.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aisle.errors import BundleError, CheckFailed, InputError
from aisle.files import TEMPORARY_PREFIX, atomic_folder, read_json, write_json
from aisle.logs import get_logger
from aisle.model.bundle import LINEAGE_FILE, MANIFEST_FILE, RUN_FILE, Bundle

POINTER_FILE = "serving.json"
LOCK_FILE = ".serving.lock"
CHAMPION, CHALLENGER = "champion", "challenger"
HISTORY = 20


@dataclass(frozen=True, slots=True)
class Serving:
    """Versions: who serves, who would like to, and who served before, the last one last."""

    champion: str | None = None
    challenger: str | None = None
    before: tuple[str, ...] = ()


class BundleStore:
    """A store in a local folder, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self) -> list[str]:
        """The versions that are there, the oldest first."""
        manifests = [
            path for path in self.root.glob(f"*/{MANIFEST_FILE}") if not path.parent.name.startswith(TEMPORARY_PREFIX)
        ]
        return [path.parent.name for path in sorted(manifests, key=lambda path: (path.stat().st_mtime_ns, path))]

    def serving(self) -> Serving:
        """Raises BundleError for a pointer that cannot be read."""
        try:
            found = Serving(**read_json(self.root / POINTER_FILE))
            return replace(found, before=tuple(found.before))
        except FileNotFoundError:
            return Serving()
        except (ValueError, TypeError):
            raise BundleError("the pointer to the champion is damaged", where=self.root / POINTER_FILE) from None

    def add(self, bundle: Bundle) -> Path:
        """Copy a verified bundle into the store; one that is there already, and whole, stays as it is."""
        target = self.root / bundle.version
        try:
            return Bundle.load(target).path
        except BundleError:
            with atomic_folder(target) as folder:
                for name, content in bundle.contents.items():
                    (folder / name).write_bytes(content)
                for name in (RUN_FILE, MANIFEST_FILE):
                    shutil.copyfile(bundle.path / name, folder / name)
        return target

    def with_lineage(self, lineage: object) -> Bundle | None:
        """The newest whole bundle with exactly this lineage. Damaged ones are passed over, with a warning."""
        for version in reversed(self.versions()):
            try:
                if read_json(self.root / version / LINEAGE_FILE) == lineage:
                    return Bundle.load(self.root / version)
            except (BundleError, OSError, ValueError) as error:
                get_logger(__name__).warning("damaged bundle passed over", version=version, reason=str(error))
        return None

    def make_champion(self, version: str, *, instead_of: str | None = None) -> Serving:
        """Point to `version`, which must be in the store and whole; the champion so far can be rolled back to.

        With `instead_of` only if that is the champion still: raises CheckFailed where another was faster.
        """
        Bundle.load(self.root / version)
        with self._changing() as now:
            if instead_of is not None and now.champion != instead_of:
                raise CheckFailed(
                    f"{version} was to replace {instead_of}, but {now.champion} is the champion by now",
                    hint="Promote again to be measured against that one.",
                )
            before = (*now.before, now.champion) if now.champion not in (None, version) else now.before
            challenger = None if now.challenger == version else now.challenger
            return self._point(Serving(version, challenger, tuple(one for one in before if one)[-HISTORY:]))

    def roll_back(self) -> Serving:
        """Point to the champion before this one; twice rolled back is two steps back.

        Raises CheckFailed where there was none, BundleError if it is damaged.
        """
        with self._changing() as now:
            if not now.before:
                raise CheckFailed("there was no champion before this one", where=self.root)
            Bundle.load(self.root / now.before[-1])
            return self._point(Serving(now.before[-1], now.challenger, now.before[:-1]))

    def make_challenger(self, version: str) -> Serving:
        """Name `version`, which must be in the store and whole, as the one that would like to be champion."""
        Bundle.load(self.root / version)
        with self._changing() as now:
            return self._point(replace(now, challenger=version))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Serving]:
        """The pointer as it is, while nobody else changes it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.serving()

    def _point(self, serving: Serving) -> Serving:
        write_json(self.root / POINTER_FILE, asdict(serving))
        return serving

    def find(self, name: str) -> Path:
        """The folder of `champion`, `challenger`, a version of this store, or any path to a bundle.

        Raises InputError that says what there is.
        """
        if name in (CHAMPION, CHALLENGER):
            version: str | None = getattr(self.serving(), name)
            if version is None:
                raise InputError(f"there is no {name}", where=self.root, hint="`aisle run` makes the first champion.")
            return self.root / version
        if (self.root / name / MANIFEST_FILE).is_file():
            return self.root / name
        if Path(name).exists():
            return Path(name)
        there = ", ".join(self.versions()[-5:]) or "no version yet"
        raise InputError(f"there is no bundle {name!r}", where=self.root, hint=f"The store has {there}.")
