"""Calibration, and the text and image models by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from aisle.errors import BundleError
from aisle.model.calibration import (
    calibration_error,
    calibration_error_by_chance,
    fit_temperature,
    log_softmax,
    lowest_threshold,
)
from aisle.model.image import DenseHead, ImageEncoder
from aisle.model.text import TextFeatures, TextModel, TextVectorizer, fold

TEXTS = ["Livre ancien relié", "Jeu vidéo PS4", "Piscine gonflable 30 x 40", "livre de poche", "jeu de société"]


def sampled(scores: np.ndarray, seed: int) -> np.ndarray:
    """Types drawn from softmax(scores), so that the right temperature of `scores` is 1."""
    generator = np.random.default_rng(seed)
    return np.array([generator.choice(len(row), p=row) for row in np.exp(log_softmax(scores))])


def test_the_temperature_that_the_data_has_is_found() -> None:
    scores = np.random.default_rng(0).normal(size=(4000, 5)) * 2
    assert fit_temperature(scores * 3, sampled(scores, 1)) == pytest.approx(3, rel=0.1)


def test_the_error_of_a_calibrated_model_is_small_and_that_of_a_boaster_is_not() -> None:
    scores = np.random.default_rng(0).normal(size=(4000, 5)) * 2
    targets = sampled(scores, 1)

    def error(factor: float) -> float:
        probabilities = np.exp(log_softmax(scores * factor))
        return calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets)

    assert error(1) < 0.03
    assert error(5) > 0.1


@pytest.mark.parametrize("rows", [50, 500, 5000])
def test_a_perfectly_calibrated_model_is_below_what_chance_gives_as_often_as_was_said(rows: int) -> None:
    generator = np.random.default_rng(rows)
    confidence = generator.uniform(0.5, 1, rows)
    limit = calibration_error_by_chance(confidence, certainty=0.9, resamples=1000, random=generator)
    errors = [calibration_error(confidence, generator.random(rows) < confidence) for _ in range(1000)]
    assert np.mean(np.array(errors) <= limit) == pytest.approx(0.9, abs=0.04)


def test_log_softmax_survives_huge_scores() -> None:
    assert np.allclose(np.exp(log_softmax(np.array([[1e8, 0.0], [-1e8, 0.0]]))), [[1, 0], [0, 1]])


@pytest.mark.parametrize(("accuracy", "threshold"), [(1.0, 0.8), (0.75, 0.6), (0.6, 0.5), (0.0, 0.5)])
def test_the_threshold_is_the_lowest_that_keeps_the_promise(accuracy: float, threshold: float) -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, True, False, True, False])
    assert lowest_threshold(confidence, right, accuracy) == threshold


def test_rows_of_equal_confidence_are_accepted_together_or_not_at_all() -> None:
    assert lowest_threshold(np.array([0.9, 0.9]), np.array([True, False]), 0.9) is None


def test_no_threshold_keeps_a_promise_that_cannot_be_kept() -> None:
    assert lowest_threshold(np.array([0.9, 0.8]), np.array([False, True]), 0.9) is None
    assert lowest_threshold(np.array([]), np.array([], dtype=bool), 0.9) is None


def test_few_rows_promise_nothing_with_certainty() -> None:
    confidence, right = np.linspace(1, 0.5, 300), np.ones(300, dtype=bool)
    assert lowest_threshold(confidence[:20], right[:20], 0.98, certainty=0.9) is None
    assert lowest_threshold(confidence, right, 0.98, certainty=0.9) == 0.5


@pytest.mark.parametrize("accuracy", [0.9, 0.95, 0.98])
def test_a_promise_is_kept_as_certainly_as_was_said(accuracy: float) -> None:
    """Of 300 thresholds, each from 2,000 rows of its own; whether one keeps the promise is known of all rows."""
    generator = np.random.default_rng(0)
    everywhere = np.sort(1 - generator.beta(0.4, 3, size=50_000))[::-1]
    true_accuracy = np.cumsum(everywhere) / np.arange(1, len(everywhere) + 1)
    kept = []
    for _ in range(300):
        confidence = generator.choice(everywhere, 2000)
        threshold = lowest_threshold(confidence, generator.random(2000) < confidence, accuracy, certainty=0.95)
        accepted = np.count_nonzero(everywhere >= (2 if threshold is None else threshold))
        kept.append(accepted == 0 or true_accuracy[accepted - 1] >= accuracy)
    assert np.mean(kept) > 0.93


def test_rows_that_are_all_right_do_not_make_a_model_boundlessly_sure() -> None:
    scores = np.eye(4)[np.arange(40) % 4]
    assert fit_temperature(scores, np.arange(40) % 4) > 0.1


def test_words_without_stop_words_are_left_unless_nothing_else_is() -> None:
    stop = frozenset({"de", "la"})
    assert fold("Lot de 3", stop) == "lot 0"
    assert fold("de la", stop) == "de la"


def test_a_vectorizer_that_was_stored_gives_the_same_rows() -> None:
    vectorizer = TextVectorizer(TextFeatures(char_min_texts=1, stop_words=("de",))).fit(TEXTS)
    again = TextVectorizer.from_tables(*vectorizer.to_tables())
    assert (vectorizer.transform(TEXTS).toarray() == again.transform(TEXTS).toarray()).all()


def test_scores_of_a_text_do_not_depend_on_its_neighbours() -> None:
    vectorizer = TextVectorizer(TextFeatures(char_min_texts=1)).fit(TEXTS)
    columns = vectorizer.transform(TEXTS).shape[1]
    weights = np.random.default_rng(0).normal(size=(columns, 7)).astype(np.float32)
    model = TextModel(vectorizer, weights, np.zeros(7, np.float32))
    together = model.scores(TEXTS)
    assert all((model.scores([text])[0] == together[row]).all() for row, text in enumerate(TEXTS))


def test_a_text_of_unknown_words_gets_the_bias() -> None:
    vectorizer = TextVectorizer(TextFeatures()).fit(TEXTS)
    columns = vectorizer.transform(TEXTS).shape[1]
    model = TextModel(vectorizer, np.ones((columns, 2), np.float32), np.array([1, 2], np.float32))
    assert model.scores(["漢字"]).tolist() == [[1, 2]]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64])
def test_a_dense_head_gives_each_row_the_same_in_any_batch(rows: int) -> None:
    generator = np.random.default_rng(0)
    weights, bias = generator.normal(size=(1280, 27)), generator.normal(size=27)
    head = DenseHead(weights.astype(np.float32), bias.astype(np.float32))
    features = generator.normal(size=(64, 1280)).astype(np.float32)
    assert (head.scores(features[:rows]) == head.scores(features)[:rows]).all()


def test_a_graph_that_is_none_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="no ONNX graph"):
        ImageEncoder(b"nothing")
