"""Trials of drift detection: a catalogue, a model of a part of it, and windows of the rest, drifted and not.

A catalogue is split by group: the model learns from 60 %, and every trial draws its reference and its window anew
from the rest, of different groups. A drift of which a share of the window's products is affected is one that began so
many products ago.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aisle.catalog import Prediction, Product
from aisle.data.prepare import Prepared, PrepareOptions, prepare
from aisle.data.split import Shares, Side
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.model.reference import Observations, Reference
from aisle.monitoring.detection import GROUPS, Group, detect
from aisle.settings import get_settings
from aisle.training.examples import Examples
from aisle.training.observe import Answered, observe
from aisle.training.recipes import light
from aisle.training.train import train
from benchmarks.measure import Figure

Rows = NDArray[np.intp]
Chance = np.random.Generator

WINDOW, REFERENCE = 500, 1_800
UNDRIFTED, TRIALS = 300, 100
MOST_FALSE_ALARMS, LEAST_CAUGHT = 0.05, 0.95


@dataclass(frozen=True, slots=True)
class Pool:
    """Products that a model did not learn from, as observed, with the group and the true type of each."""

    reference: Reference
    rows: Observations
    groups: NDArray[np.str_]
    types: NDArray[np.str_]

    @property
    def right(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = np.array(self.rows.names["predicted"]) == self.types
        return right

    def draw(self, chance: Chance) -> tuple[Reference, Rows]:
        """A reference of at most half of the pool, and the rows of all other groups."""
        names, group = np.unique(self.groups, return_inverse=True)
        rank = chance.permutation(len(names))[group]
        order = np.argsort(rank, kind="stable")
        chosen = order[: min(REFERENCE, len(order) // 2)]
        drawn = replace(self.reference, rows=self.rows.at(chosen), right=self.right[chosen])
        return drawn, np.flatnonzero(rank > rank[chosen[-1]])


MakeWindow = Callable[[Pool, Rows, Chance], Observations]
"""From a pool, the rows that a window may have, and chance: a window."""


def undrifted(pool: Pool, rest: Rows, chance: Chance) -> Observations:
    return pool.rows.at(chance.choice(rest, WINDOW, replace=False))


def with_more_of(among: Callable[[Pool, Chance], NDArray[np.bool_]], share: float) -> MakeWindow:
    """A share of the window is drawn from the rows of the pool that `among` names."""

    def window(pool: Pool, rest: Rows, chance: Chance) -> Observations:
        some = rest[among(pool, chance)[rest]]
        many = min(round(share * WINDOW), len(some))
        kept = chance.choice(rest, WINDOW - many, replace=False)
        return pool.rows.at(np.concatenate([kept, chance.choice(some, many, replace=False)]))

    return window


def with_changed(changed: Observations, of: Rows, share: float) -> MakeWindow:
    """A share of the window is of the products `of` of the pool as they are when they are changed."""

    def window(pool: Pool, rest: Rows, chance: Chance) -> Observations:
        free = np.flatnonzero(np.isin(of, rest))
        many = min(round(share * WINDOW), len(free))
        kept = chance.choice(rest, WINDOW - many, replace=False)
        return pool.rows.at(kept).joined(changed.at(chance.choice(free, many, replace=False)))

    return window


def with_strangers(strangers: Observations, share: float) -> MakeWindow:
    """A share of the window is of products that are not in the pool."""

    def window(pool: Pool, rest: Rows, chance: Chance) -> Observations:
        many = min(round(share * WINDOW), len(strangers))
        kept = chance.choice(rest, WINDOW - many, replace=False)
        return pool.rows.at(kept).joined(strangers.at(chance.choice(len(strangers), many, replace=False)))

    return window


def false_alarms(name: str, pool: Pool, window: MakeWindow = undrifted, *, goal: bool = True) -> Figure:
    """The share of undrifted windows with an alarm."""
    share = _rate(f"{name}: undrifted", pool, window, UNDRIFTED)
    return Figure(f"{name}_false_alarms", share, at_most=MOST_FALSE_ALARMS if goal else None)


def caught(
    name: str, pool: Pool, window: MakeWindow, *, goal: bool = True, groups: Collection[Group] = GROUPS
) -> Figure:
    """The share of drifted windows with an alarm."""
    share = _rate(name, pool, window, TRIALS, groups)
    return Figure(f"{name}_caught", share, at_least=LEAST_CAUGHT if goal else None)


def _rate(name: str, pool: Pool, window: MakeWindow, trials: int, groups: Collection[Group] = GROUPS) -> float:
    alarms: Counter[str] = Counter()
    detected = 0
    for seed in range(trials):
        chance = np.random.default_rng(seed)
        reference, rest = pool.draw(chance)
        found = detect(reference, window(pool, rest, chance), groups=groups)
        detected += found.detected
        alarms.update(one.name for one in found.alarms)
    by = ", ".join(f"{feature} {count}" for feature, count in alarms.most_common(4))
    print(f"  {name}: {detected} of {trials} alarmed ({by})", file=sys.stderr, flush=True)
    return detected / trials


@dataclass(frozen=True, slots=True)
class Shop:
    """A catalogue, a model of a part of it, and the products of the rest, which the pool has as observed."""

    folder: Path
    prepared: Prepared
    predictor: Predictor
    products: Sequence[Product]
    answered: Sequence[Answered]
    pool: Pool

    def changed(self, change: Callable[[Product], Product], most: int = 1_500) -> tuple[Observations, Rows]:
        """Some of the products, changed and predicted again, and their rows in the pool."""
        rows = np.unique(np.linspace(0, len(self.products) - 1, min(most, len(self.products))).astype(int))
        changed = {row: change(self.products[row]) for row in rows.tolist()}
        usable = {row: one for row, one in changed.items() if one.title or one.description or one.image}
        return self.observed(answers(self.predictor, list(usable.values()))), np.array(list(usable), dtype=np.intp)

    def observed(self, answered: Sequence[Answered]) -> Observations:
        return _observed(self.pool.reference, answered)

    def without(self, code: str) -> tuple[Pool, Observations]:
        """A model that never saw a type: the pool without products of it, and those that there are of it."""
        folder = self.folder / f"without-{code}"
        folder.mkdir()
        for path in self.prepared.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        table = self.prepared.products()
        table.filter(table["type_code"] != code).write_parquet(folder / "products.parquet")
        images = self.prepared.images_path and str((self.prepared.folder / self.prepared.images_path).resolve())
        less = replace(
            self.prepared, folder=folder, images_path=images, data_hash=f"{self.prepared.data_hash}-{code}"
        )
        bundle = train(light(), less, folder / "bundle", cache=self.folder / "cache", threads=get_settings().cores)
        reference = _reference(bundle)
        rows = _observed(reference, self._answered_by(bundle, reference))
        others = self.pool.types != code
        pool = Pool(reference, rows.at(np.flatnonzero(others)), self.pool.groups[others], self.pool.types[others])
        return pool, rows.at(np.flatnonzero(~others))

    def _answered_by(self, bundle: Bundle, reference: Reference) -> list[Answered]:
        """What another model says of the products; their image features are known."""
        graph, classifier, axes = bundle.encoder_graph(), bundle.classifier(), reference.axes
        examples = Examples(self.prepared, self.folder / "cache", get_settings().cores)
        inputs = examples.rows(Side.TEST, graph=graph).inputs
        probabilities = classifier.probabilities(inputs)
        usable = np.flatnonzero(~np.isnan(probabilities).any(axis=1)).tolist()
        found = []
        for row, before in zip(usable, self.answered, strict=True):
            traits, features = before.traits, inputs.features[row]
            if traits is not None and features is not None and axes is not None:
                traits = replace(traits, components=axes.along(features))
            best = int(probabilities[row].argmax())
            said = {"predicted": classifier.codes[best], "confidence": float(probabilities[row, best])}
            found.append(replace(before, traits=traits, **said))  # type: ignore[arg-type]
        return found


@contextlib.contextmanager
def open_shop(validated: Path, folder: Path) -> Iterator[Shop]:
    """Train on a part of the catalogue, and predict the rest as it would be served."""
    prepared = prepare(validated, folder / "prepared", options=PrepareOptions(Shares(0.1, 0.4)))
    bundle = train(light(), prepared, folder / "bundle", cache=folder / "cache", threads=get_settings().cores)
    images, table = prepared.images(), prepared.products().filter(side=Side.TEST.value)
    products = [
        Product(title, description, images.read(stem) if images is not None and stem else None)
        for title, description, stem in table.select("title", "description", "image").iter_rows()
    ]
    usable = [bool(one.title or one.description or one.image) for one in products]
    table, products = table.filter(usable), [one for one, here in zip(products, usable, strict=True) if here]
    reference = _reference(bundle)
    with Predictor(bundle) as predictor:
        answered = answers(predictor, products)
        groups, types = (np.array(table[name].to_list()) for name in ("group", "type_code"))
        pool = Pool(reference, _observed(reference, answered), groups, types)
        yield Shop(folder, prepared, predictor, products, answered, pool)


def answers(predictor: Predictor, products: Sequence[Product]) -> list[Answered]:
    """As they would be recorded when they are served."""
    found = []
    for begin in range(0, len(products), 64):
        some = products[begin : begin + 64]
        for one, outcome in zip(some, predictor.predict(some), strict=True):
            assert isinstance(outcome, Prediction)
            found.append(
                Answered(
                    title=one.title,
                    description=one.description,
                    has_image=one.image is not None,
                    traits=outcome.image_traits,
                    predicted=outcome.type.code,
                    confidence=outcome.confidence,
                )
            )
    return found


def _reference(bundle: Bundle) -> Reference:
    reference = bundle.reference()
    assert reference is not None
    return reference


def _observed(reference: Reference, answered: Sequence[Answered]) -> Observations:
    return observe(answered, reference.words, 0 if reference.axes is None else reference.axes.axes.shape[1])
