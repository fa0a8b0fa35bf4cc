"""What a model must do whatever its F1 is: changes to a product that change nothing for a reader.

After M. T. Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList (ACL 2020): invariances,
each with the share of products whose type has to stay the same.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from aisle.catalog import Prediction, Product
from aisle.errors import InputError
from aisle.model.predictor import Predictor

PRODUCTS = 200


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


def behaviours(predictor: Predictor, products: Sequence[Product]) -> list[Behaviour]:
    """Try every invariance on the first 200 products. Raises InputError without any."""
    products = products[:PRODUCTS]
    if not products:
        raise InputError("there is no product to try the model on")

    def types(change: Callable[[Product], Product]) -> list[str | None]:
        outcomes = predictor.predict([change(product) for product in products])
        return [outcome.type.code if isinstance(outcome, Prediction) else None for outcome in outcomes]

    found = []
    for one in INVARIANCES:
        same = sum(left == right for left, right in zip(types(one.like), types(one.change), strict=True))
        found.append(Behaviour(one.name, same / len(products), one.least, len(products)))
    return found
