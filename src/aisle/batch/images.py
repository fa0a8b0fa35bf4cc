"""The images of bulk work, wherever they are: a folder or zip on this machine, or one in S3."""

from __future__ import annotations

from aisle.batch.places import Place
from aisle.data.images import SUFFIXES, Images, ImageZip, open_given_images
from aisle.errors import ImageError, InputError
from aisle.inputs.image import MAX_BYTES

ZIP = ".zip"


class ImagesInS3:
    """Images right below one prefix. Nothing is listed, as a catalogue may have millions of them."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __len__(self) -> int:
        raise TypeError("images in S3 are not counted")

    def read(self, stem: str) -> bytes:
        for suffix in SUFFIXES:
            try:
                with (self._place / f"{stem}{suffix}").open() as stream:
                    content = stream.read(MAX_BYTES + 1)
            except InputError:
                continue
            if len(content) > MAX_BYTES:
                raise ImageError(f"the image has more than {MAX_BYTES >> 20} MiB", reason="too_large", where=stem)
            return content
        raise ImageError("there is no such image", reason="missing", where=stem)


def open_images_at(place: Place) -> Images:
    """Raises InputError where there are none, ArchiveError for what is no zip."""
    if not place.is_s3:
        return open_given_images(place.path)
    return ImageZip(place.open(), place) if place.suffix == ZIP else ImagesInS3(place)
