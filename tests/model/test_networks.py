"""The networks' part of prediction: words in order, heads with a hidden layer, two more ways to join."""

from __future__ import annotations

import numpy as np
import pytest

from aisle.model.blend import BlendedModel
from aisle.model.calibration import log_softmax
from aisle.model.classifier import TEXT, Inputs
from aisle.model.fusion import DenseFusion, WeightedSum, fusion_from
from aisle.model.image import DenseHead
from aisle.model.sequence import UNKNOWN, WordTokenizer
from aisle.training.stacking import fit_weighted_sum

TEXTS = ["Écharpe d'été bleue", "écharpe bleue", "Piscine ronde"]


def tokenizer(vocabulary: int = 10, max_words: int = 5) -> WordTokenizer:
    return WordTokenizer.fit(TEXTS, vocabulary=vocabulary, max_words=max_words, stop_words=["d"])


def test_words_are_numbered_by_how_frequent_they_are() -> None:
    assert tokenizer().words == ("bleue", "echarpe", "ete", "piscine", "ronde")


def test_an_accent_or_a_capital_does_not_make_another_word() -> None:
    assert tokenizer().ids("ÉCHARPE").tolist() == tokenizer().ids("echarpe").tolist()


@pytest.mark.parametrize("text", ["", "!!!", "   ", "漢"])
def test_a_text_without_known_words_is_one_unknown_word(text: str) -> None:
    assert tokenizer().ids(text).tolist() == [UNKNOWN]


def test_a_long_text_is_cut_at_its_first_words() -> None:
    assert tokenizer(max_words=2).ids("piscine ronde bleue").tolist() == tokenizer().ids("piscine ronde").tolist()


def test_words_beyond_the_vocabulary_are_unknown() -> None:
    assert tokenizer(vocabulary=2).ids("bleue piscine").tolist()[1] == UNKNOWN


def test_a_tokenizer_that_was_stored_gives_the_same_numbers() -> None:
    again = WordTokenizer.from_table(tokenizer().to_table())
    assert [again.ids(text).tolist() for text in TEXTS] == [tokenizer().ids(text).tolist() for text in TEXTS]


def test_a_text_is_the_title_and_in_the_next_line_the_description() -> None:
    inputs = Inputs(["titre", "", "", "titre"], ["texte", "texte", "", ""], [None] * 4)
    assert list(inputs.field(TEXT)) == ["titre\ntexte", "texte", "", "titre"]
    assert inputs.has(TEXT).tolist() == [True, True, False, True]


def random_logs(seed: int, rows: int = 200, types: int = 4) -> np.ndarray:
    return log_softmax(np.random.default_rng(seed).normal(size=(rows, types)))


def hidden_head(columns: int, types: int) -> DenseHead:
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=size).astype(np.float32) for size in ((5, types), (types,), (columns, 5), (5,))]
    return DenseHead(*arrays)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_head_with_a_hidden_layer_gives_each_row_the_same_in_any_batch(rows: int) -> None:
    head = hidden_head(300, 27)
    features = np.random.default_rng(1).normal(size=(64, 300)).astype(np.float32)
    assert (head.scores(features[:rows]) == head.scores(features)[:rows]).all()


def test_a_head_that_was_stored_gives_the_same_scores() -> None:
    head = hidden_head(3, 4)
    again = DenseHead.from_arrays(head.arrays())
    features = np.ones((2, 3), np.float32)
    assert (head.scores(features) == again.scores(features)).all()


def test_a_weighted_sum_is_one() -> None:
    logs = {"a": random_logs(1), "b": random_logs(2)}
    joined = WeightedSum(["a", "b"], {"a": 0.3, "b": 0.7}).log_probabilities(logs, np.ones((200, 2), bool))
    assert np.exp(joined) == pytest.approx(0.3 * np.exp(logs["a"]) + 0.7 * np.exp(logs["b"]))


def test_the_model_that_knows_gets_the_weight() -> None:
    targets = np.random.default_rng(0).integers(0, 4, 200)
    knows = log_softmax(4 * np.eye(4)[targets])
    weights = fit_weighted_sum({"guesses": random_logs(1), "knows": knows}, targets).weights
    assert weights["knows"] > 0.9
    assert sum(weights.values()) == pytest.approx(1)


def test_without_a_held_out_row_the_weights_are_equal() -> None:
    nothing = np.empty((0, 4))
    fitted = fit_weighted_sum({"a": nothing, "b": nothing}, np.empty(0, np.intp))
    assert fitted.weights == pytest.approx({"a": 0.5, "b": 0.5})


@pytest.mark.parametrize(
    "fusion", [WeightedSum(["a", "b"], {"a": 0, "b": 1}), DenseFusion(["a", "b"], hidden_head(8, 4))]
)
def test_a_product_that_one_model_can_look_at_gets_its_answer(fusion: WeightedSum | DenseFusion) -> None:
    logs = {"a": random_logs(1), "b": random_logs(2)}
    present = np.tile([True, False], (200, 1))
    assert fusion.log_probabilities(logs, present) == pytest.approx(logs["a"])


def test_a_dense_head_joins_all_models_by_their_own_order() -> None:
    head = hidden_head(8, 4)
    logs = {"b": random_logs(2), "a": random_logs(1)}
    joined = DenseFusion(["b", "a"], head).log_probabilities(logs, np.ones((200, 2), bool))
    assert joined == pytest.approx(log_softmax(head.scores(np.hstack([logs["b"], logs["a"]]).astype(np.float32))))


def test_a_fusion_that_was_stored_is_read_by_its_kind() -> None:
    summed = WeightedSum(["a"], {"a": 1.0})
    assert isinstance(fusion_from(summed.table(), {}), WeightedSum)
    dense = DenseFusion(["a"], hidden_head(4, 4))
    assert isinstance(fusion_from(dense.table(), dense.arrays()), DenseFusion)
    with pytest.raises(KeyError):
        fusion_from(dense.table(), {})
    with pytest.raises(ValueError, match="by_ear"):
        fusion_from({"kind": "by_ear"}, {})


class Constant:
    """A text model that says the same of every text, and of whose words each says its own."""

    def __init__(self, *scores: float) -> None:
        self._scores = np.array(scores, dtype=np.float32)

    def scores(self, texts: list[str]) -> np.ndarray:
        return np.tile(self._scores, (len(texts), 1))

    def weights_of_words(self, text: str, type_: int) -> np.ndarray:
        return np.full(len(text.split()), self._scores[type_], dtype=np.float32)


def blend(weight: float = 0.25) -> BlendedModel:
    parts = {"a": Constant(0, 4, 0), "b": Constant(3, 0, 0)}
    return BlendedModel(parts, {"a": 2.0, "b": 1.0}, {"a": 1 - weight, "b": weight})  # type: ignore[arg-type]


def test_a_blend_is_the_weighted_sum_of_calibrated_probabilities() -> None:
    a, b = np.exp(log_softmax(np.array([[0, 2, 0]]))), np.exp(log_softmax(np.array([[3, 0, 0]])))
    assert np.exp(blend().scores(["x", "y"])) == pytest.approx(np.repeat(0.75 * a + 0.25 * b, 2, axis=0), rel=1e-5)


def test_the_words_of_a_blend_weigh_by_the_parts_share_in_the_type() -> None:
    a, b = np.exp(log_softmax(np.array([[0.0, 2, 0], [3.0, 0, 0]])))[:, 1]
    share = 0.75 * a / (0.75 * a + 0.25 * b)
    assert blend().weights_of_words("x y", 1).tolist() == pytest.approx([share * 4 / 2] * 2, rel=1e-5)


def test_a_part_may_be_another_one_later() -> None:
    assert blend(0.0).with_part("a", Constant(9, 0, 0)).scores(["x"]).argmax() == 0  # type: ignore[arg-type]
