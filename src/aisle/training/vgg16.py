"""Which weights VGG16 begins with, told without loading a network library."""

from __future__ import annotations

from pathlib import Path

import httpx

from aisle.errors import UsageError
from aisle.logs import get_logger

IMAGENET, NONE, AUTO = "imagenet", "none", "auto"

WEIGHTS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
WEIGHTS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{WEIGHTS_FILE}"
WEIGHTS_MD5 = "6d6bbae143d832006294945121d1f1fc"
"""Of Keras's own copy of the ImageNet weights (K. Simonyan, A. Zisserman, arXiv:1409.1556), which Keras checks."""

PROBE_SECONDS = 5.0


def choose_weights(wanted: str, keras_home: Path) -> str:
    """`imagenet` or `none`; `auto` is `imagenet` where its file is there or can be downloaded. Raises UsageError."""
    if wanted in (IMAGENET, NONE):
        return wanted
    if wanted != AUTO:
        raise UsageError(f"--weights is {AUTO}, {IMAGENET} or {NONE}, not {wanted!r}")
    if (keras_home / "models" / WEIGHTS_FILE).is_file() or _can_be_downloaded():
        return IMAGENET
    get_logger(__name__).warning(
        "VGG16's ImageNet weights cannot be downloaded: it begins with random ones, and sees much less",
        url=WEIGHTS_URL,
    )
    return NONE


def source(weights: str) -> str:
    """What a lineage says of the weights."""
    return f"md5:{WEIGHTS_MD5}" if weights == IMAGENET else "random"


def _can_be_downloaded() -> bool:
    try:
        return httpx.head(WEIGHTS_URL, timeout=PROBE_SECONDS, follow_redirects=True).is_success
    except httpx.HTTPError:
        return False
