"""Recipes: typed functions that return a training configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
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
class Decisions:
    """When a product is accepted without a person: from the confidence on at which, with `certainty`, a share
    `promise` of the held-out products is right. A threshold is kept for each of `promised_accuracies`.
    """

    promised_accuracies: tuple[float, ...] = (0.95, 0.97, 0.98, 0.99)
    promise: float = 0.98
    certainty: float = 0.9


@dataclass(frozen=True, slots=True)
class Light:
    """Text and image models for a CPU, in minutes. A text field is learnt from `min_texts` rows on."""

    name: str = "light"
    model_type: str = "TF-IDF+EfficientNet-Lite0"
    seed: int = 0
    text: TextTraining = TextTraining()
    image: ImageTraining = ImageTraining()
    min_texts: int = 200
    decisions: Decisions = Decisions()


@dataclass(frozen=True, slots=True)
class Epochs:
    """How a network is fitted: at most `most` epochs, until `patience` of them did not lower the log-loss of the
    held-out rows, of which the best stays. `rate` is Adam's.
    """

    most: int
    patience: int
    batch: int
    rate: float


@dataclass(frozen=True, slots=True)
class LstmTraining:
    """Embedding → LSTM → softmax over the first `max_words` words of title and description."""

    vocabulary: int = 10_000
    max_words: int = 64
    stop_words: tuple[str, ...] = STOP_WORDS
    embedding: int = 128
    units: int = 128
    dropout: float = 0.4
    epochs: Epochs = Epochs(most=30, patience=4, batch=64, rate=1e-3)


@dataclass(frozen=True, slots=True)
class VggTraining:
    """Frozen VGG16 at `size` x `size` → average → dense → softmax; `weights` is `imagenet` or `none`.

    After that, if `fine_tuning` has epochs, the last block is trained too, which wants a GPU.
    """

    weights: str = "imagenet"
    size: int = 224
    hidden: int = 256
    dropout: float = 0.5
    epochs: Epochs = Epochs(most=60, patience=6, batch=128, rate=1e-3)
    fine_tuning: Epochs = Epochs(most=0, patience=1, batch=32, rate=1e-5)


@dataclass(frozen=True, slots=True)
class DenseFusionTraining:
    """A small dense head on the log-probabilities of both models, compared with their weighted sum.

    Both are judged by the held-out rows, in `folds` parts of which each is predicted from the others.
    """

    hidden: int = 32
    dropout: float = 0.2
    folds: int = 5
    epochs: Epochs = Epochs(most=40, patience=40, batch=64, rate=3e-3)


@dataclass(frozen=True, slots=True)
class LstmVgg16:
    """The original project's model: an LSTM on the text, VGG16 on the image, and their fusion.

    A row weighs its label's agreement to the power of `weight_power`, times how rare its type is to the power of
    `balance`. VGG16 serves with 8-bit integers if that costs at most `int8_loss` of the weighted F1 of the
    held-out rows.
    """

    name: str = "lstm-vgg16"
    model_type: str = "VGG16+LSTM"
    seed: int = 0
    text: LstmTraining = LstmTraining()
    image: VggTraining = VggTraining()
    fusion: DenseFusionTraining = DenseFusionTraining()
    weight_power: float = 2.0
    balance: float = 0.5
    int8_loss: float = 0.002
    decisions: Decisions = Decisions()


Recipe = Light | LstmVgg16


def light() -> Light:
    return Light()


def lstm_vgg16(weights: str = "imagenet", fine_tune: int = 0) -> LstmVgg16:
    """`weights`: what VGG16 begins with; `fine_tune`: for how many epochs at most its last block is trained, too."""
    image = VggTraining(weights=weights)
    return LstmVgg16(image=replace(image, fine_tuning=replace(image.fine_tuning, most=fine_tune)))


RECIPES: Mapping[str, Callable[..., Recipe]] = MappingProxyType({"light": light, "lstm-vgg16": lstm_vgg16})


def recipe(name: str, **choices: str | int) -> Recipe:
    """Raises UsageError that names the recipes there are, or the choice that the recipe does not have."""
    known = choices_of(name)
    for choice in choices:
        if choice not in known:
            raise UsageError(f"the recipe {name} has no choice of {choice.replace('_', '-')}")
    return RECIPES[name](**choices)


def choices_of(name: str) -> frozenset[str]:
    """What may be chosen of a recipe. Raises UsageError that names the recipes there are."""
    try:
        return frozenset(signature(RECIPES[name]).parameters)
    except KeyError:
        raise UsageError(f"there is no recipe {name!r}; there is {', '.join(RECIPES)}") from None
