"""Where a bundle comes from: the revision of the code and the versions of what computed it."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import aisle
from aisle.files import sources_hash
from aisle.settings import get_settings

COMPUTING_PACKAGES = ("numpy", "scipy", "scikit-learn", "onnxruntime", "pillow", "simplejpeg", "ftfy")


def code_revision() -> str:
    """The last commit that changed the sources that run, and a hash of them if they were altered since.

    Other commits of a checkout, such as those that version data, make no other code.
    Outside a checkout what the image was built from (`AISLE_REVISION`), or else the package's version.
    """
    here = Path(aisle.__file__).parent
    try:
        _git(here, "ls-files", "--error-unmatch", "__init__.py")  # fails in somebody else's repository
        revision = _git(here, "log", "-1", "--format=%H", "--", str(here))
        altered = _git(here, "status", "--porcelain", "--", str(here))
    except (OSError, subprocess.SubprocessError):
        return get_settings().aisle_revision or f"aisle {aisle.__version__}"
    return f"{revision}+{sources_hash(aisle)[:12]}" if altered else revision


def package_versions(*further: str) -> dict[str, str]:
    """The versions of what computes every bundle, and of `further` packages, as far as they are installed."""
    found = {}
    for name in (*COMPUTING_PACKAGES, *further):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()  # noqa: S603
