"""What the OpenAPI documents say holds, whatever is sent: schemathesis asks every route of both services."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import integers
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core import NotSet
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.service.conftest import NO_LIMITS

from aisle.auth.accounts import Accounts
from aisle.auth.app import create_app as create_token_service
from aisle.auth.keys import KeyPolicy, ensure_key
from aisle.auth.keyset import fetch_keys
from aisle.auth.tokens import TokenPolicy, Verifier
from aisle.model.bundle import Bundle
from aisle.service.app import create_app
from aisle.service.champion import Champion
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.store.users import Role
from aisle.web.problems import Problem
from aisle.web.serving import Address, serve_beside

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ASK = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PASSWORD = "correct horse battery"
ROLES = {"anne": Role.ADMIN, "rita": Role.REVIEWER, "carl": Role.CLIENT}


WHAT_IS_ANSWERED: dict[str, dict[str, Any]] = {
    "POST /token": {"data": {"username": "rita", "password": PASSWORD, "grant_type": "password"}},
    "POST /predict": {"json": {"designation": "Piscine ronde"}},
    "POST /batches": {"files": {"table": ("table.csv", b"index,designation\n1,Piscine ronde\n")}},
}
"""Answers that lead on are rare where all is made up: how `requests` is to ask some routes instead."""
SEQUENCES = {
    r"^/(predict|predict_code|feedback)$": {"POST /feedback"},
    r"^/batches": {
        "GET /batches/{batch_id}", "GET /batches/{batch_id}/results",
        "POST /batches/{batch_id}/cancel", "DELETE /batches/{batch_id}",
    },
    r"^/token": {"POST /token/refresh", "POST /token/revoke"},
}  # fmt: skip
"""Routes that lead on to others, by a pattern of their paths, and where to."""


@dataclass(frozen=True)
class Services:
    tokens: str
    predictions: str

    def headers(self, name: str = "anne") -> dict[str, str]:
        answer = httpx.post(f"{self.predictions}/token", data={"username": name, "password": PASSWORD})
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}


@pytest.fixture(scope="module")
def services(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Both services, over HTTP."""
    limits = {"rate_limits": NO_LIMITS, "login_failures": 10**6, "login_attempts_per_minute": 10**6}
    # Nobody does the batches: they add up, and what the next one is answered must not hang on how many there are.
    many = ",".join(f"{role}=999999999/999999999" for role in Role)
    chosen = Settings().model_copy(
        update={**limits, "batch_quotas": many, "drain_seconds": 0, "access_token_expire_minutes": 60}
    )
    url = f"sqlite:///{tmp_path_factory.mktemp('openapi') / 'aisle.db'}"
    accounts, engine = open_database(url), open_database(url)
    migrate(engine)
    ensure_key(engine, KeyPolicy.of(chosen))
    for name, role in ROLES.items():
        Accounts(engine, "test").add_person(name, role, PASSWORD)
    token_service = create_token_service(accounts, chosen)
    with serve_beside(token_service, Address("127.0.0.1", 0, "AUTH_PORT"), what="serving tokens") as tokens:
        verifier = Verifier(fetch_keys(f"{tokens}/.well-known/jwks.json"), TokenPolicy.of(chosen))
        champion = Champion(lambda: Path(bundle.path), threads=1)
        app = create_app(champion, engine, verifier, chosen.model_copy(update={"auth_url": tokens}))
        with serve_beside(app, Address("127.0.0.1", 0, "PORT"), what="serving") as predictions:
            yield Services(tokens, predictions)


@pytest.fixture(scope="module")
def headers(services: Services) -> dict[str, str]:
    return services.headers()


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("name", ["predictions", "tokens"])
def test_a_service_keeps_to_its_document_whatever_is_sent(
    services: Services, headers: dict[str, str], name: str, mode: GenerationMode
) -> None:
    document = schemathesis.openapi.from_url(f"{getattr(services, name)}/openapi.json")
    asked: Counter[str] = Counter()
    for result in document.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        asked[operation.label] = 0

        @ASK
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS)
            asked[case.operation.label] += 1

        # A route that takes nothing cannot be asked wrongly.
        can_be_asked = mode is GenerationMode.POSITIVE or operation.body or list(operation.iter_parameters())
        with contextlib.nullcontext() if can_be_asked else pytest.raises(Unsatisfiable):
            ask()
        assert bool(asked[operation.label]) == bool(can_be_asked), operation.label
    assert len(asked) > 7


@pytest.mark.soak
def test_of_10_000_cases_of_every_route_and_role_none_is_a_failure_of_ours(services: Services) -> None:
    """Signed in as each role, or as nobody; 503 may be."""
    asked: Counter[str] = Counter()
    callers = [services.headers(name) for name in ROLES] + [{}]
    documents = [
        schemathesis.openapi.from_url(f"{url}/openapi.json") for url in (services.predictions, services.tokens)
    ]
    found = [result for document in documents for result in document.get_all_operations()]
    operations = [result.ok() for result in found if isinstance(result, Ok)]
    assert len(operations) == len(found)
    each = 1 + 10_000 // (len(operations) * len(callers) * len(GenerationMode))
    for operation, headers, mode in itertools.product(operations, callers, GenerationMode):
        ask_often(operation, headers, mode, each, asked)
    print(f"\n{asked.total()} cases of {len(operations)} routes: {dict(sorted(asked.items()))}")
    assert asked.total() >= 10_000
    assert httpx.get(f"{services.predictions}/readyz").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("paths", SEQUENCES)
def test_what_an_answer_leads_to_is_no_failure_of_ours(
    services: Services, headers: dict[str, str], paths: str
) -> None:
    asked = go_on(services, paths, headers, sequences=25, steps=6)
    assert {label for label, after in asked if after} >= SEQUENCES[paths]


@pytest.mark.soak
@pytest.mark.parametrize("paths", SEQUENCES)
def test_of_2_000_sequences_none_ends_in_a_failure_of_ours(services: Services, paths: str) -> None:
    asked: Counter[tuple[str, str]] = Counter()
    for headers in [*(services.headers(one) for one in ROLES), {}]:
        asked += go_on(services, paths, headers, sequences=500, steps=10)
    print(f"\n{asked.total()} requests in sequences: {dict(sorted(asked.items()))}")
    assert httpx.get(f"{services.predictions}/readyz").status_code == 200


def go_on(
    services: Services, paths: str, headers: dict[str, str], *, sequences: int, steps: int
) -> Counter[tuple[str, str]]:
    """Ask, and ask what the answers lead to: how often each route was asked, by the link that led there."""
    asked: Counter[tuple[str, str]] = Counter()
    url = services.tokens if "token" in paths else services.predictions
    document = schemathesis.openapi.from_url(f"{url}/openapi.json").include(path_regex=paths)
    document.config.phases.stateful.inference.algorithms = []  # the documents say where answers lead to

    class Client(document.as_state_machine()):  # type: ignore[misc]
        def call(self, case: Any, **_: Any) -> Any:
            known = WHAT_IS_ANSWERED.get(case.operation.label)
            if known is None:
                return super().call(case, headers=headers)
            case.body = NotSet()
            return super().call(case, headers={**headers, "Content-Type": None}, **known)

        def step(self, input: Any) -> Any:
            led = "" if input.transition is None else input.transition.id
            asked[input.case.operation.label, led] += 1
            return super().step(input)

        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            assert response.status_code < 500 or response.status_code == 503, case.as_curl_command()

    how = settings(
        max_examples=sequences, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    Client.run(settings=how)
    return asked


def ask_often(operation: Any, headers: dict[str, str], mode: GenerationMode, count: int, asked: Counter[str]) -> None:
    """A route that takes nothing cannot be asked wrongly, and is asked as it is."""
    can_be_wrong = operation.body or list(operation.iter_parameters())
    chosen = mode if can_be_wrong else GenerationMode.POSITIVE

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=chosen), _=integers())  # or an empty case would be asked once
    def ask(case: Any, _: int) -> None:
        status = case.call(headers=headers).status_code
        asked[str(status)] += 1
        assert status < 500 or status == 503, case.as_curl_command()

    ask()


@pytest.mark.parametrize("name", ["predictions", "tokens"])
def test_the_document_shows_an_answer_of_each_route_that_fits_its_schema(services: Services, name: str) -> None:
    document = httpx.get(f"{getattr(services, name)}/openapi.json").json()
    shown = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            [(status, answer)] = [one for one in operation["responses"].items() if one[0].startswith("2")]
            if status == "204":
                assert "content" not in answer
                continue
            assert answer["content"], f"{method} {path}"
            for content in answer["content"].values():
                schema = {**content["schema"], "components": document["components"]}
                jsonschema_rs.validate(schema, content["example"])
                shown.append(path)
    assert {"/status", "/livez", "/readyz", "/metrics", "/token"} <= set(shown)


def test_the_document_shows_each_refusal_in_both_languages(services: Services) -> None:
    document = httpx.get(f"{services.predictions}/openapi.json").json()
    shown = json.dumps(document, ensure_ascii=False)
    for problem in (Problem.IMAGE_DAMAGED, Problem.TOO_MANY_REQUESTS, Problem.OVERLOADED, Problem.NOT_SIGNED_IN):
        for language in ("en", "fr"):
            assert f"{problem.name.lower().replace('_', '-')} ({language})" in shown
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/x-www-form-urlencoded", "application/json"}
    assert all("example" in one for one in content.values())
