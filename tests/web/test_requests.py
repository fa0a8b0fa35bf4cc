"""What the HTTP services share: whose address it is, and what an error tells."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from aisle.errors import ServiceMissing, UsageError
from aisle.web.address import client_address, networks
from aisle.web.answers import answer_with_problems
from aisle.web.requests import MAX_ENCODED_FORM, RequestMiddleware


def request(peer: str, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    return Request({"type": "http", "client": (peer, 5000), "headers": headers})


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "address"),
    [
        ("", "10.0.0.1", ["192.0.2.1"], "10.0.0.1"),
        ("10.0.0.0/8", "192.0.2.9", ["192.0.2.1"], "192.0.2.9"),
        ("10.0.0.0/8", "10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ["1.2.3.4, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),  # 1.2.3.4 may be invented
        ("10.0.0.0/8", "10.0.0.1", ["1.2.3.4", "192.0.2.1"], "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1, nonsense"], "10.0.0.1"),
        ("::1, 10.0.0.1", "::1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", "testclient", ["192.0.2.1"], "testclient"),
    ],
)
def test_the_address_is_the_last_that_no_trusted_proxy_wrote(
    trusted: str, peer: str, forwarded: list[str], address: str
) -> None:
    assert client_address(request(peer, *forwarded), networks(trusted)) == address


def test_a_proxy_that_is_no_address_is_named() -> None:
    with pytest.raises(UsageError, match="TRUSTED_PROXIES"):
        networks("10.0.0.0/8, localhost")


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(RequestMiddleware, max_body=10)
    answer_with_problems(app)

    @app.get("/missing")
    def missing() -> None:
        raise ServiceMissing("the database does not answer: no host inner-host-7")

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a secret detail")

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return TestClient(app, raise_server_exceptions=False)


def form_client(max_body: int) -> TestClient:
    app = FastAPI()
    app.add_middleware(RequestMiddleware, max_body=max_body)
    answer_with_problems(app)

    @app.post("/form")
    async def form(request: Request) -> dict[str, str]:
        return {name: str(value) for name, value in (await request.form()).items()}

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(("path", "status"), [("/missing", 503), ("/broken", 500)])
def test_what_failed_inside_is_for_the_log_and_not_for_the_client(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "inner-host-7" not in answer.text
    assert "secret" not in answer.text


def test_a_body_is_counted_while_it_streams(client: TestClient) -> None:
    assert client.post("/echo", content=iter([b"12345", b"67890"])).json() == 10
    assert client.post("/echo", content=iter([b"12345", b"67890", b"1"])).status_code == 413


@pytest.mark.parametrize(
    ("charset", "status"),
    [
        ("", 200),
        ("; charset=utf-8", 200),
        ('; charset="ISO-8859-1"', 200),
        ("; charset=punycode", 400),  # time that grows with the square of the text
        ("; charset=undefined", 400),  # an error of its own
        ("; charset=utf-7", 400),
        ("; charset=\xe9", 400),
    ],
)
def test_a_form_is_in_one_of_the_charsets_of_browsers(charset: str, status: int) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\npiscine\r\n--b--\r\n'
    kind = f"multipart/form-data; boundary=b{charset}".encode("latin-1")
    answer = form_client(1000).post("/form", content=body, headers={b"content-type": kind})
    assert answer.status_code == status
    assert status != 200 or answer.json() == {"a": "piscine"}


def test_of_two_content_types_the_one_that_is_believed_is_looked_at() -> None:
    kinds = ["multipart/form-data; boundary=b; charset=punycode", "multipart/form-data; boundary=b"]
    answer = form_client(1000).post("/form", content=b"--b--", headers=[("content-type", one) for one in kinds])
    assert answer.status_code == 400


def test_a_form_without_files_may_be_smaller_than_a_file() -> None:
    client = form_client(10 * MAX_ENCODED_FORM)
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    assert client.post("/form", content=b"a=" + b"%" * 100, headers=headers).status_code == 200
    assert client.post("/form", content=b"a=" + b"%" * MAX_ENCODED_FORM, headers=headers).status_code == 413
