"""Pieces of words: the cut that is likeliest, whatever the text is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisle.model.pieces import PieceTokenizer, Special

PIECES = [
    ("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁pool", -5.0), ("▁po", -4.5),
    ("ol", -4.0), ("s", -3.0), ("▁30", -6.0), ("x", -4.0), ("30", -5.0), ("a", -3.5), ("▁a", -3.2),
]  # fmt: skip
BEGIN, END, UNKNOWN = 0, 2, 3


def tokenizer(most: int = 12) -> PieceTokenizer:
    return PieceTokenizer(PIECES, Special(BEGIN, END, 1, UNKNOWN), most)


def cut(text: str, most: int = 12) -> list[str]:
    return [PIECES[number][0] for number in tokenizer(most).ids(text)[1:-1]]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("pool", ["▁pool"]),  # -5 is likelier than -4.5 - 4
        ("pools", ["▁pool", "s"]),
        ("PÔOL", ["▁pool"]),
        ("30x30", ["▁30", "x", "30"]),
        ("a  pool\t30", ["▁a", "▁pool", "▁30"]),
        ("日本 a", ["▁", "<unk>", "▁a"]),  # a run of what is unknown is one piece
        ("<s> </s>", ["▁", "<unk>", "s", "<unk>", "▁", "<unk>", "s", "<unk>"]),  # a text cannot say that it begins
        ("", []),
        (" \n", []),
    ],
)
def test_a_text_is_cut_the_likeliest_way(text: str, pieces: list[str]) -> None:
    assert cut(text) == pieces


def test_a_text_begins_and_ends_and_is_cut_off_at_its_most() -> None:
    ids = tokenizer(4).ids("a a a a a")
    assert ids.tolist() == [BEGIN, 13, 13, END]


@given(st.text(max_size=40))
def test_any_text_has_pieces_that_are_known(text: str) -> None:
    ids = tokenizer(10).ids(text)
    assert 2 <= len(ids) <= 10
    assert ((ids >= 0) & (ids < len(PIECES))).all()


def test_a_huge_word_takes_no_long_time() -> None:
    assert len(tokenizer().ids("pool" * 100_000)) == 12


def test_stop_words_are_left_out_unless_there_is_nothing_else() -> None:
    some = PieceTokenizer(PIECES, Special(BEGIN, END, 1, UNKNOWN), 12, stop_words=["a"])
    assert [place for place, _ in some.read("A pool à 30")] == [1, 3]
    assert [place for place, _ in some.read("a A")] == [0, 1]


def test_each_piece_knows_its_word() -> None:
    assert [place for place, _ in tokenizer().read("a 30x30 pool")] == [0, 1, 1, 1, 2]


def test_pieces_may_be_cased_and_parted_where_a_next_line_begins() -> None:
    cased = PieceTokenizer(PIECES, Special(BEGIN, END, 1, UNKNOWN), 12, cased=True, between=[END, END])
    for some in (cased, PieceTokenizer.from_table(cased.to_table())):
        assert some.ids("a\npool").tolist() == [BEGIN, 13, END, END, 5, END]
        assert some.ids("A a").tolist() == [BEGIN, 4, UNKNOWN, 13, END]
    assert tokenizer().ids("a\npool").tolist() == [BEGIN, 13, 5, END]


def test_of_two_parts_the_second_is_cut_off_first() -> None:
    parted = PieceTokenizer(PIECES, Special(BEGIN, END, 1, UNKNOWN), 5, between=[END, END])
    assert parted.ids("a\npool pool").tolist() == [BEGIN, 13, END, END, END]
    assert len(parted.ids("a a a a\npool")) == 5


def test_what_was_stored_cuts_alike() -> None:
    again = PieceTokenizer.from_table(tokenizer().to_table())
    assert again.ids("pools 30x30 日").tolist() == tokenizer().ids("pools 30x30 日").tolist()
