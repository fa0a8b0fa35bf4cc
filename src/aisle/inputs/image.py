"""Safe decoding of a product image: JPEG, PNG or WebP by content, never by name.

The header is read first, and what it promises decides whether a pixel is decoded at all. JPEGs are decoded at
the smallest DCT scale that is still large enough, which is where the time goes (libjpeg-turbo by simplejpeg).
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from aisle.catalog import ImageTraits
from aisle.errors import ImageError
from aisle.files import sha256_bytes
from aisle.inputs.segments import has_too_many

Pixels = NDArray[np.uint8]
"""Height x width x 3, red, green, blue, 0 to 255."""

MAX_BYTES = 32 << 20
MAX_PIXELS = 25_000_000
MAX_SIDE = 8_000
_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
)
"""What Pillow and libjpeg raise for a damaged file."""

_WHITE = (255, 255, 255)
_PHOTO_QUALITY = 75
_FINGERPRINT_SIDE = 64
_TRAITS_STEP = 4  # every so many pixels in both directions are enough to tell how bright and how colourful they are
_LEAST_CONTRAST = 8  # grey levels; a flat picture (a white page, a placeholder) looks like every other flat one

# Pillow warns of odd EXIF and of sizes that are checked here. It is silenced for good, and not around each image:
# filters are the process's, and a thread that sets them back undoes what another one has just set.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image is, without its pixels.

    `fingerprint` is equal for images that look the same, and empty where there is nothing to see.
    """

    sha256: str
    format: str
    width: int
    height: int
    fingerprint: str


def decode(data: bytes, size: int) -> Pixels:
    """Decode `data` to `size` x `size` pixels: upright, RGB, the whole picture, white where it is not square.

    Raises ImageError with `reason` `empty`, `too_large`, `not_an_image`, `animated` or `corrupt`.
    """
    return decode_with_traits(data, size)[0]


def decode_with_traits(data: bytes, size: int) -> tuple[Pixels, ImageTraits]:
    """As `decode`, and what is cheap to know of the image; brightness and saturation are those of the pixels."""
    image, (width, height), _ = _open(data, size)
    pixels = _to_square(image, size)
    brightness, saturation = light_of(pixels)
    return pixels, ImageTraits(width, height, brightness, saturation)


def small_photo(data: bytes, side: int) -> bytes:
    """The picture of an image within `side` x `side` pixels, upright, as a JPEG; one that is smaller stays so.

    Nothing else of the file is in it: not where or when it was taken, by what or by whom. Raises ImageError as
    `decode` does.
    """
    image, _, _ = _open(data, side)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    jpeg: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_PHOTO_QUALITY, colorsubsampling="420")
    return jpeg


def light_of(pixels: Pixels) -> tuple[float, float]:
    """Brightness and saturation in [0, 1]: the mean of all channels, and the mean distance between the strongest and
    the weakest of a pixel."""
    pixels = pixels[::_TRAITS_STEP, ::_TRAITS_STEP]
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    strongest = np.maximum(np.maximum(red, green), blue)
    weakest = np.minimum(np.minimum(red, green), blue)
    return round(float(pixels.mean()) / 255, 4), round(float((strongest - weakest).mean()) / 255, 4)


def inspect(data: bytes) -> ImageFacts:
    """Decode `data` once and tell what it is. Raises ImageError as `decode` does."""
    image, (width, height), kind = _open(data, _FINGERPRINT_SIDE)
    return ImageFacts(sha256_bytes(data), kind, width, height, fingerprint(image))


def fingerprint(image: Image.Image) -> str:
    """A perceptual hash, 63 bits as 16 hex digits: which low frequencies are stronger than their median?

    pHash of C. Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010): the first
    8 x 8 DCT coefficients of the 32 x 32 grey image, without the mean. Of 417 product photos, 92 % keep their
    hash when saved again at JPEG quality 90, 86 % at 60, 83 % when shrunk by a quarter, while the difference
    hash takes several times as many different products on a white background for the same.
    """
    from scipy.fft import dctn  # noqa: PLC0415  prediction does without it

    grid = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    if np.ptp(grid) < _LEAST_CONTRAST:
        return ""
    frequencies = dctn(grid)[:8, :8].ravel()[1:]
    return np.packbits(frequencies > np.median(frequencies)).tobytes().hex()


def _open(data: bytes, wanted: int) -> tuple[Image.Image, tuple[int, int], str]:
    """The upright RGB image at `wanted` pixels or more a side if it has them, its true size, and its format."""
    if not data:
        raise ImageError("the image is empty", reason="empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the image has more than {MAX_BYTES >> 20} MiB", reason="too_large")
    if has_too_many(data):
        raise ImageError("the image is in more pieces than any encoder makes", reason="corrupt")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            size, kind = image.size, image.format or ""
            _check_header(image)
            decoded = _decode_scaled(image, data, wanted)
            ImageOps.exif_transpose(decoded, in_place=True)  # a copy of the largest takes 100 MB
            return _to_rgb(decoded), size, kind
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError("the image has too many pixels to be decoded", reason="too_large") from None
    except UnidentifiedImageError:
        raise ImageError("the file is not a JPEG, PNG or WebP image", reason="not_an_image") from None
    except _DAMAGE as error:
        raise ImageError(f"the image is damaged ({error})", reason="corrupt") from None


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"the image is {width} x {height} pixels; at most {MAX_PIXELS // 1_000_000} megapixels and "
            f"{MAX_SIDE} pixels a side are decoded",
            reason="too_large",
        )
    # The JPEGs of many phones have a second picture behind the first, which Pillow calls MPO.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageError("the image is animated", reason="animated")


def _decode_scaled(image: Image.Image, data: bytes, wanted: int) -> Image.Image:
    orientation = image.getexif().get(_ORIENTATION, 1)
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        decoded = Image.fromarray(_decode_jpeg(data, min(image.size), wanted))
        decoded.getexif()[_ORIENTATION] = orientation
        return decoded
    image.draft(image.mode, (wanted, wanted))
    image.load()
    return image


def _decode_jpeg(data: bytes, shorter_side: int, wanted: int) -> Pixels:
    least = min(wanted, shorter_side)
    pixels: Pixels = simplejpeg.decode_jpeg(
        data,
        colorspace="RGB",
        fastdct=True,
        fastupsample=True,
        min_height=least,
        min_width=least,
        min_factor=1,
    )
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip all but the darkest
        return Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, _WHITE)
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


def _to_square(image: Image.Image, size: int) -> Pixels:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if (width, height) != (size, size):
        square = Image.new("RGB", (size, size), _WHITE)
        square.paste(image, ((size - width) // 2, (size - height) // 2))
        image = square
    return np.asarray(image)
