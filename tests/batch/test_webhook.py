"""Who is told of the changes is told once, signed, and as often as it takes within a bound."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from tests.batch.conftest import Receiver
from tests.end_to_end.conftest import Ran

from aisle.batch.comparison import ChangesReport, Transition
from aisle.batch.webhook import notify
from aisle.data.download import Patience
from aisle.errors import ServiceMissing, UsageError
from aisle.settings import Settings, get_settings

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def report(tmp_path: Path) -> ChangesReport:
    path = tmp_path / "changes.csv"
    path.write_text("key\n")
    return ChangesReport(
        before="aaaaaaaaaaaa",
        after="bbbbbbbbbbbb",
        types_before="111111111111",
        types_after="222222222222",
        products=200,
        count=3,
        accepted=1,
        unreadable=0,
        images_not_read=0,
        reasons={"model": 3},
        transitions=(Transition("10", "Livres", "2705", "Livres neufs", 3, 1),),
        csv=path,
        csv_sha256="0" * 64,
    )


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def tell(report: ChangesReport, receiver: Receiver, pauses: list[float]) -> Callable[..., bool]:
    def tell(secret: str = "", url: str = receiver.url) -> bool:
        settings = Settings(changes_webhook_url=url, changes_webhook_secret=SecretStr(secret))
        patience = Patience(attempts=4, read_timeout=0.3, connect_timeout=1, longest_wait=30, sleep=pauses.append)
        return notify(report, settings, patience=patience, clock=lambda: NOON)

    return tell


def test_it_is_told_what_would_change_and_where_the_list_is(
    tell: Callable[..., bool], receiver: Receiver, report: ChangesReport
) -> None:
    assert tell()
    [told] = receiver.told
    body = json.loads(told.body)
    assert body["event"] == told.headers["x-aisle-event"] == "catalogue.changes"
    assert (body["csv"], body["csv_sha256"]) == (str(report.csv), report.csv_sha256)
    assert (body["before"], body["after"], body["count"]) == (report.before, report.after, 3)
    assert (body["share"], body["share_accepted"]) == (0.015, 0.005)
    assert body["transitions"] == [
        {"old": "10", "old_label": "Livres", "new": "2705", "new_label": "Livres neufs", "products": 3, "accepted": 1}
    ]
    assert told.headers["content-type"] == "application/json"
    assert told.path == "/told?key=secret"


def test_it_is_signed_with_its_time(tell: Callable[..., bool], receiver: Receiver) -> None:
    assert tell(secret="between us")
    [told] = receiver.told
    timestamp = told.headers["x-aisle-timestamp"]
    assert timestamp == str(int(NOON.timestamp()))
    expected = hmac.new(b"between us", timestamp.encode() + b"." + told.body, hashlib.sha256).hexdigest()
    assert told.headers["x-aisle-signature"] == f"sha256={expected}"


def test_without_a_secret_nothing_claims_to_be_signed(tell: Callable[..., bool], receiver: Receiver) -> None:
    assert tell()
    assert "x-aisle-signature" not in receiver.told[0].headers


def test_where_nobody_is_to_be_told_nobody_is(report: ChangesReport) -> None:
    assert not notify(report, Settings())


def test_what_fails_twice_and_then_works_is_told_under_one_delivery(
    tell: Callable[..., bool], receiver: Receiver, pauses: list[float]
) -> None:
    receiver.answers = [503, 500, 204]
    assert tell()
    assert len(receiver.told) == 3
    assert len({one.headers["x-aisle-delivery"] for one in receiver.told}) == 1
    assert len({one.body for one in receiver.told}) == 1
    assert len(pauses) == 2
    assert 0 < pauses[0] <= 1
    assert 1 <= pauses[1] <= 2


def test_what_never_works_is_an_error_after_the_last_try(
    tell: Callable[..., bool], receiver: Receiver, pauses: list[float], report: ChangesReport
) -> None:
    receiver.answers = [503]
    with pytest.raises(ServiceMissing, match="did not take them: the answer is 503, 4 times") as told:
        tell(secret="between us")
    assert (len(receiver.told), len(pauses)) == (4, 3)
    assert report.csv.is_file()
    assert "secret" not in str(told.value)
    assert "between us" not in str(told.value)
    assert told.value.exit_code == 5


def test_a_server_that_says_when_is_asked_then_but_not_for_ever(
    tell: Callable[..., bool], receiver: Receiver, pauses: list[float]
) -> None:
    receiver.answers, receiver.headers = [429, 200], {"Retry-After": "17"}
    assert tell()
    assert pauses == [17]
    receiver.answers, receiver.headers = [429, 200], {"Retry-After": "86400"}
    assert tell()
    assert pauses[1:] == [30]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(
    make_receiver: Callable[[], Receiver], tell: Callable[..., bool], receiver: Receiver, status: int
) -> None:
    elsewhere = make_receiver()
    receiver.answers, receiver.headers = [status], {"Location": elsewhere.url}
    with pytest.raises(ServiceMissing, match=rf"the answer is {status}, a redirect, which is not followed"):
        tell()
    assert (len(receiver.told), len(elsewhere.told)) == (1, 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_a_refusal_is_final(tell: Callable[..., bool], receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    with pytest.raises(ServiceMissing, match=f"the answer is {status}"):
        tell()
    assert len(receiver.told) == 1


def test_a_server_that_hangs_is_not_waited_for(tell: Callable[..., bool], receiver: Receiver) -> None:
    receiver.answers = [0]
    with pytest.raises(ServiceMissing, match="no answer in time, 4 times"):
        tell()
    assert len(receiver.told) == 4


def test_a_server_that_is_not_there_is_tried_again(tell: Callable[..., bool], pauses: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        with capture_logs() as logs, pytest.raises(ServiceMissing, match=r"no connection \(ConnectError\), 4 times"):
            tell(url=url)
    assert len(pauses) == 3
    assert len([one for one in logs if one["log_level"] == "warning"]) == 3


@pytest.mark.parametrize("url", ["ftp://x/y", "x", "http://", "https://me:word@x/", "javascript:1", "http://[x"])
def test_an_address_of_no_web_server_is_refused_before_anything_is_done(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANGES_WEBHOOK_URL", url)
    with pytest.raises(UsageError, match="CHANGES_WEBHOOK_URL"):
        get_settings()


def test_the_verb_keeps_the_list_where_nobody_takes_the_message(
    shop: Settings,
    receiver: Receiver,
    run: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("data_path", "models_path", "cache_path"):
        monkeypatch.setenv(name.upper(), str(getattr(shop, name)))
    receiver.answers = [400]
    ran = run("changes", "--webhook", receiver.url, "--output", "mine.csv")
    assert ran.code == 5
    assert ran.complaint.startswith(receiver.url.partition("/told")[0])
    assert "secret" not in ran.err
    assert (tmp_path / "mine.csv").is_file()
    assert (tmp_path / "mine.json").is_file()
    assert "last_failure" in (shop.data_path / "metrics" / "changes.prom").read_text()
    receiver.answers = [200]
    ran = run("changes", "--webhook", receiver.url, "--output", "mine.csv")
    assert ran.code == 0
    assert "the webhook was told" in ran.out
