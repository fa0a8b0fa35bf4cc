"""The corrections as a version of DVC, where a retraining runs in a repository that DVC keeps."""

from __future__ import annotations

import shutil
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


def version_by_dvc(folder: Path, message: str) -> dict[str, str | None]:
    """Give catalogue and corrections to DVC, commit what it notes in git, and push where there is a remote.

    Where there is no DVC (an image without it, a folder that is no repository) the sums are all there is, and whoever
    called this versions the folder: the pipeline of Airflow does. Raises ServiceMissing where DVC or git fails.
    """
    found: dict[str, str | None] = {
        "corrections": sha256_file(folder / CORRECTIONS_FILE),
        "commit": None,
    }
    root = next(
        (one for one in folder.resolve().parents if (one / ".dvc").is_dir() and (one / ".git").exists()), None
    )
    if root is None or find_spec("dvc") is None or shutil.which("git") is None:
        get_logger(__name__).info("not versioned: no repository of DVC here", folder=str(folder))
        return found
    note = root / NOTE
    if not note.is_file():
        outs = f"- path: {CATALOGUE}\n- path: {CORRECTIONS_FILE}\n"
        write_text(note, f"wdir: {folder.resolve().relative_to(root)}\nouts:\n{outs}")
    _call(root, sys.executable, "-m", "dvc", "commit", "--force", NOTE)
    _call(root, "git", "add", "--", NOTE)
    if _call(root, "git", "diff", "--cached", "--name-only", "--", NOTE).strip():
        _call(root, "git", "commit", "--quiet", "--message", message, "--", NOTE)
    if _call(root, sys.executable, "-m", "dvc", "remote", "list").strip():
        _call(root, sys.executable, "-m", "dvc", "push", NOTE)
    return {**found, "commit": _call(root, "git", "rev-parse", "HEAD").strip()}


def _call(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise ServiceMissing(
            f"`{' '.join(command).removeprefix(f'{sys.executable} -m ')}` failed: {said}", where=root
        )
    return done.stdout
