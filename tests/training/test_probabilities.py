"""`aisle evaluate --probabilities`: files of what models said, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from aisle.cli.main import aisle
from aisle.errors import InputError, UsageError
from aisle.model.calibration import log_softmax
from aisle.training.probabilities import evaluate_probabilities, read_probabilities

CODES = np.array([10, 40, 2583])


def said(rows: int = 600, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Two text models and one of images, in half precision as others write them."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, len(CODES), rows)

    def model(skill: float) -> NDArray[Any]:
        scores = generator.normal(size=(rows, len(CODES)))
        scores[np.arange(rows), targets] += skill
        return np.exp(log_softmax(scores)).astype(np.float16)

    return {
        "classes": CODES,
        "prdtypecode": CODES[targets],
        "index": np.arange(rows),
        "text_a": model(2.5),
        "text_b": model(2.0),
        "image_a": model(1.0),
    }


def written(path: Path, arrays: dict[str, NDArray[Any]]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture
def fit(tmp_path: Path) -> Path:
    return written(tmp_path / "fit.npz", said())


@pytest.fixture
def score(tmp_path: Path) -> Path:
    return written(tmp_path / "score.npz", said(400, seed=1))


def test_the_fusion_is_measured_on_rows_that_it_was_not_fitted_on(fit: Path, score: Path) -> None:
    figures = evaluate_probabilities(read_probabilities(score), read_probabilities(fit))
    alone = evaluate_probabilities(read_probabilities(score, ["text_a"]), read_probabilities(fit, ["text_a"]))
    assert figures["log_loss"] < alone["log_loss"]
    assert figures["models"] == ["image_a", "text_a", "text_b"]
    assert figures["rows"] == 400


def test_a_promise_comes_with_what_it_covers_and_reaches(fit: Path, score: Path) -> None:
    found = evaluate_probabilities(read_probabilities(score), read_probabilities(fit))["decisions"]
    assert {"0.95", "0.98", "0.99"} <= set(found)
    assert found["0.95"]["coverage"] > 0
    assert found["0.99"]["coverage"] < 1
    assert found["0.95"]["accuracy"] > 0.9
    assert found["0.99"]["coverage"] <= found["0.98"]["coverage"] <= found["0.95"]["coverage"]


def test_without_images_the_texts_are_worth_at_least_their_best(fit: Path, score: Path) -> None:
    without = evaluate_probabilities(read_probabilities(score), read_probabilities(fit))["without"]
    assert without["image"]["weighted_f1"] > without["image"]["best_model_alone"] - 0.01
    assert without["text"]["weighted_f1"] > without["text"]["best_model_alone"] - 0.03  # one model, of few products


def test_a_row_of_nan_is_a_model_that_could_not_look(tmp_path: Path, fit: Path) -> None:
    arrays = said(400, seed=1)
    arrays["image_a"][:200] = np.nan
    for name in ("text_a", "text_b", "image_a"):
        arrays[name][0] = np.nan
    figures = evaluate_probabilities(read_probabilities(written(tmp_path / "s.npz", arrays)), read_probabilities(fit))
    assert (figures["rows"], figures["left_out"]) == (399, 1)


def test_the_order_of_the_types_is_each_file_s_own(tmp_path: Path, fit: Path, score: Path) -> None:
    arrays = said(400, seed=1)
    turned = {name: one[:, ::-1] if one.ndim == 2 else one for name, one in arrays.items()} | {"classes": CODES[::-1]}
    other = written(tmp_path / "turned.npz", turned)
    straight, back = (
        evaluate_probabilities(read_probabilities(one), read_probabilities(fit)) for one in (score, other)
    )
    assert back == straight


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": None}, "no one-dimensional array 'classes'"),
        ({"prdtypecode": None}, "no one-dimensional array 'prdtypecode'"),
        ({"classes": np.array([10, 10, 40])}, "one of them twice"),
        ({"prdtypecode": np.full(600, 99)}, "'99', which is not among its classes"),
        ({"text_a": np.ones((600, 2), np.float16)}, r"\(600, 2\); wanted are fractions \(600, 3\)"),
        ({"text_a": np.full((600, 3), 1, np.int64)}, "int64"),
        ({"text_a": np.full((600, 3), 0.9)}, "sum to 1"),
        ({"text_a": np.tile([1.5, -0.5, 0.0], (600, 1))}, "sum to 1"),
        ({"text_a": np.tile([np.nan, 0.5, 0.5], (600, 1))}, "no probabilities"),
        ({"text_a": np.tile([np.inf, 0.5, 0.5], (600, 1))}, "no probabilities"),
        ({"text_a": None, "text_b": None, "image_a": None}, "begins with text_ or image_"),
        ({"prdtypecode": np.array([], np.int64)}, "has no product"),
    ],
)
def test_a_file_of_another_form_is_refused_with_what_is_wrong(
    tmp_path: Path, change: dict[str, NDArray[Any] | None], says: str
) -> None:
    arrays = {name: one for name, one in (said() | change).items() if one is not None}
    with pytest.raises(InputError, match=says):
        read_probabilities(written(tmp_path / "bad.npz", arrays))


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of plain arrays"):
        read_probabilities(written(tmp_path / "bad.npz", said() | {"index": np.array([{}], dtype=object)}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"prdtypecode,title\n"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.npz"
    file.write_bytes(content)
    with pytest.raises(InputError, match="of plain arrays"):
        read_probabilities(file)


def test_a_file_that_is_cut_is_refused(fit: Path) -> None:
    fit.write_bytes(fit.read_bytes()[:5000])
    with pytest.raises(InputError, match="of plain arrays"):
        read_probabilities(fit)


def test_a_model_that_is_not_there_is_named_with_those_that_are(fit: Path) -> None:
    with pytest.raises(InputError, match="text_z") as caught:
        read_probabilities(fit, ["text_z"])
    assert "image_a, text_a, text_b" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "says"),
    [({"classes": np.array([10, 40, 50]), "prdtypecode": np.full(600, 10)}, "types"), ({"text_b": None}, "text_b")],
)
def test_two_files_that_speak_of_different_things_are_refused(
    tmp_path: Path, fit: Path, change: dict[str, NDArray[Any] | None], says: str
) -> None:
    arrays = {name: one for name, one in (said() | change).items() if one is not None}
    with pytest.raises(UsageError, match=says):
        evaluate_probabilities(read_probabilities(written(tmp_path / "other.npz", arrays)), read_probabilities(fit))


def test_too_little_to_fit_on_is_said(tmp_path: Path, score: Path) -> None:
    few = written(tmp_path / "few.npz", said(2))
    with pytest.raises(InputError, match="too little to fit on"):
        evaluate_probabilities(read_probabilities(score), read_probabilities(few))


def test_the_verb_prints_what_a_program_reads(fit: Path, score: Path) -> None:
    command = ["evaluate", "--probabilities", str(score), "--fit", str(fit), "--models", "text_a,image_a", "--json"]
    done = CliRunner().invoke(aisle, command)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert {"weighted_f1", "macro_f1", "log_loss", "calibration_error", "top_3", "decisions"} <= set(figures)
    assert figures["models"] == ["image_a", "text_a"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "one of --data and --probabilities"),
        (["--data", "fit.npz", "--probabilities", "score.npz"], "one of --data and --probabilities"),
        (["--probabilities", "score.npz"], "go together"),
        (["--data", "score.npz", "--fit", "fit.npz"], "go together"),
        (["--probabilities", "fit.npz", "--fit", "fit.npz"], "not measured on the same one"),
    ],
)
def test_the_verb_says_what_it_wants(
    fit: Path, score: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(fit.parent)
    done = CliRunner().invoke(aisle, ["evaluate", *words])
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)
