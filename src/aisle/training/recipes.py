"""Recipes: typed functions that return a training configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aisle.errors import UsageError
from aisle.model.text import TextFeatures

STOP_WORDS = tuple(
    "a au aux avec ce ces cette d dans de des du en est et for l la le les n of ou par pour qu que qui s sa "
    "sans ses son sur the un une vos votre with".split()
)
"""French and English words that say nothing of a type; the catalogue's own titles come with and without them."""


@dataclass(frozen=True, slots=True)
class TextTraining:
    """Two linear learners on the same n-grams, their scores added: what one gets wrong the other often has right.

    A logistic regression (averaged stochastic gradient descent, L2 penalty `alpha`) and a support vector machine
    (`svm_c`), whose scores count `svm_share` times. A row weighs its label's agreement to the power of
    `weight_power`, times how rare its type is to the power of `balance`.
    """

    features: TextFeatures = TextFeatures(stop_words=STOP_WORDS)
    alpha: float = 2e-6
    epochs: int = 20
    svm_c: float = 1.0
    svm_share: float = 5.0
    weight_power: float = 2.0
    balance: float = 0.5


@dataclass(frozen=True, slots=True)
class ImageTraining:
    """Multinomial logistic regression on the encoder's features; `c` as in scikit-learn."""

    c: float = 0.1
    max_iterations: int = 60
    tolerance: float = 1e-3
    weight_power: float = 2.0


@dataclass(frozen=True, slots=True)
class Light:
    """Text and image models for a CPU, in minutes. A text field is learnt from `min_texts` rows on.

    A product is accepted without a person from the confidence on at which, with `certainty`, a share `promise` of
    the held-out products is right.
    """

    name: str = "light"
    seed: int = 0
    text: TextTraining = TextTraining()
    image: ImageTraining = ImageTraining()
    min_texts: int = 200
    promised_accuracies: tuple[float, ...] = (0.95, 0.97, 0.98, 0.99)
    promise: float = 0.98
    certainty: float = 0.9


def light() -> Light:
    return Light()


RECIPES: Mapping[str, Callable[[], Light]] = MappingProxyType({"light": light})


def recipe(name: str) -> Light:
    """Raises UsageError that names the recipes there are."""
    try:
        return RECIPES[name]()
    except KeyError:
        raise UsageError(f"there is no recipe {name!r}; there is {', '.join(RECIPES)}") from None
