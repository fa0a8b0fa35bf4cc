"""A prediction service with a real bundle and database behind it, and tokens for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from aisle.auth.keys import KeyPolicy, KeyRing, ensure_key
from aisle.auth.tokens import Signer, TokenPolicy, Verifier
from aisle.data.prepare import Prepared
from aisle.files import sha256_bytes, sha256_json
from aisle.model.bundle import MANIFEST_FILE, Bundle
from aisle.service.app import create_app
from aisle.service.champion import Champion
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.store.users import Role
from aisle.training.recipes import light
from aisle.training.train import train

NO_LIMITS = "predict=100000/second, feedback=100000/second, model=100000/second"


@dataclass
class Service:
    """A running service: `as_` gives a client that is signed in with a role."""

    client: TestClient
    engine: Engine
    signer: Signer
    champion: Champion

    def token(self, role: Role = Role.CLIENT, name: str = "") -> str:
        return self.signer.sign(name or str(role), role)

    def headers(self, role: Role = Role.CLIENT, name: str = "") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(role, name)}", "Accept-Language": "en"}

    def post(self, path: str, role: Role = Role.CLIENT, name: str = "", **request: Any) -> Any:
        headers = self.headers(role, name) | request.pop("headers", {})
        return self.client.post(path, headers=headers, **request)

    def get(self, path: str, role: Role = Role.CLIENT, name: str = "") -> Any:
        return self.client.get(path, headers=self.headers(role, name))


Starter = Callable[..., Service]


@pytest.fixture(scope="module")
def start_service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Start services: with settings of their own, another place to find the bundle, another database."""
    started: list[TestClient] = []

    def start(find: Callable[[], Path] | None = None, database_url: str = "", **settings: Any) -> Service:
        url = database_url or f"sqlite:///{tmp_path_factory.mktemp('database') / 'aisle.db'}"
        chosen = Settings(rate_limits=NO_LIMITS, champion_poll_seconds=0.05).model_copy(update=settings)
        engine = open_database(url)
        migrate(engine)
        ensure_key(engine, KeyPolicy.of(chosen))
        keyring = KeyRing(engine, passphrase="")
        policy = TokenPolicy.of(chosen)
        champion = Champion(find or (lambda: bundle.path), threads=1)
        app = create_app(champion, engine, Verifier(keyring.jwks, policy), chosen)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        started.append(client)
        return Service(client, engine, Signer(keyring, policy), champion)

    yield start
    for client in started:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def service(start_service: Starter) -> Service:
    """A service without limits of rate, for tests that leave it as it is."""
    return start_service()


@pytest.fixture(scope="module")
def photo(prepared: Prepared) -> bytes:
    images = prepared.images()
    assert images is not None
    return images.read(prepared.products().drop_nulls("image")["image"][0])


@pytest.fixture(scope="session")
def other_bundle(prepared: Prepared, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another model of the same catalogue."""
    recipe = dataclasses.replace(light(), seed=1)
    return train(recipe, prepared, tmp_path_factory.mktemp("other") / "bundle", cache=cache, threads=2)


def _change(folder: Path, name: str, edit: Any) -> None:
    """Change a file of a bundle as whoever makes a wrong bundle would: with sums that fit."""
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"][name] = sha256_bytes((folder / name).read_bytes())
    manifest["version"] = sha256_json(manifest["files"])[:12]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def damaged(folder: Path) -> None:
    """Harm a bundle: a sum does not fit."""
    (folder / "title.json").write_text("{}")


def answering_wrongly(folder: Path) -> None:
    """Harm a bundle: its sums fit, and it is another model than it was."""

    def swap(model: dict[str, Any]) -> None:
        model["temperatures"] = dict.fromkeys(model["temperatures"], 7.0)

    _change(folder, "model.json", swap)
