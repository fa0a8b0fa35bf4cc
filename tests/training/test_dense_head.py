"""The dense head of image features: what it learns, of what, and that it is the same again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from aisle.catalog import Prediction, Product
from aisle.data.prepare import Prepared
from aisle.model.bundle import Bundle
from aisle.model.calibration import log_softmax
from aisle.model.image import DenseHead, Features
from aisle.model.predictor import Predictor
from aisle.training.dense_head import fit_dense_head
from aisle.training.efficientnet import FEATURES
from aisle.training.recipes import DenseTraining, ImageTraining, Light, LogisticTraining
from aisle.training.train import train

HOW = DenseTraining(units=32, epochs=40, batch=32)
WIDTH = 6


def ring(rows: int, types: int = 3) -> tuple[Features, Features]:
    """Two networks' features of `rows` images, and what each is; no line tells type 0 from type 1."""
    chance = np.random.default_rng(0)
    kinds = np.arange(rows) % 2
    angles = chance.uniform(0, 2 * np.pi, rows)
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1 + 2 * kinds[:, None])
    noise = chance.normal(0, 0.1, (rows, 2 * WIDTH))
    noise[:, :2] += places
    noise[:, WIDTH : WIDTH + 2] += places
    return noise.astype(np.float32), np.eye(types, dtype=np.float32)[kinds]


def test_it_learns_what_no_linear_head_can() -> None:
    features, shares = ring(600)
    head = DenseHead.from_arrays(fit_dense_head(features, shares, np.ones(600), HOW, 0))
    right = head.scores(features).argmax(axis=1) == shares.argmax(axis=1)
    assert right.mean() > 0.95


def test_the_same_seed_gives_the_same_head_on_one_thread_and_on_two() -> None:
    chance = np.random.default_rng(0)
    features = chance.random((512, 2 * 512), np.float32)  # what is small is done on one thread anyway
    shares = np.eye(27, dtype=np.float32)[chance.integers(0, 27, 512)]
    heads = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            heads.append(fit_dense_head(features, shares, np.ones(512), replace(HOW, epochs=2, batch=256), 0))
    for name, array in heads[0].items():
        np.testing.assert_array_equal(array, heads[1][name], err_msg=name)


def test_a_unit_sees_one_network_alone() -> None:
    features, shares = ring(60)
    hidden = fit_dense_head(features, shares, np.ones(60), HOW, 0)["hidden_weights"]
    assert hidden.shape == (2 * WIDTH, 2 * HOW.units)
    assert not hidden[:WIDTH, HOW.units :].any()
    assert not hidden[WIDTH:, : HOW.units].any()


def test_a_type_without_an_image_is_never_proposed() -> None:
    features, shares = ring(60)
    assert np.isneginf(fit_dense_head(features, shares, np.ones(60), HOW, 0)["bias"]).tolist() == [False, False, True]


def test_a_row_without_weight_is_not_learnt_from() -> None:
    features, shares = ring(300)
    wrong = shares[:, [1, 0, 2]]
    both = np.concatenate([features, features]), np.concatenate([shares, wrong])
    weights = np.repeat([1.0, 0.0], 300)
    head = DenseHead.from_arrays(fit_dense_head(*both, weights, HOW, 0))
    assert (head.scores(features).argmax(axis=1) == shares.argmax(axis=1)).mean() > 0.9


def test_what_is_said_with_doubt_is_learnt_with_doubt() -> None:
    features, shares = ring(300)
    doubtful = 0.5 * shares + 0.25 * np.array([1, 1, 0], dtype=np.float32)
    sure = [
        np.exp(
            log_softmax(DenseHead.from_arrays(fit_dense_head(features, one, np.ones(300), HOW, 0)).scores(features))
        )
        .max(axis=1)
        .mean()
        for one in (shares, doubtful)
    ]
    assert sure[1] < sure[0]


@pytest.mark.parametrize("rows", [1, 2, 33])
def test_few_rows_and_features_that_never_change_do_no_harm(rows: int) -> None:
    features, shares = ring(rows)
    features[:, 3] = 7
    head = fit_dense_head(features, shares, np.ones(rows), HOW, 0)
    assert all(np.isfinite(array).all() for name, array in head.items() if name != "bias")


def test_a_small_catalogue_is_looked_at_by_one_network() -> None:
    how = ImageTraining(min_images=10)
    assert isinstance(how.of(9), LogisticTraining)
    assert isinstance(how.of(10), DenseTraining)


@pytest.mark.slow
def test_a_bundle_with_two_networks_answers_by_the_image_alone(prepared: Prepared, tmp_path: Path) -> None:
    recipe = replace(Light(), image=ImageTraining(min_images=1))
    bundle = train(recipe, prepared, tmp_path / "bundle", cache=tmp_path / "cache", threads=2)
    images = prepared.images()
    assert images is not None
    name = prepared.products().drop_nulls("image")["image"][0]
    with Predictor(Bundle.load(bundle.path), threads=1) as predictor:
        assert predictor.encoder is not None
        assert predictor.encoder(images.read(name)).shape == (2 * FEATURES,)
        [answer] = predictor.predict([Product(image=images.read(name))])
    assert isinstance(answer, Prediction)
    assert bundle.json("metrics.json")["image"]["weighted_f1"] > 0.5
