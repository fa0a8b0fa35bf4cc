"""Which side of the evaluation a product is on: train, validation or test, by group.

Products with the same image or the same title form a group and are never on two sides. A group's side is a
hash of its first product's identity, and rows come by rising key, so that a row keeps its side when the
catalogue grows by products with higher keys, wherever in the file they stand. A new row that would join two
groups on different sides is left out of evaluation and training alike (`bridge`), and reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of the groups in each held-out side; the rest is for training. Each in (0, 0.5)."""

    validation: float = 0.1
    test: float = 0.05


@dataclass(frozen=True, slots=True)
class Membership:
    """`side` of one row, and the name of its `group`: equal for rows that must stay together."""

    side: Side
    group: str


def side_of(group: str, shares: Shares, salt: str = "") -> Side:
    """The side of a group: its name's hash as a number in [0, 1), cut at the shares."""
    digest = hashlib.sha256(f"{salt}|{group}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < shares.test:
        return Side.TEST
    if position < shares.test + shares.validation:
        return Side.VALIDATION
    return Side.TRAIN


def split(rows: Iterable[Sequence[str]], shares: Shares = Shares(), salt: str = "") -> list[Membership]:
    """Give each row its side and group.

    `rows` holds for each row the identities that it shares with others of its group (its title's key, its
    image's fingerprint and hash), at least one, in the catalogue's order. The salt of a recipe gives another
    partition. Two groups on the same side that a row joins become one from that row on.
    """
    group_of: dict[str, str] = {}  # identity → the group it was first seen in
    merged: dict[str, str] = {}  # group → the group it was joined to
    members: list[Membership] = []

    def root(group: str) -> str:
        while group in merged:
            group = merged[group]
        return group

    for identities in rows:
        groups = list(dict.fromkeys(root(group_of[one]) for one in identities if one in group_of))
        sides = {side_of(group, shares, salt) for group in groups}
        if len(sides) > 1:
            members.append(Membership(Side.BRIDGE, groups[0]))
            continue
        group = groups[0] if groups else identities[0]
        for other in groups[1:]:
            merged[other] = group
        for one in identities:
            group_of.setdefault(one, group)
        members.append(Membership(side_of(group, shares, salt), group))
    return [Membership(one.side, root(one.group)) for one in members]
