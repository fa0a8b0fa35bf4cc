"""The corrections as a version of DVC, where a retraining runs in a repository that DVC keeps."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from aisle.errors import ServiceMissing
from aisle.files import sha256_file, write_text
from aisle.logs import get_logger
from aisle.loop.corrections import CATALOGUE, CORRECTIONS_FILE

NOTE = "retraining.dvc"
"""In the root of the repository: git does not see what is in `data/`."""


def version_by_dvc(folder: Path) -> dict[str, str | None]:
    """Give catalogue and corrections to DVC, and push where there is a remote: their sum, and DVC's note.

    The note is left in the root for whoever commits: a person, or the pipeline in its clone. Nobody's branch moves
    by a retraining. Where there is no DVC (an image without it, a folder that is no repository) there is no note.
    Raises ServiceMissing where DVC fails.
    """
    found: dict[str, str | None] = {"corrections": sha256_file(folder / CORRECTIONS_FILE), "note": None}
    parents = folder.resolve().parents
    root = next((one for one in parents if (one / ".dvc").is_dir() and (one / ".git").exists()), None)
    if root is None or find_spec("dvc") is None:
        get_logger(__name__).info("not versioned: no repository of DVC here", folder=str(folder))
        return found
    note = root / NOTE
    if not note.is_file():
        outs = f"- path: {CATALOGUE}\n- path: {CORRECTIONS_FILE}\n"
        write_text(note, f"wdir: {folder.resolve().relative_to(root)}\nouts:\n{outs}")
    _dvc(root, "commit", "--force", NOTE)
    if _dvc(root, "remote", "list").strip():
        _dvc(root, "push", NOTE)
    return {**found, "note": note.read_text()}


def _dvc(root: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise ServiceMissing(f"`dvc {' '.join(words)}` failed: {said}", where=root)
    return done.stdout
