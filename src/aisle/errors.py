"""Every error that aisle raises on purpose.

    AisleError                     exit 1, HTTP 500   anything else
    ├── UsageError                 exit 2, HTTP 400   the call itself is wrong: an unknown recipe, a bad option
    ├── InputError                 exit 3, HTTP 422   what was given cannot be used
    │   ├── CatalogError                              a table of products: columns, encoding, labels
    │   ├── ArchiveError                              a zip: broken, a path outside, a bomb
    │   ├── ImageError                                an image: truncated, too large, of another kind
    │   └── BundleError                               a trained model: missing, altered, of another format
    ├── CheckFailed                exit 4, HTTP 409   a gate or a check said no
    └── ServiceMissing             exit 5, HTTP 503   an outside service does not answer

An error is one line that says what is wrong, where, and what to do about it. The traceback is for `--debug`.
"""

from __future__ import annotations

from typing import Any


class AisleError(Exception):
    """What went wrong (`what`), where it was seen (`where`) and what the reader can do (`hint`)."""

    exit_code = 1
    http_status = 500

    def __init__(self, what: str, *, where: str | object = "", hint: str = "") -> None:
        self.what = what
        self.where = str(where)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{line}. {self.hint}" if self.hint else line
        return " ".join(line.split())

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come from other processes, which by itself keeps neither `where` nor what a subclass needs."""
        return _rebuilt, (type(self), self.what, vars(self))


def _rebuilt(kind: type[AisleError], what: str, attributes: dict[str, Any]) -> AisleError:
    error = kind.__new__(kind, what)
    vars(error).update(attributes)
    return error


class UsageError(AisleError):
    exit_code = 2
    http_status = 400


class InputError(AisleError):
    exit_code = 3
    http_status = 422


class CatalogError(InputError):
    """A table of products that cannot be read, or that breaks the data contract."""


class ArchiveError(InputError):
    """A zip that is broken or that would do harm."""


class ImageError(InputError):
    """An image that is missing, truncated, too large or not an image. `reason` is one word for tables."""

    def __init__(self, what: str, *, reason: str, where: str | object = "", hint: str = "") -> None:
        self.reason = reason
        super().__init__(what, where=where, hint=hint)


class BundleError(InputError):
    """A bundle that is missing, incomplete or altered."""


class CheckFailed(AisleError):
    exit_code = 4
    http_status = 409


class ServiceMissing(AisleError):
    exit_code = 5
    http_status = 503
