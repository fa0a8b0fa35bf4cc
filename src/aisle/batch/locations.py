"""From where a batch may take its table: folders and prefixes that the shop has named, and nothing else."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from aisle.batch.places import S3, Place, place_of
from aisle.errors import InputError, UsageError


class Locations:
    """What `BATCH_LOCATIONS` allows. Raises UsageError for what is neither a folder nor a prefix."""

    def __init__(self, text: str, endpoint: str) -> None:
        self._endpoint = endpoint
        allowed = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
        if any("://" in one and not one.startswith(S3) for one in allowed):
            raise UsageError("BATCH_LOCATIONS: it takes folders and s3://BUCKET/PREFIX", where="settings")
        self._prefixes = [one for one in allowed if one.startswith(S3)]
        self._folders = [Path(one).resolve() for one in allowed if not one.startswith(S3)]

    def place(self, address: str) -> Place:
        """Raises InputError for a place that is not below one of them, wherever links and `..` lead."""
        refused = _refused()
        if address.startswith(S3):
            is_plain = ".." not in PurePosixPath(address).parts and "//" not in address.removeprefix(S3)
            if not is_plain or not any(f"{address}/".startswith(f"{one}/") for one in self._prefixes):
                raise refused
            return place_of(address, self._endpoint)
        if "://" in address or "\0" in address or not address.startswith("/"):
            raise refused
        found = Place(address)
        self.check(found)
        return found

    def check(self, place: Place) -> None:
        """The same of a place on this machine that was found below an allowed one. Raises InputError."""
        if not place.is_s3 and not any(place.path.resolve().is_relative_to(one) for one in self._folders):
            raise _refused()


def _refused() -> InputError:
    return InputError("this location is none of those that a batch may read", hint="Or upload the table.")
