"""The one way in for images."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aisle.errors import ImageError
from aisle.inputs.image import MAX_BYTES, decode, decode_with_traits, inspect, small_photo

RED, BLUE = (220, 20, 30), (20, 30, 220)


def picture(width: int = 300, height: int = 300, mode: str = "RGB") -> Image.Image:
    """Red above blue, with a soft gradient, so that orientation and scale can be seen."""
    rows = np.linspace(0, 1, height)[:, None, None]
    pixels = (np.array(RED) * (1 - rows) + np.array(BLUE) * rows) * np.ones((1, width, 1))
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "MPO"])
def test_each_format_is_known_by_its_content(kind: str) -> None:
    pixels = decode(encoded(picture(), kind), 224)
    assert pixels.shape == (224, 224, 3)
    assert np.abs(pixels[2, 112].astype(int) - RED).max() < 25
    assert np.abs(pixels[-3, 112].astype(int) - BLUE).max() < 25


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_each_colour_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = Image.fromarray(np.full((50, 50), 40_000, np.uint16)) if mode == "I;16" else picture(50, 50, mode)
    assert decode(encoded(image, kind), 64).shape == (64, 64, 3)


def test_what_is_half_transparent_is_mixed_with_white_as_pillow_composes_it() -> None:
    values, alphas = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    image = Image.fromarray(np.dstack([values, values, values, alphas]), "RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert (decode(encoded(image, "PNG"), 256) == expected).all()


def test_the_largest_image_takes_so_much_memory_and_no_more() -> None:
    """Four channels of 25 megapixels: 100 MB as they are, and 100 MB on white."""
    program = """
import resource, sys
from aisle.inputs.image import decode
content = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(content, 224)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    content = encoded(Image.new("RGBA", (5000, 5000), (9, 9, 9, 9)), "PNG", compress_level=1)
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True, timeout=60)
    assert int(done.stdout) < 300 << 10  # KiB


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    grey = Image.fromarray(np.full((50, 50), 40_000, np.uint16))
    assert abs(int(decode(encoded(grey, "PNG"), 32).mean()) - 156) <= 1


def test_a_transparent_image_lies_on_white() -> None:
    assert decode(encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG"), 32).min() == 255


@pytest.mark.parametrize(("orientation", "top"), [(1, RED), (3, BLUE), (6, None), (8, None)])
def test_an_image_is_turned_as_its_exif_says(orientation: int, top: tuple[int, int, int] | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(picture(), exif=exif), 100).astype(int)
    if top is not None:
        assert np.abs(pixels[1, 50] - top).max() < 25
    else:  # turned by a quarter: the left and right edges differ, top and bottom do not
        assert np.abs(pixels[50, 1] - pixels[50, -2]).max() > 100
        assert np.abs(pixels[1, 50] - pixels[-2, 50]).max() < 25


@pytest.mark.parametrize(("width", "height"), [(400, 100), (100, 400), (1, 1), (1, 500), (7, 3)])
def test_an_image_that_is_not_square_is_shown_whole_on_white(width: int, height: int) -> None:
    pixels = decode(encoded(Image.new("RGB", (width, height), "black"), "PNG"), 100)
    assert pixels.shape == (100, 100, 3)
    expected = 10_000 * min(width, height) / max(width, height)
    assert abs(int((pixels[:, :, 0] < 128).sum()) - expected) <= 200


@pytest.mark.parametrize("side", [225, 447, 500, 1000, 2000])
def test_scaled_decoding_shows_what_full_decoding_shows(side: int) -> None:
    content = encoded(picture(side, side), quality=95)
    full = Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    assert np.abs(decode(content, 224).astype(int) - np.asarray(full)).max() <= 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (encoded(picture(), "GIF"), "not_an_image"),
        (encoded(picture(), "BMP"), "not_an_image"),
        (encoded(picture())[:2000], "corrupt"),
        (encoded(picture(), "PNG")[:200], "corrupt"),
        (encoded(picture(), "WEBP")[:100], "corrupt"),
        (png_header(20_000, 20_000), "too_large"),
        (png_header(8_001, 10), "too_large"),
        (png_header(100, 100), "corrupt"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 100, "not_an_image"),
        (b"\xff" * (MAX_BYTES + 1), "too_large"),
    ],
)
def test_a_bad_image_has_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(content, 224)
    assert caught.value.reason == reason


def png_of(*chunks: bytes) -> bytes:
    """A small PNG with chunks between its header and its picture."""
    whole = encoded(picture(8, 8), "PNG")
    return whole[:33] + b"".join(chunks) + whole[33:]


def jpeg_of(*segments: bytes) -> bytes:
    whole = encoded(picture(8, 8))
    return whole[:2] + b"".join(segments) + whole[2:]


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    whole = encoded(picture(64, 64), progressive=True)
    last = whole[whole.rindex(b"\xff\xc4") : -2]
    return whole[:-2] + last * count + whole[-2:]


PRIVATE = struct.pack(">I4sI", 0, b"abCd", zlib.crc32(b"abCd"))


@pytest.mark.parametrize(
    "content",
    [
        png_of(PRIVATE * 600_000),  # minutes in Pillow
        png_of(struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT")) * 600_000),
        many_scans(100_000),  # an hour in libjpeg, if it were 25 megapixels
        jpeg_of(b"\xff\xfe\0\2" * 1_000_000),
        jpeg_of(b"\xff" * 4_000_000),
        jpeg_of(b"\0" * 4_000_000),
    ],
    ids=["chunks", "empty data", "scans", "comments", "padding", "junk"],
)
def test_an_image_in_a_million_pieces_takes_no_time(content: bytes) -> None:
    start = time.process_time()
    with pytest.raises(ImageError, match="pieces") as caught:
        decode(content, 224)
    assert time.process_time() - start < 1
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize(
    "content",
    [
        png_of(PRIVATE * 10_000),
        jpeg_of(b"\xff\xfe\0\2" * 500),
        jpeg_of(b"\xff" * 20),
        encoded(picture(), progressive=True),
        encoded(picture()) + b"\xff\xda" * 1000,  # such as the film behind a phone's photo
        encoded(picture(mode="CMYK"), progressive=True),
    ],
    ids=["chunks", "comments", "padding", "progressive", "film", "four colours"],
)
def test_an_image_in_many_pieces_is_decoded(content: bytes) -> None:
    assert decode(content, 32).shape == (32, 32, 3)


def with_odd_exif() -> bytes:
    """A JPEG whose EXIF ends before what it promises, of which Pillow warns."""
    plain = encoded(picture(40, 40))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0"
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def test_of_an_odd_image_nobody_is_warned_whatever_warnings_are_to_be() -> None:
    program = "import sys; from aisle.inputs.image import decode; decode(sys.stdin.buffer.read(), 224)"
    run = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(run, input=with_odd_exif(), capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_process_has_the_same_filters_of_warnings_while_an_image_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other threads set filters, too: what one sets back, another may just need."""
    seen: list[bool] = []
    before, opened = warnings.filters, Image.open

    def opening(*given: Any, **named: Any) -> Any:
        seen.append(warnings.filters is before)
        return opened(*given, **named)

    monkeypatch.setattr(Image, "open", opening)
    decode(encoded(picture()), 224)
    assert seen == [True]


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_an_animated_image_is_refused(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    with pytest.raises(ImageError, match="animated"):
        decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_no_damage_raises_anything_but_an_image_error(kind: str) -> None:
    content = bytearray(encoded(picture(120, 90), kind))
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 4):
            damaged[position] ^= 1 << int(generator.integers(0, 8))
        try:
            decode(bytes(damaged), 64)
        except ImageError:
            continue


@pytest.mark.parametrize("share", [i / 20 for i in range(1, 20)])
def test_a_truncated_jpeg_is_refused_wherever_it_ends(share: float) -> None:
    content = encoded(picture())
    with pytest.raises(ImageError):
        decode(content[: int(len(content) * share)], 224)


def test_the_same_picture_saved_again_has_the_same_fingerprint() -> None:
    photo = Image.effect_mandelbrot((400, 400), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    hashes = {inspect(encoded(photo, quality=quality)).fingerprint for quality in (95, 80)}
    assert len(hashes) == 1


def test_other_pictures_have_other_fingerprints() -> None:
    mandelbrot = Image.effect_mandelbrot((400, 400), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    assert inspect(encoded(picture())).fingerprint != inspect(encoded(mandelbrot)).fingerprint


def test_facts_are_those_of_the_file() -> None:
    facts = inspect(encoded(picture(640, 480)))
    assert (facts.format, facts.width, facts.height, len(facts.sha256)) == ("JPEG", 640, 480, 64)


def test_decoding_does_not_load_what_only_the_hash_of_an_image_needs() -> None:
    program = "import sys, aisle.inputs.image; sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_traits_of_an_image_are_its_true_size_its_light_and_its_colour() -> None:
    pixels, traits = decode_with_traits(encoded(picture(640, 480)), 224)
    assert (decode(encoded(picture(640, 480)), 224) == pixels).all()
    assert (traits.width, traits.height) == (640, 480)
    grey = decode_with_traits(encoded(picture(mode="L").convert("RGB")), 224)[1]
    white = decode_with_traits(encoded(Image.new("RGB", (90, 90), (255, 255, 255))), 224)[1]
    assert grey.saturation < 0.02
    assert traits.saturation > 0.4
    assert (white.brightness, white.saturation) == (1, 0)
    assert traits.brightness < white.brightness


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_small_photo_is_upright_and_has_nothing_of_the_file_but_its_picture(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 24.0)
    more = {"comment": b"taken by Anne"} if kind == "JPEG" else {}
    jpeg = small_photo(encoded(picture(1000, 600), kind, exif=exif.tobytes(), **more), 384)
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as photo:
        assert photo.size == (230, 384)
        assert not photo.getexif()
        assert set(photo.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        pixels = np.asarray(photo)
    assert b"Exif" not in jpeg
    assert np.abs(pixels[192, -3].astype(int) - RED).max() < 25
    assert np.abs(pixels[192, 2].astype(int) - BLUE).max() < 25


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (2000, 3), (384, 384)])
def test_a_photo_of_any_shape_fits_and_none_is_enlarged(size: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(small_photo(encoded(picture(*size), "PNG"), 384))) as photo:
        assert max(photo.size) == min(384, max(size))


def test_a_damaged_image_gives_no_photo() -> None:
    with pytest.raises(ImageError):
        small_photo(b"GIF89a", 384)
