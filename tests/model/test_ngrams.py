"""Our n-grams are scikit-learn's, to the last bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from aisle.model.ngrams import NGrams, rows_of
from aisle.model.text import fold

KINDS: list[tuple[Any, dict[str, Any]]] = [
    ("words", {"analyzer": "word", "token_pattern": r"\S+", "ngram_range": (1, 2)}),
    ("words", {"analyzer": "word", "token_pattern": r"\S+", "ngram_range": (2, 3)}),
    ("characters", {"analyzer": "char_wb", "ngram_range": (2, 5)}),
    ("characters", {"analyzer": "char_wb", "ngram_range": (4, 6)}),
]
LEARNT_FROM = [
    "lot de 3 livres anciens relies cuir", "piscine gonflable ronde 3 m avec pompe", "un", "a b c d e f",
    "figurine pop star wars 00 cm neuve", "piscine piscine piscine ronde", "console de jeux 00 go avec manette",
]  # fmt: skip


def same(of: Any, options: dict[str, Any], texts: Sequence[str]) -> None:
    theirs = TfidfVectorizer(sublinear_tf=True, lowercase=False, dtype=np.float32, **options).fit(LEARNT_FROM)
    ours = NGrams(of, options["ngram_range"], theirs.vocabulary_, theirs.idf_)
    expected, found = theirs.transform(texts), rows_of(texts, [ours])
    expected.sort_indices()
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


@pytest.mark.parametrize(("of", "options"), KINDS)
def test_weights_are_those_of_scikit_learn(of: Any, options: dict[str, Any]) -> None:
    same(of, options, [*LEARNT_FROM, "", "rien de connu zzz", "  ", "piscine " * 400])


@pytest.mark.parametrize(("of", "options"), KINDS)
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(st.sampled_from("abcdeilnoprsu 0é\t"), max_size=60), min_size=1, max_size=4))
def test_weights_are_those_of_scikit_learn_for_any_folded_text(
    of: Any, options: dict[str, Any], texts: list[str]
) -> None:
    same(of, options, [fold(text) for text in texts])


def test_no_text_is_no_row() -> None:
    assert rows_of([], [NGrams("words", (1, 2), {"a": 0}, np.ones(1, np.float32))]).shape == (0, 1)


def test_what_predicts_does_without_scikit_learn() -> None:
    program = (
        "import sys, aisle.model.predictor, aisle.service.app; print([n for n in sys.modules if n == 'sklearn'])"
    )
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"
