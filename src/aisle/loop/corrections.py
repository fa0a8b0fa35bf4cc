"""The catalogue with what people said of served products: the base as it is, and one more row for each product.

    data/retraining/corrections.csv    every product that somebody gave a type, kept for longer than the feedback is
    data/retraining/catalogue/         a raw folder: the base and the corrections, each with its weight

Reviewers are believed as far as they agree: a product's type is the last word on it, its weight the share of its
reviewers whose last word that is. And nobody's corrections weigh more than a small part of the catalogue, so that no
one account turns the model. The image of a served product is not kept, so corrections have texts alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from aisle.data import raw
from aisle.data.validate import choose_types, read_labelled
from aisle.errors import CatalogError, CheckFailed
from aisle.files import atomic_folder, atomic_path, check_replaceable
from aisle.store.predictions import Word

FOLDER = "retraining"
LOCK_FILE = ".lock"
CORRECTIONS_FILE = "corrections.csv"
CATALOGUE = "catalogue"
KEY = "~{}"
"""Sorts behind numbers and letters: the rows of the base keep their sides."""

_SCHEMA = {
    "input_hash": pl.String, "product_key": pl.String, "designation": pl.String, "description": pl.String,
    "type_code": pl.String, "reviewer": pl.String, "agreement": pl.Float64, "word": pl.Int64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Correction:
    """The type of one product by the last word on it. `agreement`: the share of its reviewers who say so, in (0, 1].

    `word` is the id of that feedback, for the order of things.
    """

    input_hash: str
    product_key: str | None
    designation: str
    description: str
    type_code: str
    reviewer: str
    agreement: float
    word: int


@dataclass(frozen=True, slots=True)
class Collected:
    """What a catalogue was made of. `unknown_types`: corrections to types that it has not, or no more."""

    folder: Path
    base_rows: int
    corrections: int
    new: int
    unknown_types: int
    reviewers: dict[str, int]
    last_word: int


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time works in the folder of retrainings; the lock of one that was killed is free again.

    Raises CheckFailed while another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckFailed(
                "another process works on the retraining", where=folder, hint="Wait until it is done."
            ) from None
        yield


def collect(words: Iterable[Word], base: Path, out: Path, *, reviewer_share: float) -> Collected:
    """Write the catalogue to `out`, whole or not at all, from the raw folder `base` and all words of the database.

    `reviewer_share`: how much of the catalogue's rows one reviewer's corrections may weigh, in (0, 1]. A word on a
    type that has changed since is one on what that type is today.
    Raises InputError for a base that is no catalogue.
    """
    raw.check_raw_folder(base)
    changes = raw.type_changes(base)
    words = [replace(word, type_code=changes.now(word.type_code) or word.type_code) for word in words]
    known = read_corrections(out / CORRECTIONS_FILE)
    found = known | {one.input_hash: one for one in correct(words)}
    write_corrections(out / CORRECTIONS_FILE, found.values())
    labelled = read_labelled(base)
    types = set(choose_types(base, labelled))
    of_today = ((one, changes.now(one.type_code)) for one in found.values())
    usable = [replace(one, type_code=now) for one, now in of_today if now is not None and now in types]
    check_replaceable(out / CATALOGUE, marker=raw.TRAIN_FILE)
    with atomic_folder(out / CATALOGUE) as folder:
        _link_the_rest(base, folder)
        _write_tables(base, folder, usable, weights(usable, limit=reviewer_share * len(labelled)))
    return Collected(
        folder=out / CATALOGUE,
        base_rows=len(labelled),
        corrections=len(usable),
        new=sum(one.input_hash not in known for one in usable),
        unknown_types=len(found) - len(usable),
        reviewers=dict(Counter(one.reviewer for one in usable)),
        last_word=max((one.word for one in found.values()), default=0),
    )


def correct(words: Iterable[Word]) -> list[Correction]:
    """One correction for each product, from everything that was said, the oldest word first."""
    last: dict[str, Word] = {}
    by_person: dict[str, dict[str, str]] = {}
    for word in words:
        last.pop(word.input_hash, None)  # so that the order is that of the last words
        last[word.input_hash] = word
        by_person.setdefault(word.input_hash, {})[word.user_name] = word.type_code
    found = []
    for word in last.values():
        said = [*by_person[word.input_hash].values()]
        found.append(
            Correction(
                word.input_hash,
                word.product_key,
                word.designation,
                word.description,
                word.type_code,
                word.user_name,
                said.count(word.type_code) / len(said),
                word.id,
            )
        )
    return found


def weights(corrections: list[Correction], *, limit: float) -> list[float]:
    """The weight of each, in (0, 1]: its agreement, scaled down where its reviewer's sum would be above `limit`."""
    sums: Counter[str] = Counter()
    for one in corrections:
        sums[one.reviewer] += one.agreement  # type: ignore[assignment]  # a Counter adds fractions as well
    return [one.agreement * min(1.0, limit / sums[one.reviewer]) for one in corrections]


def read_corrections(path: Path) -> dict[str, Correction]:
    """What was collected before, by product; nothing where there is no such file. Raises CatalogError."""
    if not path.is_file():
        return {}
    try:
        table = pl.read_csv(path, schema=_SCHEMA)
        rows = [Correction(**row) for row in table.iter_rows(named=True)]
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise CatalogError(
            f"is damaged: {[*str(error).splitlines(), ''][0]}", where=path, hint="Take back its last version."
        ) from None
    # An empty text comes back as none.
    return {
        one.input_hash: replace(one, designation=one.designation or "", description=one.description or "")
        for one in rows
    }


def write_corrections(path: Path, corrections: Iterable[Correction]) -> None:
    rows = [[getattr(one, name) for name in _SCHEMA] for one in corrections]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(pl.DataFrame(rows, schema=_SCHEMA, orient="row").write_csv())


def _link_the_rest(base: Path, folder: Path) -> None:
    """Everything of the base but the three tables that are written anew; nothing is copied that can be linked."""
    tables = (raw.TRAIN_FILE, raw.LABELS_FILE, raw.AGREEMENT_FILE)
    for path in sorted(base.iterdir()):
        if path.name in tables or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name, copy_function=_link)
        else:
            _link(str(path), str(folder / path.name))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _write_tables(base: Path, folder: Path, corrections: list[Correction], weighed: list[float]) -> None:
    keys = [KEY.format(one.input_hash[:24]) for one in corrections]
    values = {
        "key": keys,
        "title": [one.designation for one in corrections],
        "description": [one.description for one in corrections],
        "product_id": [one.product_key or key for one, key in zip(corrections, keys, strict=True)],
        "type_code": [one.type_code for one in corrections],
        "weight": [f"{weight:.6g}" for weight in weighed],
    }
    _append(base / raw.TRAIN_FILE, folder / raw.TRAIN_FILE, values)
    _append(base / raw.LABELS_FILE, folder / raw.LABELS_FILE, values)
    if (base / raw.AGREEMENT_FILE).is_file():
        _append(base / raw.AGREEMENT_FILE, folder / raw.AGREEMENT_FILE, values)
    else:
        before = raw.read_products(base / raw.TRAIN_FILE)["key"].to_list()
        ones = pl.DataFrame({"": [*before, *keys], "agreement": ["1"] * len(before) + values["weight"]})
        raw.write_table(ones, folder / raw.AGREEMENT_FILE)


def _append(source: Path, target: Path, values: dict[str, list[str]]) -> None:
    """The table with more rows, under the names that its columns have."""
    table = raw.read_table(source)
    names = raw.own_names(source)
    more = {names[name]: column for name, column in values.items() if name in names}
    added = pl.DataFrame(more, schema=dict.fromkeys(more, pl.String))
    raw.write_table(pl.concat([table, added], how="diagonal"), target)
