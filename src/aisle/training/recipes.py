"""Recipes: typed functions that return a training configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aisle.errors import UsageError
from aisle.model.decisions import Cost
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
class TransformerTraining:
    """The first `layers` layers of a small multilingual transformer, fine-tuned on the titles but for its first
    `kept_layers`, which are computed once.

    Of a catalogue with at least `min_texts` titles: fewer are soon learnt by heart. `most_pieces` of one are read. A
    row weighs its label's agreement to the power of `weight_power`.
    """

    layers: int = 6
    kept_layers: int = 4
    epochs: int = 3
    batch: int = 32
    rate: float = 4e-4
    dropout: float = 0.1
    most_pieces: int = 42
    min_texts: int = 5_000
    weight_power: float = 2.0


@dataclass(frozen=True, slots=True)
class LogisticTraining:
    """Multinomial logistic regression on what the frozen `networks` see; `c` as in scikit-learn."""

    networks: tuple[str, ...] = ("lite0",)
    c: float = 0.1
    max_iterations: int = 60
    tolerance: float = 1e-3
    weight_power: float = 2.0


@dataclass(frozen=True, slots=True)
class DenseTraining:
    """A hidden layer of so many `units` on what each of the frozen `networks` sees; their scores are averaged.

    Pairs of images are mixed, their shares drawn from Beta(`mixup`, `mixup`); `smoothing` of a label is spread over
    all types; `input_dropout` of the features and `dropout` of the units are dropped. Optimised by AdamW.
    """

    networks: tuple[str, ...] = ("lite0", "lite2")
    units: int = 512
    epochs: int = 15
    batch: int = 256
    rate: float = 2e-3
    decay: float = 0.05
    dropout: float = 0.5
    input_dropout: float = 0.2
    smoothing: float = 0.1
    mixup: float = 0.4
    weight_power: float = 2.0


@dataclass(frozen=True, slots=True)
class ImageTraining:
    """How images are looked at: `many` from `min_images` images of the catalogue on, fewer as `few`."""

    few: LogisticTraining = LogisticTraining()
    many: LogisticTraining | DenseTraining = DenseTraining()
    min_images: int = 2_000

    def of(self, images: int) -> LogisticTraining | DenseTraining:
        return self.many if images >= self.min_images else self.few


@dataclass(frozen=True, slots=True)
class Decisions:
    """When a product is accepted without a person: from the confidence on at which, with `certainty`, a share
    `promise` of the held-out products is right. A threshold is kept for each of `promised_accuracies`, too.

    Where `costs` say that some mistakes weigh more or less than others, what is wrong costs at most 1 - `promise`
    ordinary mistakes on average.
    """

    promised_accuracies: tuple[float, ...] = (0.95, 0.97, 0.98, 0.99)
    promise: float = 0.98
    certainty: float = 0.95
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True, slots=True)
class Teaching:
    """A bundle, of that `version` and in that `folder`, has its say of what a row is: distillation (G. Hinton et al.,
    arXiv:1503.02531).

    Its probabilities, to the power of 1 / `temperature`, count for `share` of what is wanted of a row, the label for
    the rest: of rows that it has learnt from, the teacher is surer than of others.
    """

    version: str
    folder: Path
    share: float = 0.5
    temperature: float = 2.0


@dataclass(frozen=True, slots=True)
class Light:
    """Text and image models for a CPU, in minutes. A text field is learnt from `min_texts` rows on.

    Without a `transformer` titles are read by the linear model alone. A `teacher` may have its say.
    """

    name: str = "light"
    model_type: str = "TF-IDF+EfficientNet-Lite"
    seed: int = 0
    text: TextTraining = TextTraining()
    transformer: TransformerTraining | None = TransformerTraining()
    image: ImageTraining = ImageTraining()
    min_texts: int = 200
    teacher: Teaching | None = None
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


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a pretrained network is fine-tuned: by AdamW, with a warm-up for the share `warm_up` of all steps, and then
    a line down.

    Of `epochs` that with the lowest log-loss of the held-out rows stays.
    """

    epochs: int
    batch: int
    rate: float
    warm_up: float = 0.06
    decay: float = 0.01


@dataclass(frozen=True, slots=True)
class FullTexts:
    """Transformers that read the title and the description, by their names on the hub or their folders.

    At most `most_pieces` pieces are read. While learning, a description is left out of a share `without_description`
    of the rows that have one: many products come without.
    """

    models: tuple[str, ...] = ("almanach/camembert-large", "FacebookAI/xlm-roberta-base")
    most_pieces: int = 128
    without_description: float = 0.25
    tuning: Tuning = Tuning(epochs=4, batch=32, rate=2e-5)


@dataclass(frozen=True, slots=True)
class FullImages:
    """Image networks with a dense layer at their end, by their names on the hub or their folders.

    They look at images of `size` x `size`. While learning, at a part of at least `smallest_part` of an image, or its
    mirror image.
    """

    models: tuple[str, ...] = (
        "facebook/convnext-base-224-22k",
        "microsoft/swin-base-patch4-window7-224-in22k",
        "google/siglip-base-patch16-224",
    )
    size: int = 224
    smallest_part: float = 0.5
    tuning: Tuning = Tuning(epochs=8, batch=64, rate=5e-5)


@dataclass(frozen=True, slots=True)
class Full:
    """Fine-tuned transformers and image networks, for a GPU.

    A row weighs its label's agreement to the power of `weight_power`; `smoothing` of a label goes to all types alike.
    A text model serves with 8-bit integers if that costs at most `int8_loss` of the weighted F1 of the held-out rows.
    """

    name: str = "full"
    model_type: str = "CamemBERT+XLM-R+ConvNeXt+Swin+SigLIP"
    seed: int = 0
    text: FullTexts = FullTexts()
    image: FullImages = FullImages()
    weight_power: float = 2.0
    smoothing: float = 0.05
    int8_loss: float = 0.002
    decisions: Decisions = Decisions()


Recipe = Light | LstmVgg16 | Full
OF_A_FOLDER = "sha256:"
"""What a lineage calls a model by that lay in a folder: the sum of its files follows."""


def light(teacher: Teaching | None = None) -> Light:
    return Light(teacher=teacher)


def lstm_vgg16(weights: str = "imagenet", fine_tune: int = 0) -> LstmVgg16:
    """`weights`: what VGG16 begins with; `fine_tune`: for how many epochs at most its last block is trained, too."""
    image = VggTraining(weights=weights)
    return LstmVgg16(image=replace(image, fine_tuning=replace(image.fine_tuning, most=fine_tune)))


def full(text_models: str | None = None, image_models: str | None = None, fine_tune: int | None = None) -> Full:
    """Models by name or folder, with commas between; `fine_tune`: for how many epochs each is trained."""
    if fine_tune == 0:
        raise UsageError("the recipe full trains for one epoch at least")
    given = Full()
    text, image = given.text, given.image
    if text_models is not None:
        text = replace(text, models=_names(text_models))
    if image_models is not None:
        image = replace(image, models=_names(image_models))
    if fine_tune is not None:
        text = replace(text, tuning=replace(text.tuning, epochs=fine_tune))
        image = replace(image, tuning=replace(image.tuning, epochs=fine_tune))
    return replace(given, text=text, image=image)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


RECIPES: Mapping[str, Callable[..., Recipe]] = MappingProxyType(
    {"light": light, "lstm-vgg16": lstm_vgg16, "full": full}
)


def recipe(name: str, **choices: str | int | Teaching) -> Recipe:
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


def choices_in(name: str, configuration: Mapping[str, Any]) -> dict[str, str | int]:
    """What had been chosen of the recipe `name`, read off the configuration in a bundle's lineage: `recipe` with it
    trains in the same way again.

    Raises UsageError for models that lay in a folder: a lineage has the sum of their files and not where they were.
    """
    if name == "lstm-vgg16":
        image = configuration["image"]
        return {"weights": image["weights"], "fine_tune": image["fine_tuning"]["most"]}
    if name == "full":
        parts = {kind: configuration[kind] for kind in ("text", "image")}
        if any(model.startswith(OF_A_FOLDER) for one in parts.values() for model in one["models"]):
            raise UsageError(
                "it began with a model in a folder, and its lineage does not say where",
                hint="Train it by hand: aisle train --recipe full --text-models FOLDER.",
            )
        found: dict[str, str | int] = {f"{kind}_models": ",".join(one["models"]) for kind, one in parts.items()}
        epochs = {one["tuning"]["epochs"] for one in parts.values()}
        return found | ({"fine_tune": epochs.pop()} if len(epochs) == 1 else {})
    teacher = configuration.get("teacher")
    return {"teacher": teacher["version"]} if teacher else {}
