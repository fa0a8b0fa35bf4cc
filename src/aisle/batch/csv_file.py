"""A CSV file as shops write them, read from any row on: commas, semicolons, tabs or bars, UTF-8 or Windows-1252.

`examine` reads the file once and says how it is written; `cut` says at which bytes its pieces begin and end, by which
`read` finds one again without what is before it.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from aisle.errors import CatalogError

UTF8, WESTERN = "utf-8", "cp1252"
SEPARATORS = ",;\t|"
MAX_CELL = 16 << 20  # characters
MAX_LINE = 16 << 20  # bytes
BLOCK = 1 << 20
PIECE_BYTES = 16 << 20
FEW = 0.2
MAX_EMPTY_LINES = 100_000
"""In a row: no table has them, and a gigabyte of them would keep a worker for an hour."""


@dataclass(frozen=True, slots=True)
class CsvLayout:
    """How a file is written. `columns` are its own names."""

    encoding: str
    separator: str
    columns: tuple[str, ...]


def examine(stream: BinaryIO, where: object, *, known: Callable[[str], bool]) -> CsvLayout:
    """`known` tells the name of a column; the separator is the one that makes most of them out of the header.

    Raises CatalogError for an empty file and one in another encoding.
    """
    encoding = _encoding(stream, where)
    headers: dict[str, list[str]] = {}
    refusals: list[CatalogError] = []
    for separator in SEPARATORS:
        stream.seek(0)
        try:
            record = _header(_records(_Lines(stream, encoding, where), separator, where))
        except CatalogError as error:  # "title";"description" is no table with commas
            refusals.append(error)
        else:
            headers[separator] = [name.strip() for name in record]
    if not headers:
        raise refusals[0]
    separator = max(headers, key=lambda one: (sum(map(known, headers[one])), one == ","))
    if not headers[separator]:
        raise CatalogError("is empty", where=where, hint="Its first line names the columns.")
    return CsvLayout(encoding, separator, tuple(headers[separator]))


def cut(stream: BinaryIO, layout: CsvLayout, rows: int, where: object) -> Iterator[tuple[int, int, int]]:
    """For each piece of at most so many rows, and not many more bytes than `PIECE_BYTES`: the bytes at which it
    begins and ends, and how many rows it has.

    Raises CatalogError, which names the line, for what is no CSV.
    """
    stream.seek(0)
    lines = _Lines(stream, layout.encoding, where)
    records = _records(lines, layout.separator, where)
    _header(records)
    start, count = lines.offset, 0
    for record in records:
        count += _is_row(record, layout)
        if count == rows or (count and lines.offset - start >= PIECE_BYTES):
            yield start, lines.offset, count
            start, count = lines.offset, 0
    if count:
        yield start, lines.offset, count


def read(stream: BinaryIO, layout: CsvLayout, start: int, stop: int, where: object) -> list[list[str]]:
    """The rows between two bytes that `cut` gave, each with as many cells as it has.

    Raises CatalogError where the file is another one by now.
    """
    stream.seek(start)
    text = _decoded(stream.read(stop - start), layout.encoding, where)
    rows = _records(iter(io.StringIO(text, newline="")), layout.separator, where)
    return [row or [""] for row in rows if _is_row(row, layout)]


class _Lines:
    r"""The lines of a file as text, and behind which byte it has come. A line ends with \n, \r\n or \r."""

    def __init__(self, stream: BinaryIO, encoding: str, where: object) -> None:
        self._encoding, self._where = encoding, where
        self._lines = _split(stream, where)
        self.offset = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        is_first = not self.offset
        self.offset += len(line)
        if is_first and self._encoding == UTF8:
            line = line.removeprefix(codecs.BOM_UTF8)
        return _decoded(line, self._encoding, self._where)


def _split(stream: BinaryIO, where: object) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(BLOCK):
        lines = (rest + block).splitlines(keepends=True)
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()  # behind \r, there may come \n
        if len(rest) > MAX_LINE:
            raise CatalogError(f"has a line of more than {MAX_LINE >> 20} MiB", where=where, hint=_QUOTES)
        yield from lines
    if rest:
        yield rest


def _decoded(content: bytes, encoding: str, where: object) -> str:
    try:
        return content.decode(
            encoding, "strict" if encoding == UTF8 else "replace"
        )  # five bytes of cp1252 are nothing
    except UnicodeDecodeError:
        raise CatalogError("is no longer the file that it was", where=where, hint=_CHANGED) from None


_CHANGED = "Begin again, without --resume."
_QUOTES = "A cell with a separator, a quote or a line break needs quotes around it, and a quote in it is doubled."


def _records(lines: Iterator[str], separator: str, where: object) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    begins, empty = 1, 0
    try:
        for record in reader:
            empty = 0 if record else empty + 1
            if empty > MAX_EMPTY_LINES:
                raise CatalogError(f"has more than {MAX_EMPTY_LINES} empty lines in a row", where=where)
            yield record
            begins = reader.line_num + 1
    except csv.Error as error:
        what = f"cannot be read as a table in the row that begins in line {begins}: {_said(error)}"
        raise CatalogError(what, where=where, hint=_QUOTES) from None


def _said(error: csv.Error) -> str:
    if str(error) == "unexpected end of data":
        return "a quote is opened and never closed"
    return f"a cell of more than {MAX_CELL} characters" if "field limit" in str(error) else str(error)


def _header(records: Iterator[list[str]]) -> list[str]:
    """The first record that is no empty line; none, where there is none."""
    return next((record for record in records if record), [])


def _is_row(record: Sequence[str], layout: CsvLayout) -> bool:
    """An empty line is a row only where a row is one cell."""
    return bool(record) or len(layout.columns) == 1


def _encoding(stream: BinaryIO, where: object) -> str:
    """UTF-8, or Windows-1252 where hardly a byte looks like UTF-8. Raises CatalogError for a mixture of both."""
    stream.seek(0)
    start = stream.read(64)
    if b"\x00" in start or start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CatalogError("is UTF-16 or no text", where=where, hint="Save it as CSV in UTF-8.")
    wrong = _first_wrong_byte(stream)
    if wrong is None:
        return UTF8
    if start.startswith(codecs.BOM_UTF8) or _looks_mixed(stream):
        line, byte = wrong
        raise CatalogError(
            f"is not UTF-8: byte 0x{byte:02X} in line {line}, though other letters are",
            where=where,
            hint="Two encodings were mixed: write it again in one of them.",
        )
    return WESTERN


def _looks_mixed(stream: BinaryIO) -> bool:
    """Whether more than a few letters are UTF-8: in Windows-1252, É and ™ side by side look like one of them."""
    stream.seek(0)
    letters = others = 0
    while block := stream.read(BLOCK):
        found = [len(letter) for letter in _LETTER.findall(block)]
        letters += len(found)
        others += len(block.translate(None, _ASCII)) - sum(found)
    return letters > FEW * others


def _first_wrong_byte(stream: BinaryIO) -> tuple[int, int] | None:
    """The first byte that is not UTF-8, and its line; None: all are."""
    stream.seek(0)
    line, rest = 1, b""
    while block := stream.read(BLOCK):
        block = rest + block
        try:
            _, used = codecs.utf_8_decode(block, "strict", False)
        except UnicodeDecodeError as error:
            return line + _line_ends(block[: error.start]), block[error.start]
        line += _line_ends(block[:used])
        rest = block[used:]
    return (line, rest[0]) if rest else None


def _line_ends(content: bytes) -> int:
    return content.count(b"\n") or content.count(b"\r")


_LETTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_ASCII = bytes(range(128))
