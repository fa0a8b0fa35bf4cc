"""The verbs that show what is behind an answer, and what is kept of people and products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aisle.cli.common import FILE, as_json, operator, print_result, start
from aisle.errors import CheckFailed
from aisle.logs import LogFile
from aisle.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from aisle.privacy import Subject


@contextmanager
def _store() -> Iterator[tuple[Engine, Settings]]:
    settings = start(LogFile.SERVING)
    from aisle.store.engine import open_database
    from aisle.store.migrate import migrate

    engine = open_database(settings.database_url)
    migrate(engine)
    yield engine, settings
    engine.dispose()


@click.command()
@click.argument("wanted", metavar="ID")
@as_json
def lineage(wanted: str, as_json: bool) -> None:
    """Where the prediction ID comes from: model, data, code, configuration, who promoted it, what people said.

    ID may also be a version of a model, which is what the results of bulk predictions name. Exit code 4 where a part
    is gone: what is left is shown all the same.
    """
    with _store() as (engine, settings):
        from aisle.registry.provenance import trace

        found = trace(engine, settings, wanted)
    print_result(found, as_json, _origin)
    if found["missing"]:
        raise CheckFailed("; ".join(found["missing"]), where=wanted)


def _origin(found: dict[str, Any]) -> str:
    return "\n".join(f"{name:<12} {_plain(text)}" for name, text in _origin_lines(found))


def _plain(text: str) -> str:
    """Without what would move the cursor: keys and notes are what people sent."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _origin_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    said, model, experiment = found["prediction"], found["model"], found["experiment"]
    lines: list[tuple[str, str]] = []
    if said:
        of = f" of {said['product_key']}" if said["product_key"] else ""
        lines += [
            ("prediction", f"{said['id']}{of}, {said['created_at']:%Y-%m-%d %H:%M:%S} UTC, for {said['user_name']}"),
            ("said", f"{said['predicted']}, {said['confidence']:.1%} sure: {said['decision']}"),
            ("product", f"sha256 {said['input_hash']}, image {said['image_hash'] or 'none'}"),
        ]
    if experiment:
        kind = f"{experiment['kind']} of {experiment['challenger']}" if "kind" in experiment else "gone"
        lines.append(("experiment", f"{experiment['id']} ({kind}), answered by the {experiment['arm']}"))
    recipe = f", recipe {model['recipe']}" if "recipe" in model else ""
    lines.append(("model", f"{model['version']}{recipe}"))
    if "lineage" in model:
        lines += _learnt(model["lineage"], model["trained"])
    if data := found["data"]:
        lines.append(("data", f"sum {data['data_hash']}{_kept(data)}"))
    for one in found["releases"]:
        lines.append((one["what"].removeprefix("model."), _release(one, is_it=one == found["champion_by"])))
    lines += [
        ("corrected", f"{one['type_code']}, by {one['user_name']} at {one['created_at']:%Y-%m-%d %H:%M} UTC")
        for one in found["feedback"]
    ]
    return lines


def _learnt(lineage: dict[str, Any], trained: dict[str, Any]) -> list[tuple[str, str]]:
    by = f"{trained['began']}, by {trained['source']}" if trained else "not known any more"
    packages = ", ".join(f"{name} {version}" for name, version in lineage["packages"].items())
    return [
        ("trained", by),
        ("code", lineage["code_revision"]),
        ("seed", str(lineage["seed"])),
        ("packages", packages),
        ("rows", ", ".join(f"{count} {side}" for side, count in lineage["rows"].items())),
    ]


def _kept(data: dict[str, Any]) -> str:
    of = f", of retraining {data['retraining']}" if data["retraining"] else ""
    dvc = data["dvc"]
    if isinstance(dvc, dict):
        return f"{of}; {dvc['path']} is {dvc['md5']} in DVC, commit {dvc['commit'] or 'not made yet'}"
    return f"{of}; DVC keeps it, by the note that --json shows" if dvc else f"{of}; no version of DVC is known"


def _release(one: dict[str, Any], *, is_it: bool) -> str:
    why = [
        *(["the gate let it pass"] if one.get("gate") else []),
        *([f"reason: {one['forced']}"] if "forced" in one else []),
        *([f"note: {one['note']}"] if "note" in one else []),
        *(["gave this answer as champion by that"] if is_it else []),
    ]
    return f"{one['at']:%Y-%m-%d %H:%M:%S} UTC by {one['who']}" + "".join(f"; {part}" for part in why)


@click.group()
def privacy() -> None:
    """What is kept of one user or one product: as JSON, or erased."""


def _subject(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--product", default="", help="A product, by what the shop calls it.")(function)
    return click.option("--user", default="", help="An account, or whoever signed in by that name.")(function)


def _chosen(user: str, product: str) -> Subject:
    from aisle.privacy import Kind, Subject

    if bool(user) == bool(product):
        raise click.UsageError("--user or --product says whose data it is, one of the two.")
    return Subject(Kind.USER, user) if user else Subject(Kind.PRODUCT, product)


@privacy.command()
@_subject
@click.option("--out", type=FILE, default=None, help="File to write, for its owner alone; default: standard output.")
def export(user: str, product: str, out: Path | None) -> None:
    """Everything that is kept, as JSON. Passwords, tokens and keys are not shown, and are kept as hashes anyway."""
    subject = _chosen(user, product)
    with _store() as (engine, settings):
        from aisle.files import atomic_path
        from aisle.privacy import export as exported

        pieces = exported(engine, settings, subject, who=operator())
        if out is None:
            for piece in pieces:
                click.echo(piece, nl=False)
            return
        with atomic_path(out, private=True) as path, path.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
        click.echo(f"what is kept of {subject.kind} {subject.name!r} is in {out}", err=True)


@privacy.command()
@_subject
@click.option("--yes", is_flag=True, help="Erase it. Without this, nothing is changed, and what would be is shown.")
@as_json
def erase(user: str, product: str, yes: bool, as_json: bool) -> None:
    """Erase what is kept. What law or purpose make stay gets a pseudonym, and is named with its reason."""
    subject = _chosen(user, product)
    with _store() as (engine, settings):
        from aisle.privacy import erase as erased
        from aisle.privacy import plan

        done = erased(engine, settings, subject, who=operator()) if yes else plan(engine, settings, subject)
    print_result(done.as_dict(), as_json, _erasure)


def _erasure(found: dict[str, Any]) -> str:
    rows, done = found["rows"], found["done"]
    counted = {**rows["erased"], "corrections.csv": found["corrections"], "folders of batches": found["batches"]}
    gone = [f"  {count:6} {name}" for name, count in counted.items() if count]
    renamed = [f"  {count:6} {name}" for name, count in rows["renamed"].items()]
    return "\n".join(
        [
            "erased:" if done else "would be erased:",
            *(gone or ["  nothing"]),
            *([f"under the pseudonym {found['pseudonym'] or 'that it gets'}:", *renamed] if renamed else []),
            "stays:",
            *(f"  {what}: {why}" for what, why in found["stays"].items()),
            *([f"  sentences with the name in them: {'; '.join(rows['mentions'])}"] if rows["mentions"] else []),
            f"the audit trail calls it {found['subject']}" if done else "nothing was changed: --yes erases it",
        ]
    )
