"""What the image alone is worth on real products: each network with each head, and both networks as `light` has them.

Learnt from the train side, measured on the others where at least 95 % of the models behind a silver label agree.
A network's milliseconds are those of one image on one core. `whole` is both networks, asked of images that Pillow
decoded whole instead of at the smallest scale that is large enough. `int8` is both networks with 8-bit convolutions,
their ranges taken from images of the train side, and the head that was learnt with 32 bits.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
RANGED = 200
"""Images that tell the ranges of 8-bit numbers."""


def run(options: Options) -> list[Figure]:
    import numpy as np

    from aisle.data.prepare import ensure_prepared
    from aisle.data.split import Side
    from aisle.model.image import DenseHead, ImageEncoder
    from aisle.settings import Settings
    from aisle.training import efficientnet
    from aisle.training.dense_head import fit_dense_head
    from aisle.training.evaluate import measure
    from aisle.training.examples import Examples
    from aisle.training.heads import fit_logistic_head
    from aisle.training.lstm_vgg16.quantize import quantized
    from aisle.training.recipes import DenseTraining, LogisticTraining

    real = options.real_catalogue()
    names = DenseTraining().networks
    columns = {name: slice(at, at + efficientnet.FEATURES) for at, name in _places(names, efficientnet.FEATURES)}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(cache_path=Path(folder))
        examples = Examples(ensure_prepared(real, settings, threads=settings.cores), Path(folder), settings.cores)
        graph = efficientnet.encoder(names)
        others = (Side.VALIDATION, Side.TEST)
        learnt = _with_image(examples.rows(Side.TRAIN, graph=graph), agreement=0)
        held_out = _with_image(examples.rows(*others, graph=graph), agreement=AGREEMENT)
        shown, judged = _images(examples, (Side.TRAIN,), 0)[:RANGED], _images(examples, others, AGREEMENT)
    seen, unseen = _features(learnt), _features(held_out)
    types = len(examples.codes)
    shares = np.eye(types, dtype=np.float32)[learnt.targets]

    def logistic(features: Features) -> DenseHead:
        found = fit_logistic_head(features, learnt.targets, learnt.weights, types, LogisticTraining())
        return DenseHead.from_arrays(found)

    def dense(features: Features) -> DenseHead:
        how = replace(DenseTraining(), networks=names[: features.shape[1] // efficientnet.FEATURES])
        return DenseHead.from_arrays(fit_dense_head(features, shares, learnt.weights, how, SEED))

    figures = [Figure("learnt_from", len(learnt)), Figure("measured_on", len(held_out))]
    tried: list[tuple[str, slice, Callable[[Features], DenseHead]]] = [
        *((f"{name}_{fit.__name__}", columns[name], fit) for name in names for fit in (logistic, dense)),
        ("both_logistic", slice(None), logistic),
        ("both_dense", slice(None), dense),
    ]
    for label, here, fit in tried:
        started = time.perf_counter()
        head = fit(np.ascontiguousarray(seen[:, here]))
        seconds = time.perf_counter() - started
        scores = head.scores(np.ascontiguousarray(unseen[:, here]))
        said = measure(_calibrated(scores, held_out.targets), held_out.targets, examples.codes)
        is_ours = label == "both_dense"
        figures += [
            Figure(f"{label}_weighted_f1", said["weighted_f1"], at_least=GOAL if is_ours else None),
            Figure(f"{label}_log_loss", said["log_loss"]),
            Figure(f"{label}_fit_s", seconds),
        ]
        if is_ours:
            low, high = bootstrap(
                [examples.codes[one] for one in held_out.targets],
                [examples.codes[one] for one in scores.argmax(axis=1)],
            )
            figures += [Figure(f"{label}_weighted_f1_low", low), Figure(f"{label}_weighted_f1_high", high)]
    for networks in (*((name,) for name in names), names):
        encoder = ImageEncoder(efficientnet.encoder(networks))
        figures.append(Figure(f"{'_'.join(networks)}_ms", _milliseconds(encoder)))
    both = ImageEncoder(graph)
    decoded_whole = _encoded(lambda image: both.encode(_whole(image, both.size)), judged)
    of_whole = measure(_calibrated(head.scores(decoded_whole), held_out.targets), held_out.targets, examples.codes)
    small = ImageEncoder(quantized(graph, [encoder.decode(one)[0] for one in shown]))
    said = measure(
        _calibrated(head.scores(_encoded(small, judged)), held_out.targets), held_out.targets, examples.codes
    )
    return [
        *figures,
        Figure("whole_weighted_f1", of_whole["weighted_f1"]),
        Figure("whole_log_loss", of_whole["log_loss"]),
        Figure("int8_weighted_f1", said["weighted_f1"]),
        Figure("int8_log_loss", said["log_loss"]),
        Figure("int8_ms", _milliseconds(small)),
    ]


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
