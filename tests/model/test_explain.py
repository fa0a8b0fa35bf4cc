"""Why a product gets its type: what the words, the parts of the image and the models are said to weigh is true."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.service.conftest import replace_file

from aisle.catalog import Product
from aisle.data.prepare import Prepared
from aisle.errors import BundleError, ImageError, InputError
from aisle.model.bundle import Bundle
from aisle.model.classifier import IMAGE, TITLE, Inputs
from aisle.model.explain import Explanation, explain
from aisle.model.neighbours import NEIGHBOURS_ARRAYS, NEIGHBOURS_TABLE
from aisle.model.predictor import Predictor
from aisle.model.sequence import SequenceModel, WordTokenizer
from aisle.model.text import fold, folded_words

TEXTS = ["Lot de 2 Piscines gonflables, ronde été 30x40 piscines", "livre", "Écharpe d'été", "!!! ???", "a a a a"]


@pytest.fixture(scope="module")
def product(prepared: Prepared) -> tuple[str, Product]:
    """One that was learnt from, with its key."""
    images = prepared.images()
    assert images is not None
    learnt = prepared.products().filter(pl.col("side") == "train", pl.col("title") != "").drop_nulls("image")
    one = learnt.row(0, named=True)
    return one["key"], Product(one["title"], "", images.read(one["image"]))


@pytest.fixture(scope="module")
def explanation(predictor: Predictor, product: tuple[str, Product]) -> Explanation:
    return explain(predictor, product[1], side=4)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60), st.sampled_from(["", "a d", "été"]))
def test_words_with_their_places_are_those_of_the_folded_text(text: str, stop: str) -> None:
    stop_words = frozenset(stop.split())
    assert " ".join(word for _, word in folded_words(text, stop_words)) == fold(text, stop_words)


@pytest.mark.parametrize("text", TEXTS)
def test_the_words_make_up_the_score_of_a_linear_model(predictor: Predictor, text: str) -> None:
    model = predictor.classifier.models.texts[TITLE]
    nothing, something = model.scores(["", text])
    for type_ in range(3):
        weights = model.weights_of_words(text, type_)
        assert len(weights) == len(text.split())
        above = something - nothing
        assert weights.sum() == pytest.approx(above[type_] - above.mean(), abs=1e-4)


class Counting(SequenceModel):
    """A model of words in order whose score of type 1 is how often it reads `pool`."""

    def __init__(self, max_words: int) -> None:
        self.tokenizer = WordTokenizer(["pool", "round"], max_words)

    def scores(self, texts: list[str]) -> np.ndarray:  # type: ignore[override]
        counts = [(self.tokenizer.ids(text) == self.tokenizer.ids("pool")[0]).sum() for text in texts]
        return np.array([[0, count] for count in counts], dtype=np.float32)


def test_a_word_of_a_network_weighs_what_is_lost_without_it() -> None:
    weights = Counting(10).weights_of_words("Round POOL round pool!", 1)
    assert weights.tolist() == [0, 0.5, 0, 0.5]


def test_words_that_a_network_does_not_come_to_weigh_nothing_and_do_not_move_up() -> None:
    assert Counting(2).weights_of_words("pool round pool pool", 1).tolist() == [0.5, 0, 0, 0]
    assert Counting(2).weights_of_words("... !", 1).tolist() == [0, 0]


def test_the_models_weights_add_up_to_what_the_type_is_above_chance(
    predictor: Predictor, explanation: Explanation
) -> None:
    types = len(predictor.classifier.codes)
    assert set(explanation.weights) == {TITLE, IMAGE}
    above = math.log(explanation.prediction.confidence) + math.log(types)
    assert sum(explanation.weights.values()) == pytest.approx(above, abs=1e-6)


def test_a_model_weighs_what_it_adds_on_average_over_all_orders(predictor: Predictor) -> None:
    title = "livre ancien"
    found = explain(predictor, Product(title, "relié en cuir"))
    classifier = predictor.classifier
    best = classifier.codes.index(found.prediction.type.code)

    def worth(*fields: str) -> float:
        if not fields:
            return -math.log(len(classifier.codes))
        inputs = Inputs(
            [title if "title" in fields else ""], ["relié en cuir" if "description" in fields else ""], [None]
        )
        return float(np.log(classifier.probabilities(inputs)[0, best]))

    names = list(found.weights)
    for name in names:
        added = [
            worth(*order[: order.index(name) + 1]) - worth(*order[: order.index(name)])
            for order in itertools.permutations(names)
        ]
        assert found.weights[name] == pytest.approx(np.mean(added), abs=1e-6)


def test_what_has_the_colour_it_is_covered_with_weighs_nothing(predictor: Predictor, prepared: Prepared) -> None:
    from tests.service.test_predict import picture

    found = explain(predictor, Product("livre", "", picture(size=(300, 300))), side=3)  # all of one colour
    assert found.heat_map is not None
    assert np.abs(found.heat_map).max() < 1e-4


def test_the_map_is_about_the_parts_of_the_image(predictor: Predictor, explanation: Explanation) -> None:
    assert explanation.heat_map is not None
    assert explanation.heat_map.shape == (4, 4)
    assert np.isfinite(explanation.heat_map).all()
    assert np.ptp(explanation.heat_map) > 0


def test_it_is_the_same_twice(predictor: Predictor, product: tuple[str, Product], explanation: Explanation) -> None:
    again = explain(predictor, product[1], side=4)
    assert again.heat_map is not None
    assert explanation.heat_map is not None
    assert (again.heat_map == explanation.heat_map).all()
    assert replace(again, heat_map=None) == replace(explanation, heat_map=None)


def test_a_product_that_was_learnt_from_is_its_own_nearest_neighbour(
    explanation: Explanation, product: tuple[str, Product]
) -> None:
    first = explanation.neighbours[0]
    similar = [
        one.key for one in explanation.neighbours if one.similarity == pytest.approx(first.similarity, abs=0.01)
    ]
    assert product[0] in similar
    assert first.similarity > 0.99
    assert len(explanation.neighbours) == 5
    assert list(explanation.neighbours) == sorted(explanation.neighbours, key=lambda one: -one.similarity)


def test_a_product_like_none_has_no_neighbours(predictor: Predictor) -> None:
    assert explain(predictor, Product("xyzzy")).neighbours == ()


def test_an_image_alone_has_neighbours(predictor: Predictor, product: tuple[str, Product]) -> None:
    found = explain(predictor, replace(product[1], title=""), side=1)
    assert found.words == {}
    assert set(found.weights) == {IMAGE}
    assert found.neighbours[0].similarity > 0.9


def test_what_cannot_be_classified_cannot_be_explained(predictor: Predictor) -> None:
    with pytest.raises(InputError):
        explain(predictor, Product())
    with pytest.raises(ImageError):
        explain(predictor, Product("livre", "", b"no image"))


def changed(bundle: Bundle, folder: Path, arrays: bytes | None) -> Bundle:
    """The same with other neighbours, or without any."""
    import json
    import shutil

    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    if arrays is None:
        for name in (NEIGHBOURS_TABLE, NEIGHBOURS_ARRAYS):
            (folder / name).unlink()
            del manifest["files"][name]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        replace_file(folder, "metrics.json", (folder / "metrics.json").read_bytes())
    else:
        replace_file(folder, NEIGHBOURS_ARRAYS, arrays)
    return Bundle.load(folder)


def test_a_bundle_of_before_is_explained_without_neighbours(bundle: Bundle, tmp_path: Path) -> None:
    with Predictor(changed(bundle, tmp_path / "old", None), threads=1) as old:
        found = explain(old, Product("livre ancien"))
    assert found.neighbours == ()
    assert found.words


def test_neighbours_that_do_not_fit_each_other_are_the_bundles_fault(bundle: Bundle, tmp_path: Path) -> None:
    from safetensors.numpy import save

    arrays = bundle.arrays(NEIGHBOURS_ARRAYS)
    harmed = save({**arrays, "texts_columns": arrays["texts_columns"] + 1_000_000})
    with (
        Predictor(changed(bundle, tmp_path / "bad", harmed), threads=1) as bad,
        pytest.raises(BundleError, match="do not fit"),
    ):
        explain(bad, Product("livre ancien"))
