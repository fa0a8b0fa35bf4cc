"""Finished stages of an unfinished training, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from aisle.files import write_bytes
from aisle.logs import get_logger

Arrays = Mapping[str, NDArray[Any]]


class Checkpoints:
    """Stages of one run, named by everything that decides their result: same run, same result."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder / run

    def under(self, name: str) -> Checkpoints:
        """Stages of a part of this run, cleared with it."""
        return Checkpoints(self._folder, name)

    def folder(self, stage: str) -> Path:
        """For a stage that keeps files of its own, cleared with this run."""
        return self._folder / stage

    def get(self, stage: str, compute: Callable[[], Arrays]) -> Arrays:
        """What `compute` gives, from the disk if this stage was finished before."""
        arrays = self.load(stage)
        if arrays is not None:
            get_logger(__name__).info("stage taken from the run before", stage=stage)
            return arrays
        arrays = compute()
        self.save(stage, arrays)
        return arrays

    def load(self, stage: str) -> Arrays | None:
        """What was saved for a stage; None: nothing, or something damaged."""
        try:
            arrays: Arrays = load_file(self._path(stage))
        except (FileNotFoundError, SafetensorError):
            return None
        return arrays

    def save(self, stage: str, arrays: Arrays) -> None:
        """Whole or not at all, in place of what was saved before."""
        write_bytes(self._path(stage), save(dict(arrays)))

    def _path(self, stage: str) -> Path:
        return self._folder / f"{stage}.safetensors"

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
