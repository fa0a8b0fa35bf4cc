"""The `aisle` command: one verb for each step. A verb translates, calls one function and translates back."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from aisle import __version__
from aisle.errors import AisleError
from aisle.logs import LogFile, log_failure, setup_logging
from aisle.settings import Settings, get_settings, override

if TYPE_CHECKING:
    from aisle.auth.accounts import Accounts
    from aisle.auth.bootstrap import FirstAdmin

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="aisle")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def aisle(debug: bool) -> None:
    """Put every product of a catalogue into the right product type.

    `aisle run` does everything once; the other verbs are its steps.
    """
    del debug  # read in main(), which also sees errors of the command line itself


def contract_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the data contract, for every verb that validates."""
    function = click.option(
        "--allow-missing-types", is_flag=True, help="Go on though a type of the table has no valid row."
    )(function)
    return click.option(
        "--max-bad",
        type=click.FloatRange(0, 1),
        default=0.01,
        show_default=True,
        help="Largest share of bad rows.",
    )(function)


@aisle.command()
@click.option("--recipe", "recipe_name", default="light", show_default=True, help="How to train.")
@click.option("--source", default="", help="Catalogue to import first; default: data/raw, or the sample if empty.")
@click.option("--rows", default=2700, show_default=True, help="Products of the generated sample.")
@click.option("--seed", default=0, show_default=True, help="Seed of the generated sample.")
@click.option("--serve/--no-serve", default=True, help="Serve the trained model at the end.")
@contract_options
def run(
    recipe_name: str, source: str, rows: int, seed: int, serve: bool, max_bad: float, allow_missing_types: bool
) -> None:
    """Import, validate, prepare, train, evaluate, register, then serve."""
    settings = _start(LogFile.TRAIN)
    from aisle.data.validate import ContractOptions
    from aisle.pipeline import run_all

    contract = ContractOptions(max_bad, allow_missing_types)
    run_all(recipe_name, source, settings, rows=rows, seed=seed, contract=contract)
    if serve:
        settings = _start(LogFile.SERVING)
        from aisle.service.serve import serve_with_tokens

        serve_with_tokens(settings, tell=_show_first_admin)


@aisle.command("import")
@click.option("--source", required=True, help="sample, huggingface, s3://BUCKET/PREFIX or a folder.")
@click.option("--to", type=FOLDER, default=None, help="Folder of raw data; default: data/raw.")
@click.option("--rows", default=2700, show_default=True, help="Products of the generated sample.")
@click.option("--seed", default=0, show_default=True, help="Seed of the generated sample.")
@click.option("--refresh", is_flag=True, help="Ask the source again for files that are already here.")
@as_json
def import_(source: str, to: Path | None, rows: int, seed: int, refresh: bool, as_json: bool) -> None:
    """Bring a catalogue into data/raw: resumable, checked, whole or not at all."""
    settings = _start(LogFile.IMPORT)
    from aisle.data.source import import_catalogue

    to = to or settings.data_path / "raw"
    result = import_catalogue(source, to, settings=settings, rows=rows, seed=seed, refresh=refresh)
    _print(result.as_dict(), as_json, lambda found: f"{len(found['files'])} files in {found['folder']}")


@aisle.command()
@click.option("--data", type=FOLDER, default=None, help="Raw folder; default: data/raw.")
@click.option("--out", type=FOLDER, default=None, help="Default: data/validated.")
@contract_options
@as_json
def validate(data: Path | None, out: Path | None, max_bad: float, allow_missing_types: bool, as_json: bool) -> None:
    """Check a raw catalogue against the data contract: a report, and a quarantine table with reasons."""
    settings = _start(LogFile.IMPORT)
    from aisle.data.validate import ContractOptions
    from aisle.data.validate import validate as validate_catalogue
    from aisle.pipeline import threads_of

    result = validate_catalogue(
        data or settings.data_path / "raw",
        out or settings.data_path / "validated",
        options=ContractOptions(max_bad, allow_missing_types),
        threads=threads_of(settings),
    )
    _print(
        result.as_dict(),
        as_json,
        lambda found: (
            f"{found['accepted']} of {found['rows']} rows accepted, {found['quarantined']} quarantined; "
            f"report: {found['folder']}/report.html"
        ),
    )


@aisle.command()
@click.option("--data", type=FOLDER, default=None, help="Validated folder; default: data/validated.")
@click.option("--out", type=FOLDER, default=None, help="Default: data/preprocessed.")
@as_json
def prepare(data: Path | None, out: Path | None, as_json: bool) -> None:
    """Clean the texts of a validated catalogue and split it into train, validation and test by group."""
    settings = _start(LogFile.IMPORT)
    from aisle.data.prepare import prepare as prepare_catalogue

    result = prepare_catalogue(data or settings.data_path / "validated", out or settings.data_path / "preprocessed")
    _print(result.as_dict(), as_json, lambda found: f"{found['folder']}: {found['counts']}")


@aisle.command()
@click.option("--recipe", "recipe_name", default="light", show_default=True, help="How to train.")
@click.option("--data", type=FOLDER, default=None, help="Raw or prepared folder; default: data/raw.")
@click.option("--out", type=FOLDER, default=None, help="Folder of the bundle; default: its version in the store.")
@click.option("--again", is_flag=True, help="Train though the store has a bundle of the same lineage.")
@contract_options
@as_json
def train(
    recipe_name: str,
    data: Path | None,
    out: Path | None,
    again: bool,
    max_bad: float,
    allow_missing_types: bool,
    as_json: bool,
) -> None:
    """Train a bundle; goes on where a run that was killed stopped."""
    settings = _start(LogFile.TRAIN)
    from aisle.data.validate import ContractOptions
    from aisle.pipeline import train_bundle
    from aisle.registry.bundles import BundleStore

    trained = train_bundle(
        recipe_name,
        data or settings.data_path / "raw",
        settings,
        out=out,
        contract=ContractOptions(max_bad, allow_missing_types),
        again=again,
    )
    champion = BundleStore(settings.models_path).serving().champion
    found = {
        "version": trained.bundle.version,
        "bundle": str(trained.bundle.path),
        "new": trained.new,
        "champion": champion,
    }

    def sentence(found: dict[str, Any]) -> str:
        line = f"bundle {found['version']} in {found['bundle']}"
        if champion in (None, found["version"]) or out is not None:
            return line
        return f"{line}; the champion is still {champion}: `aisle registry promote {found['version']}` replaces it"

    _print(found, as_json, sentence)


@aisle.command()
@click.option("--model", default="champion", show_default=True, help="champion, challenger, a version or a folder.")
@click.option("--data", "file", type=FILE, required=True, help="CSV or parquet with the column prdtypecode.")
@click.option("--images", type=FILE, default=None, help="Folder or zip of the images.")
@click.option("--fields", default="title,description,image", show_default=True, help="What the model may look at.")
@click.option("--report", type=FOLDER, default=None, help="Default: data/reports/VERSION-FILE.")
@as_json
def evaluate(model: str, file: Path, images: Path | None, fields: str, report: Path | None, as_json: bool) -> None:
    """Measure a bundle on labelled products: a table, JSON and an HTML report."""
    settings = _start(LogFile.TEST)
    from aisle.batch.table import parse_fields
    from aisle.model.bundle import Bundle
    from aisle.pipeline import evaluate_file
    from aisle.registry.bundles import BundleStore
    from aisle.training.terminal import format_table

    bundle = Bundle.load(BundleStore(settings.models_path).find(model))
    report = report or settings.data_path / "reports" / f"{bundle.version}-{file.stem}"
    found = evaluate_file(bundle, file, settings, images=images, fields=parse_fields(fields), report=report)
    figures = {**found.figures, "model_version": bundle.version, "report": str(report)}
    table = f"model {bundle.version}\n{format_table(found.figures, found.types)}\nreport: {report}/evaluation.html"
    _print(figures, as_json, lambda _: table)


@aisle.command()
@click.argument("source", type=FILE, metavar="INPUT")
@click.option("--output", type=FILE, required=True, help="CSV or parquet to write.")
@click.option("--images", type=FILE, default=None, help="Folder or zip of the images; without it: text alone.")
@click.option("--model", default="champion", show_default=True, help="champion, challenger, a version or a folder.")
@as_json
def predict(source: Path, output: Path, images: Path | None, model: str, as_json: bool) -> None:
    """Predict every row of INPUT, a CSV or parquet file: one row out for each row in, in order."""
    settings = _start(LogFile.TEST)
    from aisle.batch.local import predict_file
    from aisle.data.images import open_given_images
    from aisle.model.bundle import Bundle
    from aisle.model.predictor import Predictor
    from aisle.registry.bundles import BundleStore

    bundle = Bundle.load(BundleStore(settings.models_path).find(model))
    found = open_given_images(images) if images is not None else None
    with Predictor(bundle, threads=settings.threads) as predictor:
        result = predict_file(predictor, source, output, images=found)
    _print(
        result.as_dict(),
        as_json,
        lambda found: (
            f"{found['predicted']} of {found['rows']} rows predicted by {bundle.version} "
            f"({found['accepted']} to accept, {found['errors']} with an error): {found['output']}"
        ),
    )


@aisle.command()
@click.option(
    "--model", default=None, help="champion, which is followed, a version or a folder; default: SERVE_MODEL."
)
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Processes; default: SERVE_WORKERS.")
def serve(model: str | None, workers: int | None) -> None:
    """Serve a bundle over HTTP; another process is the token service, `aisle auth`."""
    given = {"serve_model": model, "serve_workers": workers}
    override(**{name: value for name, value in given.items() if value is not None})  # workers see it as well
    settings = _start(LogFile.SERVING)
    from aisle.service.serve import serve as serve_model

    serve_model(settings)


@aisle.command()
def auth() -> None:
    """Serve tokens over HTTP: sign-in, refresh, the keys to verify with."""
    settings = _start(LogFile.SERVING)
    from aisle.auth.serve import serve as serve_tokens

    serve_tokens(settings)


@aisle.group()
def user() -> None:
    """Accounts: people with a password, services with an API key."""


role_option = click.Choice(["admin", "reviewer", "client"])


@user.command("add")
@click.argument("name")
@click.option("--role", type=role_option, default="client", show_default=True, help="What the account may do.")
@click.option("--service", is_flag=True, help="A service: it gets an API key, shown once, and no password.")
@click.option("--password-file", type=FILE, default=None, help="Read the password from a file; -: standard input.")
@as_json
def add_user(name: str, role: str, service: bool, password_file: Path | None, as_json: bool) -> None:
    """Add an account. The password is asked for, or read from a file or standard input: never an argument."""
    accounts = _accounts()
    from aisle.store.users import Role

    if service:
        if password_file is not None:
            raise click.UsageError("a service has no password.")
        _, key = accounts.add_service(name, Role(role))
        _print({"name": name, "role": role, "api_key": key}, as_json, lambda found: found["api_key"])
        return
    accounts.add_person(name, Role(role), _password(password_file))
    _print({"name": name, "role": role}, as_json, lambda found: f"{name} may sign in as {role}")


@user.command("disable")
@click.argument("name")
@as_json
def disable_user(name: str, as_json: bool) -> None:
    """End an account and its sessions. Its history stays, and so does its name."""
    _accounts().disable(name)
    _print({"name": name, "active": False}, as_json, lambda found: f"{name} is disabled")


@user.command("role")
@click.argument("name")
@click.argument("role", type=role_option)
@as_json
def set_role(name: str, role: str, as_json: bool) -> None:
    """Give an account another role."""
    accounts = _accounts()
    from aisle.store.users import Role

    accounts.set_role(name, Role(role))
    _print({"name": name, "role": role}, as_json, lambda found: f"{name} is now {role}")


@user.command("key")
@click.argument("name")
@click.option("--revoke", "prefix", default="", help="Revoke the key that begins with this instead of adding one.")
@as_json
def service_key(name: str, prefix: str, as_json: bool) -> None:
    """Give a service one more API key, shown once, or revoke one of its keys."""
    accounts = _accounts()
    if prefix:
        accounts.revoke_api_key(name, prefix)
        _print({"name": name, "revoked": prefix}, as_json, lambda found: f"{prefix} is revoked")
        return
    _print({"name": name, "api_key": accounts.add_api_key(name)}, as_json, lambda found: found["api_key"])


@user.command("list")
@as_json
def list_users(as_json: bool) -> None:
    """Every account: its kind, its role, whether it is active, the prefixes of its API keys."""
    found = {"users": _accounts().overview()}
    _print(
        found,
        as_json,
        lambda found: "\n".join("  ".join(str(value) for value in one.values()) for one in found["users"]),
    )


@aisle.group()
def keys() -> None:
    """The keys that sign access tokens."""


@keys.command()
@as_json
def rotate(as_json: bool) -> None:
    """Publish a new signing key; it signs once every verifier has had the time to fetch it."""
    settings = _start(LogFile.SERVING)
    from aisle.auth.keys import KeyPolicy
    from aisle.auth.keys import rotate as rotate_keys
    from aisle.store.engine import open_database
    from aisle.store.migrate import migrate

    engine = open_database(settings.database_url)
    migrate(engine)
    key = rotate_keys(engine, KeyPolicy.of(settings), who=_operator())
    _print(
        {"kid": key.kid, "algorithm": key.algorithm, "signs_from": key.signs_from.isoformat()},
        as_json,
        lambda found: f"key {found['kid']} is published and signs from {found['signs_from']}",
    )


@aisle.group()
def registry() -> None:
    """The bundle store: what is there, and which bundle serves."""


@registry.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Every bundle of the store, the oldest first."""
    settings = _start(LogFile.TRAIN)
    from aisle.registry.bundles import BundleStore

    store = BundleStore(settings.models_path)
    serving = store.serving()
    found = {"champion": serving.champion, "challenger": serving.challenger, "versions": store.versions()}

    def lines(found: dict[str, Any]) -> str:
        marked = (f"{one}{'  champion' if one == found['champion'] else ''}" for one in found["versions"])
        return "\n".join(marked) or f"{settings.models_path} has no bundle yet"

    _print(found, as_json, lines)


@registry.command()
@click.argument("version")
@as_json
def promote(version: str, as_json: bool) -> None:
    """Make VERSION the champion: what `--model champion` and the service take from now on."""
    settings = _start(LogFile.TRAIN)
    from aisle.registry.bundles import BundleStore

    store = BundleStore(settings.models_path)
    before = store.serving().champion
    store.make_champion(version)
    _print(
        {"champion": version, "before": before},
        as_json,
        lambda found: f"champion: {found['champion']}, before: {found['before'] or 'none'}",
    )


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


def _start(file: LogFile) -> Settings:
    settings = get_settings()
    setup_logging(file, settings.logs_path, level=settings.log_level)
    return settings


def _show_first_admin(admin: FirstAdmin) -> None:
    if admin.password is None:
        click.echo(f"First administrator: {admin.name}, with the password of BOOTSTRAP_ADMIN_PASSWORD")
        return
    click.echo(f"First administrator: {admin.name}  password: {admin.password}  (kept in {admin.file})")


def _accounts() -> Accounts:
    settings = _start(LogFile.SERVING)
    from aisle.auth.accounts import Accounts
    from aisle.store.engine import open_database
    from aisle.store.migrate import migrate

    engine = open_database(settings.database_url)
    migrate(engine)
    return Accounts(engine, _operator())


def _operator() -> str:
    """Who is at the terminal, for the audit trail."""
    import os
    import pwd

    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user need not have a name
        return f"cli:{os.getuid()}"


def _password(file: Path | None) -> str:
    if file is not None and str(file) != "-":
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    if file is not None or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password


def _print(result: dict[str, Any], as_json: bool, sentence: Callable[[dict[str, Any]], str]) -> None:
    click.echo(json.dumps(result, ensure_ascii=False, default=str) if as_json else sentence(result))


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
