"""The bundle store: one folder a version, and a small pointer file that says which one serves.

`<root>/<version>/` holds a bundle; `<root>/serving.json` names the champion and the challenger. The pointer is
replaced as a whole, so that whoever reads it sees the old or the new one.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from aisle.errors import BundleError, InputError
from aisle.files import TEMPORARY_PREFIX, atomic_folder, read_json, write_json
from aisle.logs import get_logger
from aisle.model.bundle import LINEAGE_FILE, MANIFEST_FILE, RUN_FILE, Bundle

POINTER_FILE = "serving.json"
CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True, slots=True)
class Serving:
    champion: str | None = None
    challenger: str | None = None


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
            return Serving(**read_json(self.root / POINTER_FILE))
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

    def make_champion(self, version: str) -> None:
        """Point to `version`, which must be in the store and whole."""
        Bundle.load(self.root / version)
        write_json(self.root / POINTER_FILE, asdict(Serving(champion=version, challenger=self.serving().challenger)))

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
