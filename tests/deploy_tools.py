"""What tests of containers, manifests and workflows call: tools from `.venv-deploy`, which make installs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def tool(name: str) -> str:
    """The path of a tool; the test is skipped where it is not installed."""
    ours = REPOSITORY / ".venv-deploy" / "bin" / name
    found = str(ours) if ours.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: make .venv-deploy/.ready installs it")
    return found
