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
from safetensors.numpy import load, save
from sqlalchemy import Engine
from tests.conftest import Once, learn

from aisle.auth.keys import KeyPolicy, KeyRing, ensure_key
from aisle.auth.tokens import Signer, TokenPolicy, Verifier
from aisle.clock import Clock, utc_now
from aisle.data.prepare import Prepared
from aisle.files import sha256_bytes, sha256_json
from aisle.model.bundle import HEAD_FILE, KNOWN_ANSWER_FILE, MANIFEST_FILE, MODEL_FILE, Bundle
from aisle.model.image import ImageEncoder
from aisle.model.known_answer import known_answer
from aisle.registry.bundles import BundleStore
from aisle.service.app import create_app
from aisle.service.champion import Champion
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.store.users import Role
from aisle.training.recipes import light

NO_LIMITS = "predict=100000/second, explain=100000/second, feedback=100000/second, model=100000/second"


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


@pytest.fixture
def store(tmp_path: Path, bundle: Bundle, other_bundle: Bundle) -> BundleStore:
    """Two versions, the first of which is the champion."""
    store = BundleStore(tmp_path / "models")
    for one in (bundle, other_bundle):
        store.add(one)
    store.make_champion(bundle.version)
    return store


@pytest.fixture(scope="module")
def start_service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Start services: with settings of their own, another place to find the bundle, another database."""
    started: list[TestClient] = []

    def start(
        find: Callable[[], Path] | None = None, database_url: str = "", clock: Clock = utc_now, **settings: Any
    ) -> Service:
        url = database_url or f"sqlite:///{tmp_path_factory.mktemp('database') / 'aisle.db'}"
        plain = Settings(rate_limits=NO_LIMITS, champion_poll_seconds=0.05)
        settings.setdefault("records_path", tmp_path_factory.mktemp("records"))
        chosen = plain.model_copy(update=settings)
        engine = open_database(url)
        migrate(engine)
        ensure_key(engine, KeyPolicy.of(chosen))
        keyring = KeyRing(engine, passphrase="")
        policy = TokenPolicy.of(chosen)
        champion = Champion(find or (lambda: bundle.path), threads=1)
        app = create_app(champion, engine, Verifier(keyring.jwks, policy), chosen, clock=clock)
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
def other_bundle(prepared: Prepared, cache: Path, once: Once) -> Bundle:
    """Another model of the same catalogue."""
    recipe = dataclasses.replace(light(), seed=1)
    return Bundle.load(once("other_bundle", lambda folder: learn(recipe, prepared, folder, cache)) / "bundle")


Harm = Callable[[Path], None]
"""What is done to the folder of a bundle."""


def change_table(folder: Path, name: str, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a table of a bundle as whoever makes a wrong bundle would: with sums that fit."""
    content = json.loads((folder / name).read_text())
    edit(content)
    replace_file(folder, name, json.dumps(content).encode())


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """The same with any file."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"][name] = sha256_bytes(content)
    manifest["version"] = sha256_json(manifest["files"])[:12]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def damaged(folder: Path) -> None:
    """Harm a bundle: a sum does not fit."""
    (folder / "title.json").write_text("{}")


def answering_wrongly(folder: Path) -> None:
    """Harm a bundle: its sums fit, and it is another model than it was."""

    change_table(
        folder, MODEL_FILE, lambda model: model.update(temperatures=dict.fromkeys(model["temperatures"], 7.0))
    )


def without_decision(folder: Path) -> None:
    """Harm a bundle: nothing says when it is sure enough."""
    change_table(folder, MODEL_FILE, lambda model: model.pop("decision"))


def without_temperatures(folder: Path) -> None:
    """Harm a bundle: no model of it is calibrated."""
    change_table(folder, MODEL_FILE, lambda model: model.update(temperatures={}))


def with_a_head_of_another_encoder(folder: Path) -> None:
    """Harm a bundle: its image head looks at other features than its encoder gives."""
    head = load((folder / HEAD_FILE).read_bytes())
    replace_file(folder, HEAD_FILE, save({**head, "weights": head["weights"][1:]}))


def without_an_answer(folder: Path) -> None:
    """Harm a bundle: what it is known to answer is no table."""
    change_table(folder, KNOWN_ANSWER_FILE, lambda known: known.update(probabilities=[]))


MALFORMED: tuple[Harm, ...] = (
    without_decision, without_temperatures, with_a_head_of_another_encoder, without_an_answer,
)  # fmt: skip
"""Bundles whose sums fit, and that nobody can serve."""


def make_unsure(folder: Path) -> None:
    """Make a bundle another model: it is unsure of everything, and known to be so."""
    answering_wrongly(folder)
    bundle = Bundle.load(folder)
    graph = bundle.encoder_graph()
    answer = known_answer(bundle.classifier(), ImageEncoder(graph) if graph else None)
    replace_file(folder, KNOWN_ANSWER_FILE, json.dumps(answer).encode())
