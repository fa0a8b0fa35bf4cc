"""The image of a product: a background and the shapes of one of its type's layouts, drawn and encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw

from aisle.data.sample.plan import Draw, Row
from aisle.data.sample.words import Colour, Shape, load_words

Corners = tuple[int, int, int, int]  # left, top, right, bottom

ODD_IMAGE = 0.10  # shows something else than the products of its type do
IMAGE_SIDE = 500


def image_file(row: Row) -> bytes:
    """The JPEG of a product, damaged if the plan says so (a missing one is the caller's affair)."""
    if row.damage == "empty":
        return b""
    out = BytesIO()
    _picture(row).save(out, "JPEG", quality=row.quality)
    content = out.getvalue()
    return content[: len(content) // 3] if row.damage == "truncated" else content


def _picture(row: Row) -> Image.Image:
    draw = Draw(row.seed, row.image_of, "image")
    shown = draw.weighted(load_words().kinds) if draw.chance(ODD_IMAGE) else row.kind
    palette = _palette(row.colour(row.image_of), draw)
    image = _background(palette, draw)
    canvas = ImageDraw.Draw(image)
    view = _View(draw.between(65, 105), draw.between(-9, 9), draw.between(-9, 9), draw.chance(0.4))
    for shape in draw.pick(shown.layouts):
        if not (shape.optional and draw.chance(0.5)):
            for place, box in enumerate(_boxes(shape, draw)):
                shade = 100 - 15 * (place % 3)  # books side by side are not all of one colour
                _draw_form(canvas, shape.form, view.corners(*box), _shaded(palette[shape.colour], shade))
    return image


def _palette(colour: str, draw: Draw) -> dict[str, Colour]:
    """The colours by name, and this product's own: `main`, `second`, `dark`, `pale`."""
    colours = load_words().colours
    main = _shaded(colours[colour], draw.between(75, 115))
    own = {"main": main, "second": colours[draw.pick(list(colours))]}
    return {**colours, **own, "dark": _shaded(main, 50), "pale": _shaded(main, 35, plus=160)}


def _shaded(colour: Colour, percent: int, *, plus: int = 0) -> Colour:
    red, green, blue = (min(255, part * percent // 100 + plus) for part in colour)
    return red, green, blue


def _background(palette: Mapping[str, Colour], draw: Draw) -> Image.Image:
    """White as in a shop, one pale colour, or a wall and a floor as at a merchant's home."""
    scene = draw.weighted({"shop": 60, "plain": 15, "home": 25})
    wall = (255, 255, 255) if scene == "shop" else _shaded(palette[draw.pick(list(palette))], 40, plus=140)
    image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), wall)
    if scene == "home":
        floor = palette[draw.pick(["marron", "beige", "gris", "vert"])]
        image.paste(_shaded(floor, draw.between(60, 115)), (0, draw.between(250, 420), IMAGE_SIDE, IMAGE_SIDE))
    return image


def _boxes(shape: Shape, draw: Draw) -> Iterator[tuple[int, int, int, int]]:
    """Where a shape goes, a little larger or smaller than its layout says, once or side by side."""
    x, y, width, height = shape.box
    scale = draw.between(90, 110), draw.between(90, 110)
    for place in range(shape.repeat):
        yield x + place * (width + 2), y, max(1, width * scale[0] // 100), max(1, height * scale[1] // 100)


@dataclass(frozen=True, slots=True)
class _View:
    """Where the camera stands: the picture is scaled and moved (in percent), and perhaps mirrored."""

    scale: int
    right: int
    down: int
    mirrored: bool

    def corners(self, x: int, y: int, width: int, height: int) -> Corners:
        """A box in percent of the picture → its corners in pixels."""
        x = 100 - x - width if self.mirrored else x
        left = (x - 50) * self.scale + (50 + self.right) * 100
        top = (y - 50) * self.scale + (50 + self.down) * 100
        return _px(left), _px(top), _px(left + width * self.scale), _px(top + height * self.scale)


def _px(hundredths_of_a_percent: int) -> int:
    return hundredths_of_a_percent * IMAGE_SIDE // 10_000


def _draw_form(canvas: ImageDraw.ImageDraw, form: str, corners: Corners, colour: Colour) -> None:
    left, top, right, bottom = corners
    match form:
        case "disc":
            canvas.ellipse(corners, fill=colour)
        case "ring":
            canvas.ellipse(corners, outline=colour, width=14)
        case "round":
            canvas.rounded_rectangle(corners, radius=18, fill=colour)
        case "wedge":
            canvas.polygon([((left + right) // 2, top), (right, bottom), (left, bottom)], fill=colour)
        case _:
            canvas.rectangle(corners, fill=colour)
