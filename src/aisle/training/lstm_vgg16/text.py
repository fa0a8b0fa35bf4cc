"""The text half: words in their order → LSTM → scores, fitted, exported and compared with its export."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from aisle.logs import get_logger
from aisle.model.classifier import TEXT
from aisle.model.sequence import SequenceModel, WordTokenizer
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Rows
from aisle.training.graph import check_parity
from aisle.training.lstm_vgg16.batches import order_of, text_batches, trust, weights_of
from aisle.training.lstm_vgg16.fitting import History, fit
from aisle.training.lstm_vgg16.graphs import lstm_graph
from aisle.training.lstm_vgg16.networks import text_network
from aisle.training.recipes import LstmVgg16

CHECKED_TEXTS = 256
"""On how many held-out texts the graph is compared with its network."""


@dataclass(frozen=True, slots=True)
class LearntText:
    """The network, the model that serves instead of it, its epochs, and how far the two differ in probability."""

    network: keras.Model
    model: SequenceModel
    history: History
    parity: float


def learn_text(recipe: LstmVgg16, train: Rows, held_out: Rows, types: int, stages: Checkpoints) -> LearntText | None:
    """None where fewer than two types have a text."""
    how, seed = recipe.text, recipe.seed
    train, held_out = (rows.at(np.flatnonzero(rows.inputs.has(TEXT))) for rows in (train, held_out))
    if len(np.unique(train.targets)) < 2:
        return None
    texts, held_texts = (list(rows.inputs.field(TEXT)) for rows in (train, held_out))
    tokenizer = WordTokenizer.fit(
        texts, vocabulary=how.vocabulary, max_words=how.max_words, stop_words=how.stop_words
    )
    words, held_words = ([tokenizer.ids(text) for text in part] for part in (texts, held_texts))
    get_logger(__name__).info("fitting the text network", rows=len(train), words=tokenizer.size)
    keras.utils.set_random_seed(seed)
    network = text_network(how, tokenizer.size, types)
    weights, batch = weights_of(train, types, recipe), how.epochs.batch
    validation = None
    if len(held_out):
        in_order = np.arange(len(held_out))
        validation = text_batches(held_words, held_out.targets, trust(held_out, recipe), in_order, batch)
    history = fit(
        network,
        lambda epoch: text_batches(words, train.targets, weights, order_of(epoch, len(train), seed), batch),
        validation,
        how.epochs,
        stages,
        TEXT,
    )
    model = SequenceModel(tokenizer, lstm_graph(network))
    return LearntText(network, model, history, _parity(network, model, (held_texts or texts)[:CHECKED_TEXTS]))


def _parity(network: keras.Model, model: SequenceModel, texts: list[str]) -> float:
    alone = [network(model.tokenizer.ids(text)[np.newaxis].astype(np.int32), training=False) for text in texts]
    expected = np.concatenate([keras.ops.convert_to_numpy(one) for one in alone])
    return check_parity("text network", model.scores(texts), expected)
