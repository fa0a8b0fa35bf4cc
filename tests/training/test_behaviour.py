"""What a model must do whatever its F1 is."""

from __future__ import annotations

import pytest

from aisle.catalog import Product
from aisle.errors import InputError
from aisle.model.predictor import Predictor
from aisle.training.behaviour import Behaviour, behaviours

PRODUCTS = [Product("Livre ancien relié", "Édition de 1900"), Product("Piscine hors sol"), Product("Jeu vidéo")]


def test_a_model_of_ours_behaves(predictor: Predictor) -> None:
    found = behaviours(predictor, PRODUCTS)
    assert [one.name for one in found if not one.holds] == []
    assert {one.products for one in found} == {3}


def test_a_model_that_another_spelling_confuses_is_found_out(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = predictor.predict
    fooled = [Product("Piscine"), Product("Livre"), Product("Livre")]
    monkeypatch.setattr(
        predictor, "predict", lambda products: predict(fooled if products[0].title.isupper() else products)
    )
    assert [one.name for one in behaviours(predictor, PRODUCTS) if not one.holds] == ["in capitals"]


def test_nothing_is_said_without_products(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="no product"):
        behaviours(predictor, [])


def test_the_limit_itself_is_enough() -> None:
    assert Behaviour("HTML", 0.99, 0.99, 200).holds
    assert not Behaviour("HTML", 0.985, 0.99, 200).holds
