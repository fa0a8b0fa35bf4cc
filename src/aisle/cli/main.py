"""The command itself: its verbs, and what becomes of an error."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

import click

from aisle import __version__
from aisle.cli import (
    accounts,
    backups,
    catalogue,
    changes,
    evidence,
    experiments,
    features,
    labels,
    models,
    monitoring,
    registry,
    retraining,
    serving,
)
from aisle.errors import AisleError
from aisle.logs import log_failure


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="aisle")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def aisle(debug: bool) -> None:
    """Put every product of a catalogue into the right product type.

    `aisle run` does everything once; the other verbs are its steps.
    """
    del debug  # read in main(), which also sees errors of the command line itself


for _verb in (
    serving.run, catalogue.import_, catalogue.validate, catalogue.prepare, features.features, models.train,
    models.evaluate, models.predict, registry.registry, serving.serve, serving.auth, serving.worker,
    serving.migrate, changes.changes, labels.labels, accounts.user, accounts.keys, accounts.audit,
    experiments.experiment, monitoring.drift, retraining.retrain, evidence.lineage, evidence.privacy,
    backups.backup, backups.restore,
):  # fmt: skip
    aisle.add_command(_verb)


def main() -> NoReturn:
    """Run the command line; every error is one line and has its exit code."""
    words = sys.argv[1:]
    debug = "--debug" in words
    try:
        aisle.main([word for word in words if word != "--debug"], standalone_mode=False)
    except click.exceptions.Abort:
        _fail("stopped", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(_usage_error(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except AisleError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except OSError as error:
        if debug:
            raise
        _fail(_os_error(error), 1)
    except Exception as error:  # the last resort, so that nobody meets a traceback unasked
        if debug:
            raise
        _fail(f"unexpected {type(error).__name__}: {error}. `aisle --debug …` shows where.", 1)
    sys.exit(0)


def _usage_error(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{error.format_message()} `{context.command_path if context else 'aisle'} --help` shows how it is used."


def _os_error(error: OSError) -> str:
    where = error.filename2 or error.filename
    where = f"{where}: " if where else ""
    if error.errno == errno.ENOSPC:
        return f"{where}the disk is full. Nothing was half-written; make room and run the same command again."
    return f"{where}{error.strerror or error}"


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    log_failure(line, exit_code=code)
    click.echo(f"aisle: {line}", err=True)
    sys.exit(code)
