"""Everything that is kept of one user or one product: shown as JSON, or erased, in the database and in files.

The database's part is one transaction, with its entry in the audit trail. `corrections.csv` is changed before that
is committed, and the files of batches are removed after it: whatever is killed, the same command again ends it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine

from aisle.batch.spool import Spool
from aisle.clock import Clock, utc_now
from aisle.errors import CheckFailed
from aisle.files import sha256_bytes
from aisle.loop.corrections import (
    CORRECTIONS_FILE,
    FOLDER,
    Correction,
    alone,
    read_corrections,
    write_corrections,
)
from aisle.settings import Settings
from aisle.store import audit, privacy, users
from aisle.store.engine import reading, writing
from aisle.store.privacy import Erased, Holding
from aisle.store.users import Role


class Kind(StrEnum):
    USER = "user"
    PRODUCT = "product"


@dataclass(frozen=True)
class Subject:
    """Whose data it is: a user by name, or a product by what the shop calls it."""

    kind: Kind
    name: str

    @property
    def holdings(self) -> list[Holding]:
        return privacy.of_user(self.name) if self.kind is Kind.USER else privacy.of_product(self.name)

    @property
    def digest(self) -> str:
        """What the audit trail calls it: whoever knows the name can look for it, and nobody can read it there."""
        return f"{self.kind}:{sha256_bytes(self.name.encode())[:16]}"

    def is_of(self, correction: Correction) -> bool:
        return self.name == (correction.reviewer if self.kind is Kind.USER else correction.product_key)


STAYS: Mapping[Kind, Mapping[str, str]] = {
    Kind.USER: {
        "audit trail, experiments, retrainings": "who changed what has to stay provable (RGPD, art. 5.2 and 17.3): "
        "the entries stay, under a pseudonym",
        "feedback on products that others sent, corrections.csv": "it is what the shop's products are, and is learnt "
        "from: it stays, under a pseudonym",
        "access tokens": "one that is out is good for up to {access_token_expire_minutes} minutes "
        "(ACCESS_TOKEN_EXPIRE_MINUTES); erase again after that if it was used",
        "logs": "lines of requests have the name, until the log is full and goes: 5 MB, three times",
        "older versions": "backups of the database, and of corrections.csv in DVC, keep what they have until you "
        "delete them",
    },
    Kind.PRODUCT: {
        "catalogue": "data/raw, and models with the titles of similar products, are what the shop learns from: take "
        "it out there and train again",
        "batches": "a table that was uploaded is kept whole until {batches_keep_days} days after its batch is over "
        "(BATCHES_KEEP_DAYS)",
        "retraining": "the catalogue in data/retraining has it until the next retraining writes it anew",
        "older versions": "backups of the database, and versions in DVC, keep what they have until you delete them",
    },
}


def stays(kind: Kind, settings: Settings) -> dict[str, str]:
    """What an erasure leaves, and why."""
    return {what: why.format(**settings.model_dump()) for what, why in STAYS[kind].items()}


def export(
    engine: Engine, settings: Settings, subject: Subject, *, who: str, clock: Clock = utc_now
) -> Iterator[str]:
    """One JSON object in pieces, however much there is. That it was asked for is in the audit trail."""
    with writing(engine) as connection:
        now = clock()
        audit.record(connection, who=who, what="privacy.export", subject=subject.digest, at=now)
    about = {"kind": subject.kind, "name": subject.name, "at": now.isoformat()}
    yield f'{{"about": {_json(about)}'
    with reading(engine) as connection:
        for holding in subject.holdings:
            yield f',\n"{holding.name}": ['
            for number, row in enumerate(privacy.rows(connection, holding, subject.name)):
                yield f"{',' if number else ''}\n  {_json(row)}"
            yield "]"
        yield f',\n"batch_files": {_json(_files(connection, settings, subject))}'
    corrections = [asdict(one) for one in _corrections(settings).values() if subject.is_of(one)]
    yield f',\n"corrections": {_json(corrections)}}}\n'


@dataclass(frozen=True)
class Report:
    """What went, or would go: rows by table, corrections, folders of batches; and what stays."""

    done: bool
    subject: str
    pseudonym: str | None
    rows: Erased
    corrections: int
    batches: int
    stays: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan(engine: Engine, settings: Settings, subject: Subject) -> Report:
    """What `erase` would do. Raises CheckFailed where it would refuse."""
    with reading(engine) as connection:
        _keep_an_admin(connection, subject)
        found = privacy.count(connection, subject.holdings, subject.name)
        folders = _batches(connection, subject)
    return _report(settings, subject, found, folders, None)


def erase(engine: Engine, settings: Settings, subject: Subject, *, who: str, clock: Clock = utc_now) -> Report:
    """Raises CheckFailed for the last administrator, and while a retraining writes the corrections."""
    pseudonym = privacy.new_pseudonym() if subject.kind is Kind.USER else ""
    folder = settings.data_path / FOLDER
    undisturbed = alone(folder) if folder.is_dir() else contextlib.nullcontext()
    with undisturbed, writing(engine) as connection:
        _keep_an_admin(connection, subject)
        folders = _batches(connection, subject)
        found = privacy.erase(connection, subject.holdings, subject.name, pseudonym)
        report = _report(settings, subject, found, folders, pseudonym)
        # An operator may erase their own account.
        by = pseudonym if subject.kind is Kind.USER and who == subject.name else who
        after = {"erased": dict(found.erased), "renamed": dict(found.renamed), "corrections": report.corrections}
        audit.record(connection, who=by, what="privacy.erase", subject=subject.digest, at=clock(), after=after)
        _forget_corrections(settings, subject, pseudonym)
    spool = Spool(settings.batches_path)
    for batch in folders:
        spool.remove(batch)
    return report


def _report(settings: Settings, subject: Subject, found: Erased, folders: list[str], pseudonym: str | None) -> Report:
    corrections = sum(subject.is_of(one) for one in _corrections(settings).values())
    return Report(
        pseudonym is not None, subject.digest, pseudonym or None, found, corrections, len(folders),
        stays(subject.kind, settings),
    )  # fmt: skip


def _keep_an_admin(connection: Connection, subject: Subject) -> None:
    user = users.find(connection, subject.name) if subject.kind is Kind.USER else None
    if user and user.role is Role.ADMIN and user.is_active and users.count_admins(connection) == 1:
        raise CheckFailed(f"{user.name!r} is the last administrator", hint="Make another one first.")


def _batches(connection: Connection, subject: Subject) -> list[str]:
    return privacy.batch_ids(connection, subject.name) if subject.kind is Kind.USER else []


def _files(connection: Connection, settings: Settings, subject: Subject) -> list[dict[str, Any]]:
    """Of the batches: their tables may be larger than this export, and are where they are said to be."""
    found = []
    for batch in _batches(connection, subject):
        for path in sorted(Spool(settings.batches_path).folder(batch).rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found.append({"path": str(path), "bytes": path.stat().st_size})
    return found


def _corrections(settings: Settings) -> dict[str, Correction]:
    return read_corrections(settings.data_path / FOLDER / CORRECTIONS_FILE)


def _forget_corrections(settings: Settings, subject: Subject, pseudonym: str) -> None:
    before = _corrections(settings)
    theirs = {key for key, one in before.items() if subject.is_of(one)}
    if not theirs:
        return
    kept = {key: one for key, one in before.items() if key not in theirs}
    if subject.kind is Kind.USER:
        renamed = {key: replace(one, reviewer=pseudonym) for key, one in before.items() if key in theirs}
        kept = {key: renamed.get(key, one) for key, one in before.items()}
    write_corrections(settings.data_path / FOLDER / CORRECTIONS_FILE, kept.values())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
