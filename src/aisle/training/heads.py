"""Fitting the models of one recipe on rows with labels and weights."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.svm import LinearSVC

from aisle.model.calibration import Array
from aisle.model.image import Features
from aisle.model.text import Scores
from aisle.training.recipes import LogisticTraining, TextTraining

Targets = NDArray[np.intp]
Weights = NDArray[np.float64]


LEAST_SHARE = 0.02
"""Of a row: less of a type is not worth a row of its own."""


def fit_text_head(
    rows: sp.csr_matrix,
    targets: Targets,
    weights: Weights,
    types: int,
    how: TextTraining,
    seed: int,
    *,
    threads: int,
    wanted: Array | None = None,
) -> dict[str, Scores]:
    """`weights` (n-grams x types) and `bias` (types) for n rows of TF-IDF and n `targets` (columns).

    A type without a row has a bias of minus infinity: the model has no opinion on it. What is `wanted` (n x types)
    of the rows only the logistic regression hears of: its loss is that of a probability.
    """
    weights = weights**how.weight_power * rarity(targets, types) ** how.balance
    logistic = SGDClassifier(
        loss="log_loss",
        alpha=how.alpha,
        max_iter=how.epochs,
        tol=None,
        average=True,
        random_state=seed,
        n_jobs=threads,
    )
    # Left to itself, scikit-learn solves the primal where rows outnumber n-grams: as well, in twice the time.
    svm = LinearSVC(C=how.svm_c, random_state=seed, dual=True)
    coefficients = np.zeros((rows.shape[1], types), dtype=np.float32)
    bias = np.zeros(types, dtype=np.float32)
    labelled = (rows, targets, weights)
    heard = labelled
    if wanted is not None:
        places, columns, counts = spread(wanted, targets, weights)
        heard = (rows[places], columns, counts)
    for model, share, (given, right, counted) in ((logistic, 1.0, heard), (svm, how.svm_share, labelled)):
        model.fit(given, right, sample_weight=counted)
        known, coef, intercept = _one_row_a_type(model.classes_, model.coef_, model.intercept_)
        coefficients[:, known] += (share * coef.T).astype(np.float32)
        bias[known] += (share * intercept).astype(np.float32)
    bias[np.setdiff1d(np.arange(types), targets)] = -np.inf
    return {"weights": coefficients, "bias": bias}


def fit_logistic_head(
    features: Features,
    targets: Targets,
    weights: Weights,
    types: int,
    how: LogisticTraining,
    wanted: Array | None = None,
) -> dict[str, Scores]:
    """`weights` (features x types) and `bias` (types) for n rows of features and n `targets` (columns), or what is
    `wanted` (n x types) of the rows."""
    weights = weights**how.weight_power
    if wanted is not None:
        rows, targets, weights = spread(wanted, targets, weights)
        features = features[rows]
    model = LogisticRegression(C=how.c, max_iter=how.max_iterations, tol=how.tolerance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is part of the recipe
        model.fit(features, targets, sample_weight=weights)
    known, coef, intercept = _one_row_a_type(model.classes_, model.coef_, model.intercept_)
    matrix = np.zeros((features.shape[1], types), dtype=np.float32)
    bias = np.full(types, -np.inf, dtype=np.float32)
    matrix[:, known] = coef.T
    bias[known] = intercept
    return {"weights": matrix, "bias": bias}


def spread(wanted: Array, targets: Targets, weights: Weights) -> tuple[Targets, Targets, Weights]:
    """Each row once for each type that it is wanted to be, with its share of the weight: places, columns, weights.

    Types that no row is labelled with are left out, and so are the smallest shares; the rest shares the weight.
    """
    shares = np.where(wanted >= LEAST_SHARE, wanted, 0.0)
    shares[:, np.setdiff1d(np.arange(wanted.shape[1]), targets)] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    places, columns = np.nonzero(shares)
    return places, columns, shares[places, columns] * weights[places]


def rarity(targets: Targets, types: int) -> Weights:
    """n: how many times rarer than the average type each row's type is."""
    counts = np.bincount(targets, minlength=types)
    found: Weights = len(targets) / (np.count_nonzero(counts) * counts[targets])
    return found


def _one_row_a_type(
    classes: Targets, coef: NDArray[np.float64], intercept: NDArray[np.float64]
) -> tuple[Targets, NDArray[np.float64], NDArray[np.float64]]:
    """Of two types scikit-learn keeps one row, the second's; the first's is its opposite."""
    if len(classes) == 2:
        return classes, np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return classes, coef, intercept
