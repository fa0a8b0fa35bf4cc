"""The verbs that save what cannot be made again, and bring it back."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from aisle.cli.common import FILE, as_json, operator, print_result, start
from aisle.errors import CheckFailed, InputError
from aisle.logs import LogFile
from aisle.settings import Settings

if TYPE_CHECKING:
    from aisle.backup import Contents

STREAM = Path("-")


@click.command()
@click.argument("file", type=FILE)
@as_json
def backup(file: Path, as_json: bool) -> None:
    """Write database, models and collected corrections to FILE, while the services go on; `-` is standard output.

    Only its owner may read it. Exit code 4 where a model is damaged: it is left out, and all else is there.
    """
    settings = start(LogFile.SERVING)
    from aisle.backup import back_up, back_up_to_file
    from aisle.store.engine import open_database
    from aisle.store.migrate import migrate

    engine = open_database(settings.database_url)
    migrate(engine)
    if file == STREAM:
        contents = back_up(engine, settings, sys.stdout.buffer, name="standard output", who=operator())
        click.echo(_sentence(contents.as_dict()), err=True)
    else:
        contents = back_up_to_file(engine, settings, file, who=operator())
        print_result(contents.as_dict(), as_json, lambda found: f"{file}: {_sentence(found)}")
    engine.dispose()
    if contents.damaged:
        raise CheckFailed(f"left out, since damaged: {', '.join(contents.damaged)}", where=file)


@click.command()
@click.argument("file", type=FILE)
@as_json
def restore(file: Path, as_json: bool) -> None:
    """Bring back what `aisle backup` wrote to FILE, before a service is started; `-` is standard input.

    The database has to be empty, and nothing may serve from the bundle store yet: nothing is ever replaced. A restore
    that was killed is given again.
    """
    settings = start(LogFile.SERVING)
    from aisle.backup import restore as bring_back
    from aisle.store.engine import open_database

    engine = open_database(settings.database_url)
    with _opened(file, settings) as source:
        contents: Contents = bring_back(engine, settings, source, name=str(file), who=operator())
    engine.dispose()
    print_result(contents.as_dict(), as_json, lambda found: f"{_sentence(found)} are back. Everybody signs in anew.")


@contextmanager
def _opened(file: Path, settings: Settings) -> Iterator[IO[bytes]]:
    """The file, or a private copy of standard input: it is read twice."""
    if file != STREAM:
        if not file.is_file():
            raise InputError("is not there", where=file, hint="`aisle backup FILE` makes one.")
        with file.open("rb") as source:
            yield source
        return
    settings.data_path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=settings.data_path) as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.seek(0)
        yield copy


def _sentence(found: dict[str, Any]) -> str:
    rows = sum(found["rows"].values())
    return f"{rows} rows and {len(found['versions'])} models of {found['made_at'][:16]}, {found['champion']} serving"
