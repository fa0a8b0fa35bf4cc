"""The transformer text model: pieces of words, all in view of each other, through an ONNX graph."""

from __future__ import annotations

from aisle.model.pieces import PieceTokenizer
from aisle.model.sequence import SequenceModel


class TransformerModel(SequenceModel):
    """The graph takes `pieces` (1 x pieces, int64) and gives 1 x types scores; nothing is computed for padding."""

    tokenizer: PieceTokenizer
