"""The verbs, as real processes: accounts, keys, and the service on every kind of database."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aisle.auth.keyset import fetch_keys
from aisle.auth.tokens import TokenPolicy, Verifier
from aisle.settings import Settings
from aisle.store import audit
from aisle.store.engine import open_database, reading
from aisle.store.users import Role

if TYPE_CHECKING:
    from tests.servers import RunningRedis

PASSWORD = "correct horse battery"
AISLE = [sys.executable, "-W", "error", "-m", "aisle"]


def aisle(*arguments: str, stdin: str = "", code: int = 0) -> str:
    done = subprocess.run([*AISLE, *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def entries() -> list[audit.Entry]:
    engine = open_database("sqlite:///data/aisle.db")
    with reading(engine) as connection:
        found = audit.entries(connection)
    engine.dispose()
    return found


@contextmanager
def serving() -> Iterator[str]:
    """A real `aisle auth` on a free port, and its address; told to stop at the end, and it has to stop well."""
    environment = os.environ | {"DRAIN_SECONDS": "0"}
    process = subprocess.Popen([*AISLE, "auth"], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines: list[str] = []
    url = ""
    for line in process.stderr:
        lines.append(line)
        if match := re.search(r"serving tokens.* url=(\S+)", line):
            url = match[1]
            break
    assert url, "".join(lines)
    drain = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
    drain.start()
    try:
        yield url
    finally:
        process.terminate()
        code = process.wait(60)
        drain.join()
        process.stderr.close()
    assert code == 0, "".join(lines)
    assert PASSWORD not in "".join(lines)


def post(url: str, **form: str) -> tuple[int, dict[str, Any]]:
    data = urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.urlopen(url, data, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_audit_trail_is_exported_as_json_lines_from_a_moment_on(tmp_path: Path) -> None:
    assert aisle("audit", "export") == ""
    aisle("user", "add", "anne", "--role", "admin", stdin=PASSWORD + "\n")
    [line] = aisle("audit", "export").splitlines()
    entry = json.loads(line)
    assert (entry["what"], entry["subject"], entry["after"]["role"]) == ("user.add", "anne", "admin")
    aisle("audit", "export", "--output", "trail.jsonl")
    assert (tmp_path / "trail.jsonl").read_text() == line + "\n"
    assert aisle("audit", "export", "--since", "2999-01-01") == ""
    assert "since" in aisle("audit", "export", "--since", "yesterday", code=2)


def test_accounts_are_made_changed_and_ended_and_the_trail_says_by_whom(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PASSWORD + "\n")
    aisle("user", "add", "anne", "--role", "admin", stdin=PASSWORD + "\n")
    aisle("user", "add", "bob", "--password-file", "secret")
    added = json.loads(aisle("user", "add", "robot", "--service", "--json"))
    aisle("user", "role", "bob", "reviewer")
    aisle("user", "disable", "bob")
    assert added["api_key"].startswith("aisle_")
    listed = json.loads(aisle("user", "list", "--json"))["users"]
    assert [(one["name"], one["role"], one["active"]) for one in listed] == [
        ("anne", "admin", True), ("bob", "reviewer", False), ("robot", "client", True),
    ]  # fmt: skip
    found = entries()
    assert {entry.who.split(":")[0] for entry in found} == {"cli"}
    whats = ["user.add", "user.add", "user.add", "apikey.add", "user.role", "user.disable"]
    assert [entry.what for entry in found] == whats


def test_a_key_is_kept_in_a_file_and_stays_for_as_long_as_it_is_good(tmp_path: Path) -> None:
    keep = ("user", "add", "robot", "--service", "--role", "reviewer", "--key-file", "secrets/key")
    file = tmp_path / "secrets" / "key"

    def keys() -> list[str]:
        (robot,) = json.loads(aisle("user", "list", "--json"))["users"]
        assert (robot["kind"], robot["role"]) == ("service", "reviewer")
        return sorted(robot["keys"])

    assert "aisle_" not in aisle(*keep)
    first = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert keys() == [first[:14]]
    aisle(*keep)
    assert file.read_text() == first
    file.unlink()
    aisle(*keep)
    second = file.read_text()
    assert keys() == sorted([first[:14], second[:14]])
    aisle("user", "key", "robot", "--revoke", second[:14])
    aisle(*keep)
    assert file.read_text() not in (first, second)
    aisle("user", "disable", "robot")
    assert "not an active service" in aisle(*keep, code=2)
    assert "a person has no API key" in aisle("user", "add", "anne", "--key-file", "key", code=2)


def test_mistakes_are_one_line_with_their_exit_code() -> None:
    assert "10 characters" in aisle("user", "add", "anne", stdin="short\n", code=3)
    assert "anne" in aisle("user", "disable", "anne", code=2)
    assert "password" in aisle("user", "add", "robot", "--service", "--password-file", "x", code=2)
    assert "No such file" in aisle("user", "add", "anne", "--password-file", "nowhere", code=1)
    aisle("user", "add", "anne", "--role", "admin", stdin=PASSWORD)
    assert "last administrator" in aisle("user", "disable", "anne", code=4)


def test_a_database_that_is_away_is_exit_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://aisle:s3cret@127.0.0.1:1/aisle")
    assert "s3cret" not in aisle("keys", "rotate", code=5)


def test_a_rotation_publishes_first_and_a_second_one_has_to_wait() -> None:
    first = json.loads(aisle("keys", "rotate", "--json"))
    second = json.loads(aisle("keys", "rotate", "--json"))
    assert second["kid"] != first["kid"]
    assert second["kid"] in aisle("keys", "rotate", code=4)


def test_a_service_that_cannot_read_its_key_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_KEY_PASSPHRASE", "a passphrase")
    aisle("keys", "rotate")
    monkeypatch.setenv("SIGNING_KEY_PASSPHRASE", "another")
    assert "SIGNING_KEY_PASSPHRASE" in aisle("auth", code=1)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_service_signs_people_in_on_each_kind_of_database(
    database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if database == "postgresql":
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("empty_postgres"))
        server: RunningRedis = request.getfixturevalue("redis_server")
        monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("AUTH_PORT", "0")
    monkeypatch.setenv("BOOTSTRAP_ADMIN_USER", "chief")
    monkeypatch.setenv("BOOTSTRAP_ADMIN_PASSWORD", PASSWORD)
    with serving() as url:
        status, pair = post(f"{url}/token", username="chief", password=PASSWORD)
        assert status == 200, pair
        verifier = Verifier(fetch_keys(f"{url}/.well-known/jwks.json"), TokenPolicy.of(Settings()))
        assert verifier.verify(pair["access_token"]).role is Role.ADMIN
        status, renewed = post(f"{url}/token/refresh", refresh_token=pair["refresh_token"])
        assert status == 200, renewed
        assert post(f"{url}/token/refresh", refresh_token=pair["refresh_token"])[0] == 401
        assert post(f"{url}/token/refresh", refresh_token=renewed["refresh_token"])[0] == 401
        for _ in range(10):
            assert post(f"{url}/token", username="nobody", password="wrong")[0] == 401
        assert post(f"{url}/token", username="nobody", password="wrong")[0] == 429
        assert post(f"{url}/token", username="\x00\ud83d".encode("utf-8", "replace").decode(), password="x")[0] == 401
    # The keys that were fetched are good while the service is away.
    assert verifier.verify(renewed["access_token"]).user == "chief"
    logged = (tmp_path / "logs" / "serving_logger.log").read_text()
    for secret in (PASSWORD, pair["access_token"], pair["refresh_token"]):
        assert secret not in logged
