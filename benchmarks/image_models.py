"""What the image alone is worth on real products: each network with each head, and both networks as `light` has them.

Learnt from the train side, measured on the others where at least 95 % of the models behind a silver label agree.
A network's milliseconds are those of one image on one core. `decoded_whole` is both networks, a head learnt from and
asked of images that Pillow decoded whole, not at the smallest scale that is large enough. `int8` is both networks
with 8-bit convolutions, their ranges taken from images of the train side, and the head that was learnt with 32 bits;
`openvino_int8` the same graph in OpenVINO; `lite0_int8` the first network alone, likewise. What is quicker than both
networks with 32 bits may lose `MAY_LOSE` of their weighted F1 to be preferred, and so may decoding at a small scale.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Figure, Options
from benchmarks.real_catalogue import bootstrap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aisle.data.split import Side
    from aisle.inputs.image import Pixels
    from aisle.model.image import DenseHead, Features, ImageEncoder
    from aisle.training.examples import Examples, Rows

AGREEMENT, GOAL, SEED, TIMED = 0.95, 0.72, 0, 60
MAY_LOSE = 0.003
BOTH = "both_dense"
"""The head of `light`."""
RANGED = 200
"""Images that tell the ranges of 8-bit numbers."""


@dataclass(frozen=True)
class Photos:
    """Rows that have an image, with their features by both networks, and the files themselves in the same order."""

    learnt: Rows
    held_out: Rows
    learnt_files: list[bytes]
    held_out_files: list[bytes]
    codes: list[str]

    def figures(
        self, name: str, head: DenseHead, features: Features, *, at_least: float | None = None, interval: bool = False
    ) -> list[Figure]:
        """How well `head` does on the features of what was held out."""
        from aisle.training.evaluate import measure

        targets, scores = self.held_out.targets, head.scores(features)
        said = measure(_calibrated(scores, targets), targets, self.codes)
        found = [
            Figure(f"{name}_weighted_f1", said["weighted_f1"], at_least=at_least),
            Figure(f"{name}_log_loss", said["log_loss"]),
        ]
        if interval:
            right, chosen = ([self.codes[one] for one in these] for these in (targets, scores.argmax(axis=1)))
            ends = zip(("low", "high"), bootstrap(right, chosen), strict=True)
            found += [Figure(f"{name}_weighted_f1_{end}", value) for end, value in ends]
        return found


def run(options: Options) -> list[Figure]:
    import numpy as np

    from aisle.training.recipes import DenseTraining

    names = DenseTraining().networks
    photos = _photos(options.real_catalogue(), names)
    seen, unseen = _features(photos.learnt), _features(photos.held_out)
    figures = [Figure("learnt_from", len(photos.learnt)), Figure("measured_on", len(photos.held_out))]
    heads: dict[str, DenseHead] = {}
    for label, here, fit in _tried(names):
        started = time.perf_counter()
        heads[label] = fit(photos, np.ascontiguousarray(seen[:, here]))
        seconds = time.perf_counter() - started
        ours = label == BOTH
        features, goal = np.ascontiguousarray(unseen[:, here]), GOAL if ours else None
        figures += photos.figures(label, heads[label], features, at_least=goal, interval=ours)
        figures.append(Figure(f"{label}_fit_s", seconds))
    return figures + _speeds(names) + _decoded_whole(photos, names, figures) + _of_8_bits(photos, names, heads)


def _photos(real: Path, names: tuple[str, ...]) -> Photos:
    from aisle.data.prepare import ensure_prepared
    from aisle.data.split import Side
    from aisle.settings import Settings
    from aisle.training import efficientnet
    from aisle.training.examples import Examples

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(cache_path=Path(folder))
        examples = Examples(ensure_prepared(real, settings, threads=settings.cores), Path(folder), settings.cores)
        graph = efficientnet.encoder(names)
        others = (Side.VALIDATION, Side.TEST)
        return Photos(
            _with_image(examples.rows(Side.TRAIN, graph=graph), agreement=0),
            _with_image(examples.rows(*others, graph=graph), agreement=AGREEMENT),
            _images(examples, (Side.TRAIN,), 0),
            _images(examples, others, AGREEMENT),
            list(examples.codes),
        )


def _tried(names: Sequence[str]) -> list[tuple[str, slice, Callable[[Photos, Features], DenseHead]]]:
    """What a head is called, which of the features it hears of, and how it is fitted."""
    from aisle.training import efficientnet

    columns = {name: slice(at, at + efficientnet.FEATURES) for at, name in _places(names, efficientnet.FEATURES)}
    return [
        (f"{name}_{fit.__name__.strip('_')}", here, fit)
        for name, here in {**columns, "both": slice(None)}.items()
        for fit in (_logistic, _dense)
    ]


def _logistic(photos: Photos, features: Features) -> DenseHead:
    from aisle.model.image import DenseHead
    from aisle.training.heads import fit_logistic_head
    from aisle.training.recipes import LogisticTraining

    learnt, types = photos.learnt, len(photos.codes)
    found = fit_logistic_head(features, learnt.targets, learnt.weights, types, LogisticTraining())
    return DenseHead.from_arrays(found)


def _dense(photos: Photos, features: Features) -> DenseHead:
    import numpy as np

    from aisle.model.image import DenseHead
    from aisle.training import efficientnet
    from aisle.training.dense_head import fit_dense_head
    from aisle.training.recipes import DenseTraining

    how = DenseTraining()
    how = replace(how, networks=how.networks[: features.shape[1] // efficientnet.FEATURES])
    shares = np.eye(len(photos.codes), dtype=np.float32)[photos.learnt.targets]
    return DenseHead.from_arrays(fit_dense_head(features, shares, photos.learnt.weights, how, SEED))


def _speeds(names: tuple[str, ...]) -> list[Figure]:
    from aisle.model.image import ImageEncoder
    from aisle.training import efficientnet

    return [
        Figure(f"{'_'.join(networks)}_ms", _milliseconds(ImageEncoder(efficientnet.encoder(networks))))
        for networks in (*((name,) for name in names), names)
    ]


def _decoded_whole(photos: Photos, names: tuple[str, ...], so_far: Sequence[Figure]) -> list[Figure]:
    from aisle.model.image import ImageEncoder
    from aisle.training import efficientnet

    encoder = ImageEncoder(efficientnet.encoder(names))

    def whole(image: bytes) -> Features:
        return encoder.encode(_whole(image, encoder.size))

    head = _dense(photos, _encoded(whole, photos.learnt_files))
    found = photos.figures("decoded_whole", head, _encoded(whole, photos.held_out_files))
    [ours] = [one.value for one in so_far if one.name == f"{BOTH}_weighted_f1"]
    return [*found, Figure("lost_by_a_small_scale", found[0].value - ours, at_most=MAY_LOSE)]


def _of_8_bits(photos: Photos, names: tuple[str, ...], heads: Mapping[str, DenseHead]) -> list[Figure]:
    import numpy as np

    from aisle.model.image import ImageEncoder
    from aisle.training import efficientnet
    from aisle.training.lstm_vgg16.quantize import quantized
    from benchmarks.engines import openvino

    figures = []
    for name, networks, head in (("int8", names, heads[BOTH]), ("lite0_int8", names[:1], heads["lite0_dense"])):
        graph = efficientnet.encoder(networks)
        decode = ImageEncoder(graph).decode
        small = quantized(graph, [decode(one)[0] for one in photos.learnt_files[:RANGED]])
        encoder, engine = ImageEncoder(small), openvino(small)
        in_openvino = np.stack([engine(decode(one)[0]) for one in photos.held_out_files])
        figures += [
            *photos.figures(name, head, _encoded(encoder, photos.held_out_files)),
            *photos.figures(f"openvino_{name}", head, in_openvino),
            Figure(f"{name}_ms", _milliseconds(encoder)),
        ]
    return figures


def _places(names: Sequence[str], width: int) -> list[tuple[int, str]]:
    return [(place * width, name) for place, name in enumerate(names)]


def _with_image(rows: Rows, *, agreement: float) -> Rows:
    import numpy as np

    from aisle.model.classifier import IMAGE

    return rows.at(np.flatnonzero(rows.inputs.has(IMAGE) & (rows.weights >= agreement)))


def _images(examples: Examples, sides: Sequence[Side], agreement: float) -> list[bytes]:
    """The files of the rows that `_with_image` has of these sides."""
    rows = zip(examples.image_names(*sides), examples.rows(*sides, graph=None).weights, strict=True)
    return [examples.image(name) for name, weight in rows if name is not None and weight >= agreement]


def _encoded(encoder: Callable[[bytes], Features], images: Sequence[bytes]) -> Features:
    import numpy as np

    with ThreadPoolExecutor() as pool:
        return np.stack([*pool.map(encoder, images)])


def _whole(image: bytes, size: int) -> Pixels:
    """As an image is decoded that is not decoded at a smaller scale; what is not square is made so."""
    import numpy as np
    from PIL import Image

    whole = Image.open(io.BytesIO(image)).convert("RGB")
    return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR))


def _features(rows: Rows) -> Features:
    import numpy as np

    return np.stack([one for one in rows.inputs.features if one is not None])


def _calibrated(scores: Features, targets: NDArray[np.intp]) -> NDArray[np.float64]:
    """By the temperature that is best for these very rows: it is the same advantage for all."""
    import numpy as np

    from aisle.model.calibration import fit_temperature, log_softmax

    return np.exp(log_softmax(scores / fit_temperature(scores, targets)))


def _milliseconds(encoder: ImageEncoder) -> float:
    import numpy as np

    pixels = np.zeros((encoder.size, encoder.size, 3), np.uint8)
    taken = []
    for _ in range(TIMED):
        started = time.perf_counter()
        encoder.encode(pixels)
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)
