"""A bundle to serve, of the generated catalogue: `python -m benchmarks.rivals.bundles SETTING FOLDER`.

`lstm-vgg16` has its two precisions as settings: with VGG16's random weights nothing says which one would serve.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from aisle.data.prepare import ensure_prepared
from aisle.data.sample import write_sample
from aisle.settings import get_settings
from aisle.training.recipes import Light, LstmVgg16, light, lstm_vgg16
from aisle.training.train import train

ROWS = {"light": 1350, "light-large": 6500, "lstm-vgg16-int8": 270, "lstm-vgg16-fp32": 270}
"""By setting. `light` of some thousand products has a second image network, and a transformer that reads titles: more
to compute for each request. VGG16 takes 0.15 s of a core for each image, and is the same however many there are."""


def recipe(setting: str) -> Light | LstmVgg16:
    if setting.startswith("light"):
        return light()
    network = lstm_vgg16("none")
    few = replace(network.text.epochs, most=2)
    always = 1.0 if setting.endswith("int8") else -1.0
    return replace(network, text=replace(network.text, epochs=few), int8_loss=always)


def main(setting: str, out: str) -> None:
    settings = get_settings()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        write_sample(raw, rows=ROWS[setting])
        prepared = ensure_prepared(raw, settings, threads=settings.cores)
        train(recipe(setting), prepared, Path(out), cache=Path(folder) / "cache", threads=settings.cores)


if __name__ == "__main__":
    main(*sys.argv[1:])
