"""What a model must do whatever its F1 is: changes to a product that change nothing for a reader.

After M. T. Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList (ACL 2020): invariances,
each with the share of products whose type has to stay the same.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from aisle.catalog import Prediction, Product
from aisle.errors import InputError
from aisle.model.predictor import Predictor

PRODUCTS = 200
SHORTEST_TYPO = 2


@dataclass(frozen=True, slots=True)
class Behaviour:
    """For what `share` of `products` it holds, and `least` what share it has to."""

    name: str
    share: float
    least: float
    products: int

    @property
    def holds(self) -> bool:
        return self.share >= self.least

    @property
    def finding(self) -> str:
        return f"the type stays for {self.share:.1%} of {self.products} products, {self.least:.1%} is the limit"


@dataclass(frozen=True, slots=True)
class Invariance:
    """Two ways to show a product, `change` and `like`, that should give the same type."""

    name: str
    change: Callable[[Product], Product]
    least: float
    like: Callable[[Product], Product] = lambda product: product


def _texts(change: Callable[[str], str]) -> Callable[[Product], Product]:
    def changed(product: Product) -> Product:
        return replace(product, title=change(product.title), description=change(product.description))

    return changed


def _with_image(image: bytes | None) -> Callable[[Product], Product]:
    return lambda product: replace(product, image=image)


INVARIANCES = (
    Invariance("said again", lambda product: product, least=1.0),
    Invariance("in capitals", _texts(str.upper), least=0.98),
    Invariance("spaces", _texts(lambda text: f"  {text.replace(' ', '   ')}\n"), least=1.0),
    Invariance("HTML", _texts(lambda text: f"<p>{html.escape(text)}</p><br/>" if text else text), least=0.99),
    Invariance("full stop", lambda product: replace(product, title=f"{product.title}."), least=0.98),
    Invariance("photo damaged", _with_image(b"\xff\xd8 damaged"), least=1.0, like=_with_image(None)),
)


def _without_accents(text: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))


def _with_a_typo(text: str) -> str:
    """Two letters of the longest word change places."""
    longest = max(text.split(), key=len, default="")
    middle = len(longest) // 2
    if middle < SHORTEST_TYPO:
        return text
    wrong = longest[: middle - 1] + longest[middle] + longest[middle - 1] + longest[middle + 1 :]
    return text.replace(longest, wrong, 1)


def _reversed(text: str) -> str:
    return " ".join(reversed(text.split()))


REWRITINGS = (
    Invariance("without accents", _texts(_without_accents), least=1.0),
    Invariance("a typo in the longest word", _texts(_with_a_typo), least=0.9),
    Invariance("the words in reverse", _texts(_reversed), least=0.93),
)
"""What a model that learnt from a large catalogue does as well; the gate, which small ones pass too, does not ask."""


def behaviours(
    predictor: Predictor, products: Sequence[Product], invariances: Sequence[Invariance] = INVARIANCES
) -> list[Behaviour]:
    """Try every invariance on the first 200 products. Raises InputError without any."""
    products = products[:PRODUCTS]
    if not products:
        raise InputError("there is no product to try the model on")

    def types(change: Callable[[Product], Product]) -> list[str | None]:
        outcomes = predictor.predict([change(product) for product in products])
        return [outcome.type.code if isinstance(outcome, Prediction) else None for outcome in outcomes]

    found = []
    for one in invariances:
        same = sum(left == right for left, right in zip(types(one.like), types(one.change), strict=True))
        found.append(Behaviour(one.name, same / len(products), one.least, len(products)))
    return found
