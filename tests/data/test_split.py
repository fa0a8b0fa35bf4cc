"""The sides of the evaluation: by group, and for good."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from aisle.data.split import Shares, Side, side_of, split

row = st.lists(
    st.sampled_from([f"{kind}{n}" for kind in "ti" for n in range(12)]), min_size=1, max_size=3, unique=True
)
catalogue = st.lists(row, max_size=40)
HALVES = Shares(validation=0.3, test=0.3)


@given(catalogue)
def test_products_that_share_an_image_or_a_title_are_never_on_two_sides(rows: list[list[str]]) -> None:
    sides: dict[str, set[Side]] = defaultdict(set)
    for identities, member in zip(rows, split(rows, HALVES), strict=True):
        if member.side != Side.BRIDGE:
            for identity in identities:
                sides[identity].add(member.side)
    assert all(len(found) == 1 for found in sides.values())


@given(catalogue, catalogue)
def test_a_row_keeps_its_side_when_the_catalogue_grows(rows: list[list[str]], more: list[list[str]]) -> None:
    before = [member.side for member in split(rows, HALVES)]
    after = [member.side for member in split(rows + more, HALVES)]
    assert after[: len(rows)] == before


@given(catalogue)
def test_rows_that_stay_together_have_one_group(rows: list[list[str]]) -> None:
    members = split(rows, HALVES)
    for identities, member in zip(rows, members, strict=True):
        for other_identities, other in zip(rows, members, strict=True):
            if Side.BRIDGE not in (member.side, other.side) and set(identities) & set(other_identities):
                assert member.group == other.group


def test_a_row_that_joins_two_sides_is_left_out() -> None:
    names = [f"title:{n}" for n in range(100)]
    one = next(name for name in names if side_of(name, HALVES) == Side.TRAIN)
    other = next(name for name in names if side_of(name, HALVES) == Side.TEST)
    members = split([[one], [other], [one, other], [one]], HALVES)
    assert [member.side for member in members] == [Side.TRAIN, Side.TEST, Side.BRIDGE, Side.TRAIN]


def test_the_sides_have_about_their_shares() -> None:
    sides = [member.side for member in split([[f"title:{n}"] for n in range(20_000)], Shares(0.1, 0.05))]
    assert abs(sides.count(Side.VALIDATION) / 20_000 - 0.1) < 0.01
    assert abs(sides.count(Side.TEST) / 20_000 - 0.05) < 0.01


def test_a_salt_gives_another_partition() -> None:
    rows = [[f"title:{n}"] for n in range(200)]
    assert split(rows, HALVES) != split(rows, HALVES, salt="another")
