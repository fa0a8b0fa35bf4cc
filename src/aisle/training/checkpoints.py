"""Finished stages of an unfinished training, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from aisle.files import write_bytes
from aisle.logs import get_logger

Arrays = Mapping[str, NDArray[np.float32]]


class Checkpoints:
    """Stages of one run, named by everything that decides their result: same run, same result."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder / run

    def get(self, stage: str, compute: Callable[[], Arrays]) -> Arrays:
        """What `compute` gives, from the disk if this stage was finished before."""
        path = self._folder / f"{stage}.safetensors"
        try:
            arrays: Arrays = load_file(path)
            get_logger(__name__).info("stage taken from the run before", stage=stage)
        except (FileNotFoundError, SafetensorError):
            arrays = compute()
            write_bytes(path, save(dict(arrays)))
        return arrays

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
