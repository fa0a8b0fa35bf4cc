"""From a JPEG to the pixels that the image networks take, beside the ways of others, each on one thread.

Photos of the real catalogue: as they are (500 x 500), and enlarged to 1000 and 2000 pixels a side, which merchants
send, too. Ways take turns; a round's ratio is between figures of that round. What each of them gives is compared with
the whole decoding by Pillow. Whether models are as often right is said by `image_models`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Figure, Options, Skipped, in_turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Way = Callable[[Sequence[bytes]], "list[NDArray[np.uint8]]"]
OURS, PLAIN = "ours", "pillow"
SIDES, PHOTOS, ROUNDS, QUALITY = (500, 1000, 2000), 40, 9, 90
FASTEST_GOAL = 1.0
PLAIN_GOALS = {500: 2.0, 2000: 4.0}


def run(options: Options) -> list[Figure]:
    from aisle.training.efficientnet import SIZE

    originals = _photos(options.real_catalogue() / "full_size")
    ways = _ways(SIZE)
    figures = []
    by_side = {side: [enlarged(one, side) for one in originals] for side in SIDES[1:]} | {SIDES[0]: originals}
    for side, photos in sorted(by_side.items()):
        taken = in_turn({name: partial(way, photos) for name, way in ways.items()}, ROUNDS)
        found = {name: [1000 * one / len(photos) for one in seconds] for name, seconds in taken.items()}
        figures += [
            *(Figure.of_rounds(f"{name}_{side}_ms", taken) for name, taken in found.items()),
            *(
                _ratio(f"{name}_{side}_ratio", found, name, FASTEST_GOAL)
                for name in found
                if name not in (OURS, PLAIN)
            ),
            _ratio(f"{PLAIN}_{side}_ratio", found, PLAIN, PLAIN_GOALS.get(side, FASTEST_GOAL)),
        ]
        largest, mean = _difference(ways[OURS], ways[PLAIN], photos)
        figures += [
            Figure(f"ours_{side}_largest_difference", largest),
            Figure(f"ours_{side}_mean_difference", mean),
        ]
    return figures


def _ways(size: int) -> Mapping[str, Way]:
    """By name, what makes `size` x `size` pixels of each JPEG. All but ours take what they decode to be square."""
    return {
        OURS: _each(_ours(size)),
        **{name: _each(one) for name, one in _theirs(size).items()},
        "tf_data": _tf_data(size),
    }


def _each(decode: Callable[[bytes], NDArray[np.uint8]]) -> Way:
    return lambda photos: [decode(one) for one in photos]


def _ours(size: int) -> Callable[[bytes], NDArray[np.uint8]]:
    from aisle.inputs.image import decode

    return lambda data: decode(data, size)


def _theirs(size: int) -> Mapping[str, Callable[[bytes], NDArray[np.uint8]]]:
    import cv2
    import numpy as np
    import simplejpeg
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    cv2.setNumThreads(1)

    def pillow(data: bytes) -> NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), bilinear))

    def pillow_draft(data: bytes) -> NDArray[np.uint8]:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (size, size))
        return np.asarray(image.convert("RGB").resize((size, size), bilinear))

    def whole_simplejpeg(data: bytes) -> NDArray[np.uint8]:
        whole = Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
        return np.asarray(whole.resize((size, size), bilinear))

    def opencv(data: bytes) -> NDArray[np.uint8]:
        whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert whole is not None
        small = cv2.resize(whole, (size, size), interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    return {PLAIN: pillow, "pillow_draft": pillow_draft, "simplejpeg": whole_simplejpeg, "cv2": opencv}


def _tf_data(size: int) -> Way:
    """A pipeline, as one is made for a training; it is put together in the round that does not count."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def decoded(data):  # type: ignore[no-untyped-def]
        small = tf.image.resize(tf.io.decode_jpeg(data, channels=3), (size, size))
        return tf.cast(tf.round(small), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    pipelines: dict[int, tf.data.Dataset] = {}

    def way(photos: Sequence[bytes]) -> list[NDArray[np.uint8]]:
        if id(photos) not in pipelines:
            source = tf.data.Dataset.from_tensor_slices(list(photos))
            pipelines[id(photos)] = source.map(decoded).with_options(options)
        return [np.asarray(one) for one in pipelines[id(photos)].as_numpy_iterator()]

    return way


def _photos(folder: Path) -> list[bytes]:
    found = [path.read_bytes() for path in islice(sorted(folder.glob("*.jpg")), PHOTOS)]
    if not found:
        raise Skipped(f"there are no photos in {folder}")
    return found


def enlarged(photo: bytes, side: int) -> bytes:
    from PIL import Image

    large = io.BytesIO()
    image = Image.open(io.BytesIO(photo)).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    image.save(large, "JPEG", quality=QUALITY)
    return large.getvalue()


def _ratio(name: str, found: Mapping[str, Sequence[float]], way: str, goal: float) -> Figure:
    """How many times ours is as fast as that way."""
    values = [their / our for their, our in zip(found[way], found[OURS], strict=True)]
    return Figure.of_rounds(name, values, at_least=goal)


def _difference(ours: Way, plain: Way, photos: Sequence[bytes]) -> tuple[float, float]:
    """The largest and the mean difference between two channels of a pixel, of 255."""
    import numpy as np

    found = [np.abs(a.astype(int) - b) for a, b in zip(ours(photos), plain(photos), strict=True)]
    return float(max(one.max() for one in found)), float(np.mean([one.mean() for one in found]))
