"""Pretrained models of the recipe `full`, by name or folder, told without loading a network library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aisle.files import sha256_file, sha256_json
from aisle.training.recipes import OF_A_FOLDER, Full

KEPT_SUFFIXES = frozenset({".bin", ".json", ".model", ".safetensors", ".txt"})
"""Of files that say what a model in a folder is; what else lies there is for people."""


def place_of(name: str) -> tuple[str, str | None]:
    """Where a model is, and which revision of it: a folder, or its name on the hub, perhaps with `@revision`."""
    if Path(name).is_dir():
        return name, None
    place, _, revision = name.partition("@")
    return place, revision or None


def called(name: str) -> str:
    """What a report says of a model: no folder of this machine."""
    return Path(name).name if Path(name).is_dir() else name


def with_sources(recipe: Full) -> Full:
    """The recipe as a lineage has it: a model in a folder by its files' sum, wherever the folder is."""
    text = replace(recipe.text, models=tuple(map(_source, recipe.text.models)))
    return replace(recipe, text=text, image=replace(recipe.image, models=tuple(map(_source, recipe.image.models))))


def _source(name: str) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return name
    files = [path for path in sorted(folder.iterdir()) if path.suffix in KEPT_SUFFIXES]
    return f"{OF_A_FOLDER}{sha256_json({path.name: sha256_file(path) for path in files})}"
