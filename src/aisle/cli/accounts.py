"""The verbs of accounts: who may use aisle, the keys that sign their tokens, who changed what."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aisle.cli.common import FILE, as_json, operator, print_result, start
from aisle.logs import LogFile

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from aisle.auth.accounts import Accounts

role_option = click.Choice(["admin", "reviewer", "client"])


@click.group()
def user() -> None:
    """Accounts: people with a password, services with an API key."""


@user.command("add")
@click.argument("name")
@click.option("--role", type=role_option, default="client", show_default=True, help="What the account may do.")
@click.option("--service", is_flag=True, help="A service: it gets an API key, shown once, and no password.")
@click.option("--password-file", type=FILE, default=None, help="Read the password from a file; -: standard input.")
@click.option(
    "--key-file",
    type=FILE,
    default=None,
    help="With --service: keep a key in a file, for its owner and group; nothing changes where a good one is there.",
)
@as_json
def add_user(
    name: str, role: str, service: bool, password_file: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """Add an account. The password is asked for, or read from a file or standard input: never an argument."""
    if key_file is not None and not service:
        raise click.UsageError("a person has no API key.")
    accounts = open_accounts()
    from aisle.store.users import Role

    if key_file is not None:
        from aisle.auth.keyfile import keep_key

        found = {"name": name, "file": str(key_file), "written": keep_key(accounts, name, Role(role), key_file)}
        print_result(found, as_json, _tell_of_key)
        return
    if service:
        if password_file is not None:
            raise click.UsageError("a service has no password.")
        _, key = accounts.add_service(name, Role(role))
        print_result({"name": name, "role": role, "api_key": key}, as_json, lambda found: found["api_key"])
        return
    accounts.add_person(name, Role(role), _password(password_file))
    print_result({"name": name, "role": role}, as_json, lambda found: f"{name} may sign in as {role}")


def _tell_of_key(found: Mapping[str, object]) -> str:
    return f"{found['file']} has {'a new' if found['written'] else 'a good'} key of {found['name']}"


@user.command("disable")
@click.argument("name")
@as_json
def disable_user(name: str, as_json: bool) -> None:
    """End an account and its sessions. Its history stays, and so does its name."""
    open_accounts().disable(name)
    print_result({"name": name, "active": False}, as_json, lambda found: f"{name} is disabled")


@user.command("role")
@click.argument("name")
@click.argument("role", type=role_option)
@as_json
def set_role(name: str, role: str, as_json: bool) -> None:
    """Give an account another role."""
    accounts = open_accounts()
    from aisle.store.users import Role

    accounts.set_role(name, Role(role))
    print_result({"name": name, "role": role}, as_json, lambda found: f"{name} is now {role}")


@user.command("key")
@click.argument("name")
@click.option("--revoke", "prefix", default="", help="Revoke the key that begins with this instead of adding one.")
@as_json
def service_key(name: str, prefix: str, as_json: bool) -> None:
    """Give a service one more API key, shown once, or revoke one of its keys."""
    accounts = open_accounts()
    if prefix:
        accounts.revoke_api_key(name, prefix)
        print_result({"name": name, "revoked": prefix}, as_json, lambda found: f"{prefix} is revoked")
        return
    print_result({"name": name, "api_key": accounts.add_api_key(name)}, as_json, lambda found: found["api_key"])


@user.command("list")
@as_json
def list_users(as_json: bool) -> None:
    """Every account: its kind, its role, whether it is active, the prefixes of its API keys."""
    found = {"users": open_accounts().overview()}
    print_result(
        found,
        as_json,
        lambda found: "\n".join("  ".join(str(value) for value in one.values()) for one in found["users"]),
    )


@click.group()
def keys() -> None:
    """The keys that sign access tokens."""


@keys.command()
@as_json
def rotate(as_json: bool) -> None:
    """Publish a new signing key; it signs once every verifier has had the time to fetch it."""
    settings = start(LogFile.SERVING)
    from aisle.auth.keys import KeyPolicy
    from aisle.auth.keys import rotate as rotate_keys
    from aisle.store.engine import open_database
    from aisle.store.migrate import migrate

    engine = open_database(settings.database_url)
    migrate(engine)
    key = rotate_keys(engine, KeyPolicy.of(settings), who=operator())
    print_result(
        {"kid": key.kid, "algorithm": key.algorithm, "signs_from": key.signs_from.isoformat()},
        as_json,
        lambda found: f"key {found['kid']} is published and signs from {found['signs_from']}",
    )


def open_accounts() -> Accounts:
    from aisle.auth.accounts import Accounts

    return Accounts(_open_store(), operator())


def _open_store() -> Engine:
    settings = start(LogFile.SERVING)
    from aisle.store.engine import open_database
    from aisle.store.migrate import migrate

    engine = open_database(settings.database_url)
    migrate(engine)
    return engine


def _password(file: Path | None) -> str:
    if file is not None and str(file) != "-":
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    if file is not None or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password


@click.group()
def audit() -> None:
    """Who changed what, when, and how it was before and after."""


@audit.command("export")
@click.option("--since", type=click.DateTime(), default=None, help="From this moment on, in UTC; default: all.")
@click.option("--output", type=FILE, default=None, help="File to write; default: standard output.")
def export_audit(since: datetime | None, output: Path | None) -> None:
    """The audit trail as JSON lines, the oldest first."""
    engine = _open_store()
    from aisle.files import atomic_path
    from aisle.store import audit as trail
    from aisle.store.engine import reading

    with reading(engine) as connection:
        entries = trail.entries(connection, since=since.replace(tzinfo=UTC) if since else None)
    lines = "".join(f"{json.dumps(vars(entry), ensure_ascii=False, default=str)}\n" for entry in entries)
    if output is None:
        click.echo(lines, nl=False)
        return
    with atomic_path(output) as path:
        path.write_text(lines, encoding="utf-8")
    click.echo(f"{len(entries)} entries in {output}", err=True)
