"""The bundle store: one folder a version, and a small pointer file that says which one serves.

`<root>/<version>/` holds a bundle; `<root>/serving.json` names the champion, those before it and the challenger.
The pointer is replaced as a whole, so that whoever reads it sees the old or the new one; writers lock it first.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from aisle.catalog import ProductType, TypeChanges
from aisle.errors import BundleError, CheckFailed, InputError
from aisle.files import TEMPORARY_PREFIX, atomic_folder, read_json, write_json
from aisle.logs import get_logger
from aisle.model.bundle import LINEAGE_FILE, MANIFEST_FILE, RUN_FILE, Bundle, only_types
from aisle.model.signing import SIGNATURE_FILE

POINTER_FILE = "serving.json"
LOCK_FILE = ".serving.lock"
CHAMPION, CHALLENGER = "champion", "challenger"
HISTORY = 20


class Whoever(Enum):
    """Stands for any champion, and for none: None itself says that there must be none."""

    SERVES = "whoever serves"


@dataclass(frozen=True, slots=True)
class Serving:
    """Versions: who serves, who would like to, who served before, the last one last, and who was rolled back."""

    champion: str | None = None
    challenger: str | None = None
    before: tuple[str, ...] = ()
    rolled_back: tuple[str, ...] = ()


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
            return replace(found, before=tuple(found.before), rolled_back=tuple(found.rolled_back))
        except FileNotFoundError:
            return Serving()
        except (ValueError, TypeError):
            raise BundleError("the pointer to the champion is damaged", where=self.root / POINTER_FILE) from None

    def add(self, bundle: Bundle) -> Path:
        """Copy a verified bundle into the store; one that is there already, and whole, stays as it is.

        Its signature comes along, if it has one: whether it has to is asked by whoever loads it from here.
        """
        target = self.root / bundle.version
        try:
            return Bundle.load(target).path
        except BundleError:
            with atomic_folder(target) as folder:
                for name, content in bundle.contents.items():
                    (folder / name).write_bytes(content)
                signed = [SIGNATURE_FILE] if (bundle.path / SIGNATURE_FILE).is_file() else []
                for name in (RUN_FILE, MANIFEST_FILE, *signed):
                    shutil.copyfile(bundle.path / name, folder / name)
        return target

    def with_lineage(self, lineage: object) -> Bundle | None:
        """The newest whole bundle with exactly this lineage. Damaged ones are passed over, with a warning."""
        for version in reversed(self.versions()):
            try:
                if read_json(self.root / version / LINEAGE_FILE) == lineage:
                    return Bundle.load(self.root / version)
            except (BundleError, OSError, ValueError) as error:
                pass_over(version, error)
        return None

    def types_of(self, version: str) -> Mapping[str, ProductType]:
        """The table of types of a version; empty where it is not there any more, or damaged."""
        found = self._only_types(version)
        return {} if found is None else found.types()

    def changes_of(self, version: str) -> TypeChanges:
        """What a version knows of the types of earlier tables; nothing where it is not there any more, or damaged."""
        found = self._only_types(version)
        return TypeChanges() if found is None else found.changes()

    def make_champion(self, version: str, *, instead_of: str | Whoever | None = Whoever.SERVES) -> Serving:
        """Point to `version`, which must be in the store and whole; the champion so far can be rolled back to.

        Only if `instead_of` is the champion still, None: if there still is none. Raises CheckFailed where another
        was faster.
        """
        Bundle.load(self.root / version)
        with self._changing() as now:
            if instead_of not in (Whoever.SERVES, now.champion):
                wanted = f"replace {instead_of}" if instead_of else "be the first champion"
                raise CheckFailed(
                    f"{version} was to {wanted}, but {now.champion} is the champion by now",
                    hint="Promote again to be measured against that one.",
                )
            before = (*now.before, now.champion) if now.champion not in (None, version) else now.before
            challenger = None if now.challenger == version else now.challenger
            rolled_back = tuple(one for one in now.rolled_back if one != version)
            return self._point(Serving(version, challenger, tuple(filter(None, before))[-HISTORY:], rolled_back))

    def roll_back(self, to: str | None = None) -> Serving:
        """Point to the champion before this one; twice rolled back is two steps back.

        Raises CheckFailed where there was none, or where it is not the one to go back `to`, BundleError if it is
        damaged.
        """
        with self._changing() as now:
            if not now.before:
                raise CheckFailed("there was no champion before this one", where=self.root)
            *before, champion = now.before
            if to is not None and champion != to:
                raise CheckFailed(f"the champion before this one is {champion}, not {to}", where=self.root)
            Bundle.load(self.root / champion)
            rolled_back = tuple(one for one in (*now.rolled_back, now.champion) if one not in (None, champion))
            return self._point(Serving(champion, now.challenger, tuple(before), rolled_back[-HISTORY:]))

    def point_as(self, wanted: Serving) -> None:
        """Point as another store did. Raises CheckFailed where this one already points otherwise."""
        with self._changing() as now:
            if now not in (Serving(), wanted):
                raise CheckFailed(f"{now.champion or now.challenger} is in service here", where=self.root)
            self._point(wanted)

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

    def _only_types(self, version: str) -> Bundle | None:
        folder = self.root / version
        if folder.parent != self.root:
            return None
        try:
            found = only_types(folder)
            found.types(), found.changes()
        except InputError as error:
            pass_over(version, error)
            return None
        return found

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


def pass_over(version: str, reason: Exception) -> None:
    """Say that a bundle of the store is damaged and that the work goes on without it."""
    get_logger(__name__).warning("damaged bundle passed over", version=version, reason=str(reason))
