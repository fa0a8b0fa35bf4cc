"""When a product is accepted without a person: as long as what mistakes cost keeps within what is promised."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from aisle.errors import InputError, UsageError
from aisle.model.calibration import Array

ORDINARY = 1.0
"""What a mistake costs that is not listed."""
MOST = 1000.0
COLUMNS = ("type", "given", "cost")

Cost = tuple[str, str, float]
"""To give a product of the first type the second one costs so many ordinary mistakes."""


def read_costs(file: Path) -> tuple[Cost, ...]:
    """The table `type,given,cost`. Raises InputError that names the line."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.reader(stream, strict=True)
            if tuple(next(table, ())) != COLUMNS:
                raise InputError("does not begin with the line `type,given,cost`", where=file)
            found = [_cost(row, f"{file}, line {table.line_num}") for row in table if row]
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=file) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"is not a table in UTF-8: {error}", where=file) from None
    pairs = [(true, given) for true, given, _ in found]
    if twice := [pair for pair in set(pairs) if pairs.count(pair) > 1]:
        raise InputError(f"has two costs of giving {' the type '.join(min(twice))}", where=file)
    return tuple(sorted(found))


def _cost(row: Sequence[str], where: str) -> Cost:
    if len(row) != len(COLUMNS):
        raise InputError(f"has {len(row)} cells where there are {len(COLUMNS)} columns", where=where)
    true, given, text = (cell.strip() for cell in row)
    try:
        cost = float(text)
    except ValueError:
        cost = math.nan
    if not 0 <= cost <= MOST:
        raise InputError(f"{text!r} is no cost", where=where, hint=f"A cost is a number from 0 to {MOST:g}.")
    if not true or not given or true == given:
        raise InputError("does not name two types", where=where)
    return true, given, cost


def cost_matrix(costs: Iterable[Cost], codes: Sequence[str]) -> Array | None:
    """types x types, rows what a product is, columns what it is given; None: all mistakes cost alike.

    Of types that are not among `codes` nothing is said.
    """
    column = {code: index for index, code in enumerate(codes)}
    listed = [(column[true], column[given], cost) for true, given, cost in costs if {true, given} <= column.keys()]
    if not listed:
        return None
    matrix = np.full((len(codes), len(codes)), ORDINARY)
    np.fill_diagonal(matrix, 0.0)
    for true, given, cost in listed:
        matrix[true, given] = cost
    return matrix


def check_known(costs: Iterable[Cost], codes: Iterable[str]) -> None:
    """Raises UsageError for a type that the catalogue does not have."""
    known = set(codes)
    for code in (code for true, given, _ in costs for code in (true, given)):
        if code not in known:
            raise UsageError(
                f"the costs speak of the type {code}, which the catalogue does not have", where="COSTS_FILE"
            )


def certainty(probabilities: Array, costs: Array | None) -> Array:
    """n: what is left of 1 when what a mistake may be expected to cost is taken away, for n x types `probabilities`.

    Where all mistakes cost alike, it is the highest probability.
    """
    if costs is None:
        highest: Array = probabilities.max(axis=1)
        return highest
    expected: Array = (probabilities * costs.T[probabilities.argmax(axis=1)]).sum(axis=1)
    return 1 - expected
