"""What two models say of the same products: which products would change their type, how many, and why."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from aisle.batch.table import ProductRow
from aisle.catalog import Decision, Prediction, TypeChanges
from aisle.model.predictor import Outcome, Predictor

COLUMNS = (
    "key", "designation", "product_id", "imageid",
    "old", "old_label", "old_confidence", "new", "new_label", "new_confidence",
    "decision", "reason", "part",
)  # fmt: skip
DIGITS = 6

Reason = Literal["model", "types changed"]


@dataclass(frozen=True, slots=True)
class Transition:
    """So many products would go from one type to another, `accepted` of them by the model's own decision."""

    old: str
    old_label: str
    new: str
    new_label: str
    products: int
    accepted: int


@dataclass(frozen=True, slots=True)
class ChangesReport:
    """What the champion `after` would change in the catalogue that `before` put in order.

    `types_before` and `types_after` are their tables of types. `count` of `products` would change, and `accepted` of
    these are sure enough to be taken over without a person. `unreadable` products can be judged by neither model,
    `images_not_read` were judged by their texts. `measured`: how good both are, where that was asked for.
    """

    before: str
    after: str
    types_before: str
    types_after: str
    products: int
    count: int
    accepted: int
    unreadable: int
    images_not_read: int
    reasons: dict[str, int]
    transitions: tuple[Transition, ...]
    csv: Path
    csv_sha256: str
    measured: dict[str, Any] | None = None

    @property
    def share(self) -> float:
        """Of all products, those that would change."""
        return round(self.count / self.products, DIGITS) if self.products else 0.0

    @property
    def share_accepted(self) -> float:
        """Of all products, those that would change by a decision that is sure enough."""
        return round(self.accepted / self.products, DIGITS) if self.products else 0.0

    def as_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "csv": str(self.csv), "share": self.share, "share_accepted": self.share_accepted}
        if self.measured is None:
            del found["measured"]
        return {**found, "transitions": list(found["transitions"])}


@dataclass(frozen=True, slots=True)
class Change:
    """A row of the CSV, in the order of `COLUMNS`."""

    key: str
    designation: str
    product_id: str
    imageid: str
    old: str
    old_label: str
    old_confidence: str
    new: str
    new_label: str
    new_confidence: str
    decision: str
    reason: Reason
    part: str


class Tally:
    """Counts products one by one, and says which of them would change from the `old` model to the `new` one."""

    def __init__(self, old: Predictor, new: Predictor) -> None:
        self._old, self._new = old.bundle, new.bundle
        self._changes = self._new.changes()
        known = {*self._old.types(), *old.classifier.codes}
        self._known_before = known | {now for code in known if (now := self._changes.now(code)) is not None}
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._transitions: Counter[tuple[str, str, str, str]] = Counter()
        self._accepted: Counter[tuple[str, str, str, str]] = Counter()

    def count(self, named: tuple[str, ...], row: ProductRow, before: Outcome, after: Outcome) -> Change | None:
        key, title, product_id, image_id, part = named
        self._counts["products"] += 1
        old, new = _told(before), _told(after)
        if not old.code and not new.code:
            self._counts["unreadable"] += 1
            return None
        if row.image_error is not None or new.image_error:
            self._counts["images_not_read"] += 1
        if old.code == new.code:
            return None
        reason = reason_of(old.code, new.code, self._changes, self._known_before)
        transition = (old.code, old.label, new.code, new.label)
        self._reasons[reason] += 1
        self._transitions[transition] += 1
        self._accepted[transition] += new.decision == Decision.ACCEPT.value
        return Change(
            key=key,
            designation=title,
            product_id=product_id,
            imageid=image_id,
            old=old.code,
            old_label=old.label,
            old_confidence=old.confidence,
            new=new.code,
            new_label=new.label,
            new_confidence=new.confidence,
            decision=new.decision,
            reason=reason,
            part=part,
        )

    def report(self, output: Path, sha256: str, measured: dict[str, Any] | None = None) -> ChangesReport:
        by_size = sorted(self._transitions.items(), key=lambda one: (-one[1], one[0]))
        return ChangesReport(
            before=self._old.version,
            after=self._new.version,
            types_before=self._old.types().id,
            types_after=self._new.types().id,
            products=self._counts["products"],
            count=self._transitions.total(),
            accepted=self._accepted.total(),
            unreadable=self._counts["unreadable"],
            images_not_read=self._counts["images_not_read"],
            reasons=dict(sorted(self._reasons.items())),
            transitions=tuple(Transition(*names, rows, self._accepted[names]) for names, rows in by_size),
            csv=output,
            csv_sha256=sha256,
            measured=measured,
        )


@dataclass(frozen=True, slots=True)
class _Told:
    """What a model says of a product, as the CSV has it; all empty where there was nothing to look at."""

    code: str = ""
    label: str = ""
    confidence: str = ""
    decision: str = Decision.REVIEW.value
    image_error: bool = False


def _told(outcome: Outcome) -> _Told:
    if not isinstance(outcome, Prediction):
        return _Told()
    return _Told(
        outcome.type.code,
        outcome.type.label,
        f"{outcome.confidence:.{DIGITS}f}",
        outcome.decision.value,
        outcome.image_error is not None,
    )


def reason_of(old: str, new: str, changes: TypeChanges, known_before: set[str]) -> Reason:
    """`types changed` where the old type became the new one or fell away, or the old model cannot know the new one.

    Types are codes, "" for none.
    """
    today = changes.now(old)
    is_of_types = today in (new, None) or (bool(new) and new not in known_before)
    return "types changed" if is_of_types else "model"


_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: where it begins like one and is no number, `'` in front."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell
