"""Promotion: the one way for a bundle to become champion, with a verdict or a reason, a report and an entry.

The first champion of a store has nobody to be worse than: that it is the first is its reason, whatever the gate says
of it. A version that
was rolled back becomes champion again only when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aisle.errors import CheckFailed, UsageError
from aisle.files import write_json
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.registry.trail import trail
from aisle.settings import Settings

if TYPE_CHECKING:  # with a reason nothing is measured, and what measures takes its time to load
    from aisle.registry.gate import Verdict

VERDICT_FILE = "gate.json"
THE_FIRST = "the first champion of this store"


@dataclass(frozen=True, slots=True)
class Promotion:
    """Who is champion now, who was before, and why: the verdict of the gate, or the reason given instead.

    `note` is what whoever promoted it wanted to be remembered.
    """

    champion: str
    before: str | None
    forced: str | None
    gate: dict[str, Any] | None
    note: str | None = None

    def entry(self) -> dict[str, Any]:
        noted = {} if self.note is None else {"note": self.note}
        return {"champion": self.champion, "forced": self.forced, "gate": self.gate, **noted}


def checked(path: Path) -> Bundle:
    """The bundle there, if it gives its known answer, without which nobody could serve it. Raises BundleError."""
    from aisle.model.known_answer import load_checked  # noqa: PLC0415  a rollback does without what predicts

    with load_checked(path) as predictor:
        return predictor.bundle


def register(bundle: Bundle, settings: Settings, *, who: str) -> str | None:
    """Put `bundle` into the store as the challenger; who was that before. Raises BundleError as `checked` does."""
    store = BundleStore(settings.models_path)
    found = checked(bundle.path)
    before = store.serving().challenger
    store.add(found)
    with trail(settings, who) as record:
        store.make_challenger(found.version)
        after = {"challenger": found.version}
        record(what="model.register", subject=found.version, before={"challenger": before}, after=after)
    return before


def promote(
    bundle: Bundle,
    settings: Settings,
    *,
    who: str,
    judge: Callable[[Bundle], Verdict] | None = None,
    reason: str | None = None,
    note: str | None = None,
) -> Promotion:
    """Make `bundle` the champion if `judge` lets it pass, or for a `reason`; one of the two is given.

    The first champion is let pass anyway: a shop has to begin with something, and the verdict tells with what.
    A bundle from elsewhere is copied into the store first; the verdict is written to the reports of its version.
    Raises CheckFailed, which is in the audit trail, where the gate refuses it or another promotion was faster,
    UsageError for an empty reason, BundleError where it does not give its known answer.
    """
    store = BundleStore(settings.models_path)
    before = store.serving().champion
    if (reason is None or not reason.strip()) == (judge is None):
        raise UsageError("--force needs a reason", hint='Say why, as in --force "the class is sold no more".')
    bundle = Bundle.load(store.add(checked(bundle.path)))
    try:
        verdict = None
        if judge is not None:
            judged = judge(bundle)
            verdict = judged.as_dict()
            report = settings.reports_path / bundle.version / VERDICT_FILE
            write_json(report, verdict)
            if not judged.passed and before is None:
                reason = THE_FIRST
            elif not judged.passed:
                raise _refusal(judged, report)
        promotion = Promotion(bundle.version, before, reason, verdict, note)
        with trail(settings, who) as record:
            store.make_champion(bundle.version, instead_of=before)
            record(what="model.promote", subject=bundle.version, before={"champion": before}, after=promotion.entry())
    except CheckFailed as refused:
        with trail(settings, who) as record:
            record(what="model.promote.refuse", subject=bundle.version, after={"reason": refused.what})
        raise
    return promotion


def _refusal(judged: Verdict, report: Path) -> CheckFailed:
    found = "; ".join(f"{one.name}: {one.finding}" for one in judged.failed)
    hint = "`aisle registry promote --force REASON` promotes it all the same."
    return CheckFailed(f"the gate refuses {judged.challenger}: {found}", where=report, hint=hint)


def roll_back(settings: Settings, *, who: str, note: str | None = None, to: str | None = None) -> tuple[str, str]:
    """Make the champion before this one the champion again: from which version, and to which. `note`: why.

    Raises CheckFailed where there was none before, or another one than the version to go back `to`.
    """
    store = BundleStore(settings.models_path)
    with trail(settings, who) as record:
        serving = store.roll_back(to)
        before, now = serving.rolled_back[-1], str(serving.champion)
        after = {"champion": now} | ({} if note is None else {"note": note})
        record(what="model.rollback", subject=now, before={"champion": before}, after=after)
    return before, now
