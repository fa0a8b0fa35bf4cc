"""How the trained model behaves: what must not change an answer does not."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from aisle.catalog import Prediction, Product
from aisle.data.images import Images
from aisle.data.prepare import Prepared
from aisle.errors import InputError
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor

COUNT = 40


@pytest.fixture(scope="module")
def products(prepared: Prepared) -> list[Product]:
    table = prepared.products().drop_nulls("image").head(COUNT)
    images = prepared.images()
    assert images is not None
    return [_product(images, *row) for row in table.select("title", "description", "image").iter_rows()]


def _product(images: Images, title: str, description: str, image: str) -> Product:
    return Product(title, description, images.read(image))


def answers(predictor: Predictor, products: list[Product]) -> list[Prediction]:
    outcomes = predictor.predict(products)
    assert all(isinstance(outcome, Prediction) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Prediction)]


def codes(predictions: list[Prediction]) -> list[str]:
    return [prediction.type.code for prediction in predictions]


def test_a_product_gets_the_same_probabilities_alone_in_any_batch_and_in_any_order(
    predictor: Predictor, products: list[Product]
) -> None:
    together = answers(predictor, products)
    alone = [answers(predictor, [product])[0] for product in products]
    turned = answers(predictor, products[::-1])[::-1]
    assert [one.candidates for one in together] == [one.candidates for one in alone]
    assert [one.candidates for one in together] == [one.candidates for one in turned]
    assert [one.decision for one in together] == [one.decision for one in alone]


def test_a_product_gets_the_same_answer_twice_in_a_batch(predictor: Predictor, products: list[Product]) -> None:
    first, second = answers(predictor, [products[0], products[0]])
    assert first == second


def test_another_number_of_threads_changes_nothing(
    bundle: Bundle, predictor: Predictor, products: list[Product]
) -> None:
    with Predictor(bundle, threads=1) as single:
        assert answers(single, products) == answers(predictor, products)


def test_probabilities_are_probabilities(predictor: Predictor, products: list[Product]) -> None:
    inputs, _ = predictor.inputs(products)
    probabilities = predictor.classifier.probabilities(inputs)
    assert probabilities.min() >= 0
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-9)


def test_candidates_come_by_falling_confidence(predictor: Predictor, products: list[Product]) -> None:
    for prediction in answers(predictor, products):
        confidences = [one.confidence for one in prediction.candidates]
        assert confidences == sorted(confidences, reverse=True)
        assert len({one.type.code for one in prediction.candidates}) == 5


@pytest.mark.parametrize("change", [str.upper, str.lower, lambda text: f"  {text} ! ", lambda text: f"<b>{text}</b>"])
def test_case_space_and_markup_change_no_answer(
    predictor: Predictor, products: list[Product], change: object
) -> None:
    assert callable(change)
    changed = [Product(change(one.title), change(one.description), one.image) for one in products]
    assert codes(answers(predictor, changed)) == codes(answers(predictor, products))


def test_accents_change_no_answer(predictor: Predictor, products: list[Product]) -> None:
    table = str.maketrans("éèêàâùûîïôç", "eeeaauuiioc")
    changed = [Product(one.title.translate(table), one.description.translate(table), one.image) for one in products]
    assert codes(answers(predictor, changed)) == codes(answers(predictor, products))


def test_the_order_of_words_changes_few_answers(predictor: Predictor, products: list[Product]) -> None:
    shuffled = []
    for product in products:
        words = product.title.split()
        random.Random(0).shuffle(words)
        shuffled.append(Product(" ".join(words), product.description, product.image))
    same = np.array(codes(answers(predictor, shuffled))) == np.array(codes(answers(predictor, products)))
    assert same.mean() >= 0.9


def test_an_image_saved_smaller_changes_few_answers(predictor: Predictor, products: list[Product]) -> None:
    def smaller(content: bytes | None) -> bytes:
        assert content is not None
        out = io.BytesIO()
        Image.open(io.BytesIO(content)).resize((300, 300)).save(out, "JPEG", quality=85)
        return out.getvalue()

    changed = [Product(one.title, one.description, smaller(one.image)) for one in products]
    same = np.array(codes(answers(predictor, changed))) == np.array(codes(answers(predictor, products)))
    assert same.mean() >= 0.95


def test_each_set_of_inputs_gets_an_answer_that_says_what_it_rests_on(
    predictor: Predictor, products: list[Product]
) -> None:
    full = products[0]
    title, description, image = full.title or "livre", full.description or "Un beau livre ancien", full.image
    for kept, product in {
        ("title",): Product(title),
        ("description",): Product("", description),
        ("image",): Product("", "", image),
        ("title", "description"): Product(title, description),
        ("title", "image"): Product(title, "", image),
        ("title", "description", "image"): Product(title, description, image),
    }.items():
        [prediction] = answers(predictor, [product])
        assert prediction.inputs == kept


def test_a_product_without_anything_is_an_error_and_its_neighbours_are_not(
    predictor: Predictor, products: list[Product]
) -> None:
    first, nothing, last = predictor.predict([products[0], Product("  ", "<br>"), products[1]])
    assert isinstance(nothing, InputError)
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)


def test_a_damaged_image_is_named_and_the_texts_answer(predictor: Predictor, products: list[Product]) -> None:
    [prediction] = answers(predictor, [Product(products[0].title, "", b"\xff\xd8 nothing")])
    assert prediction.inputs == ("title",)
    assert prediction.image_error is not None
    assert prediction.image_error.reason == "not_an_image"


def test_an_empty_batch_is_an_empty_answer(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


def test_the_model_is_better_than_chance_from_each_input_alone(bundle: Bundle) -> None:
    metrics = bundle.json("metrics.json")
    for name in ("all", "title", "description", "image"):
        assert metrics[name]["accuracy"] > 0.3, name


def test_a_product_is_accepted_from_the_threshold_on(bundle: Bundle, products: list[Product]) -> None:
    with Predictor(bundle, threads=1) as loaded:
        confidences = sorted(one.confidence for one in answers(loaded, products))
        loaded.threshold = confidences[len(confidences) // 2]
        decided = answers(loaded, products)
        loaded.threshold = None
        undecided = answers(loaded, products)
    assert {one.decision.value for one in decided} == {"accept", "review"}
    assert all((one.decision == "accept") == (one.confidence >= confidences[len(products) // 2]) for one in decided)
    assert {one.decision.value for one in undecided} == {"review"}
