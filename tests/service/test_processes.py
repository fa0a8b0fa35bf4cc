"""The services as real processes: restarted, replaced, overloaded, and bereft of what they lean on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.servers import RunningRedis, free_port, new_cluster, nginx
from tests.service.conftest import MALFORMED, Harm, answering_wrongly, damaged
from tests.service.processes import AISLE, PASSWORD, Load, Running, Shop, sign_in, wait_for

from aisle.model.bundle import Bundle
from aisle.registry.bundles import POINTER_FILE, BundleStore
from aisle.store.engine import open_database, reading
from aisle.store.predictions import find

pytestmark = pytest.mark.slow

QUICK = {"DRAIN_SECONDS": "0"}


@pytest.fixture
def shop(tmp_path: Path, store: BundleStore) -> Shop:
    """Two bundles, one of them champion; no limits; a port for the token service that the others know."""
    assert store.serving().champion
    return Shop.at(tmp_path, DRAIN_SECONDS="1", TRUSTED_PROXIES="127.0.0.1")


@pytest.fixture
def tokens(shop: Shop) -> Iterator[Running]:
    with shop.running("auth", **QUICK) as running:
        yield running


def store_of(shop: Shop) -> BundleStore:
    return BundleStore(shop.folder / "models")


def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{re.escape(name)}(\{{|\s)", line))


def test_a_rolling_restart_of_two_instances_behind_nginx_loses_nothing(shop: Shop, tokens: Running) -> None:
    ports = [free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(shop.running("serve", PORT=str(port))) for port in ports)
        url = stack.enter_context(nginx(shop.folder / "nginx", *ports))
        with Load(url, sign_in(url)) as load:
            for instance, port in ((first, ports[0]), (second, ports[1])):
                assert instance.stop() == 0
                load.answered(20)
                stack.enter_context(shop.running("serve", PORT=str(port)))
                load.answered(20)
    assert set(load.statuses) == {200}, load.statuses


@pytest.mark.soak
def test_a_rolling_restart_of_two_instances_that_share_a_port_loses_nothing(shop: Shop, tokens: Running) -> None:
    shared = shop.with_settings(PORT=str(free_port()), SERVE_REUSE_PORT="true")
    with contextlib.ExitStack() as stack:
        instances = [stack.enter_context(shared.running("serve")) for _ in range(2)]
        with Load(instances[0].url, sign_in(tokens.url), connecting=True) as load:
            for instance in instances:
                assert instance.stop() == 0
                load.answered(20)
                stack.enter_context(shared.running("serve"))
                load.answered(20)
    assert set(load.statuses) == {200}, load.statuses


def test_workers_are_replaced_one_by_one_and_lose_nothing(shop: Shop, tokens: Running) -> None:
    with shop.running("serve", "--workers", "2") as service:
        before = children(service.process.pid)
        with Load(service.url, sign_in(service.url), connecting=True) as load:
            service.process.send_signal(signal.SIGHUP)
            wait_for(lambda: not set(before) & set(children(service.process.pid)))
            load.answered(50)
        assert set(load.statuses) == {200}, load.statuses


def test_a_new_champion_takes_over_under_load(shop: Shop, tokens: Running, other_bundle: Bundle) -> None:
    with shop.running("serve", **QUICK) as service, Load(service.url, sign_in(service.url)) as load:
        store_of(shop).make_champion(other_bundle.version)
        wait_for(lambda: load.models[other_bundle.version])
        load.answered(50)
    assert set(load.statuses) == {200}, load.statuses
    assert len(load.models) == 2
    assert "new champion" in service.log


def test_a_rollback_is_followed_within_ten_seconds(
    shop: Shop, tokens: Running, bundle: Bundle, other_bundle: Bundle
) -> None:
    """With the time between two looks that is the default."""
    store_of(shop).make_champion(other_bundle.version)
    with shop.running("serve", CHAMPION_POLL_SECONDS="2") as service:
        assert httpx.get(f"{service.url}/readyz").json()["model"] == other_bundle.version
        started = time.monotonic()
        environment = os.environ | dict(shop.settings) | {"MLFLOW_TRACKING_URI": "off"}
        subprocess.run([*AISLE, "registry", "rollback"], cwd=shop.folder, env=environment, check=True)
        wait_for(lambda: httpx.get(f"{service.url}/readyz").json().get("model") == bundle.version)
        assert time.monotonic() - started < 10


OTHER_HARMS = (answering_wrongly, *MALFORMED)  # without load, they are refused in test_champion.py


@pytest.mark.parametrize("harm", [damaged, *(pytest.param(one, marks=pytest.mark.soak) for one in OTHER_HARMS)])
def test_a_bad_bundle_is_refused_under_load_and_a_good_one_after_it_taken_over(
    shop: Shop, tokens: Running, bundle: Bundle, other_bundle: Bundle, harm: Harm
) -> None:
    with shop.running("serve", **QUICK) as service:
        headers = sign_in(service.url)
        harm(store_of(shop).root / other_bundle.version)
        with Load(service.url, headers) as load:
            pointer = json.dumps({"champion": other_bundle.version})  # `registry promote` would not take it
            (store_of(shop).root / POINTER_FILE).write_text(pointer)
            wait_for(lambda: metric(service.url, "aisle_model_reload_failures_total"))
            load.answered(50)
            model = httpx.get(f"{service.url}/model", headers=headers).json()
            shutil.rmtree(store_of(shop).root / other_bundle.version)
            store_of(shop).add(other_bundle)
            wait_for(lambda: load.models[other_bundle.version])
    assert set(load.statuses) == {200}, load.statuses
    assert (model["version"], model["refused"]["version"]) == (bundle.version, other_bundle.version)
    assert "new champion refused" in service.log


def children(process_id: int) -> list[int]:
    """The workers of a process: the children that listen."""
    found = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return [int(one) for one in found if "spawn_main" in command_of(one)]


def command_of(process_id: str) -> str:
    """How a process was started; empty once it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process_id}/cmdline").read_text()
    return ""


def test_workers_share_the_port_and_add_up_their_metrics(shop: Shop, tokens: Running) -> None:
    asked = 'aisle_http_request_seconds_count{method="POST",route="/predict",status="200"}'
    with shop.running("serve", "--workers", "2") as service:
        headers = sign_in(service.url)
        with Load(service.url, headers, clients=4) as load:
            load.answered(100)
        counts = []
        for _ in range(6):  # new connections: either worker may answer
            text = httpx.get(f"{service.url}/metrics").text
            counts += [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(asked)]
        assert counts == [load.statuses[200]] * 6
        before = children(service.process.pid)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(set(children(service.process.pid)) - set(before)) == 1)
        with Load(service.url, headers) as again:
            again.answered(50)
        assert again.statuses[200] == again.statuses.total()
        workers = children(service.process.pid)
        assert service.stop() == 0
        assert not [one for one in workers if Path(f"/proc/{one}").exists()]


def test_workers_end_with_the_process_that_started_them(shop: Shop) -> None:
    with shop.running("serve", "--workers", "2", **QUICK) as service:
        workers = children(service.process.pid)
        assert len(workers) == 2
        service.process.kill()
        wait_for(lambda: not [one for one in workers if Path(f"/proc/{one}").exists()])


def test_a_service_that_is_told_to_stop_is_not_ready_and_still_answers(shop: Shop, tokens: Running) -> None:
    with shop.running("serve", DRAIN_SECONDS="3") as service, httpx.Client(base_url=service.url) as client:
        headers = sign_in(service.url)
        service.process.terminate()
        wait_for(lambda: not service.is_ready())
        assert client.get("/readyz").status_code == 503
        answer = client.post("/predict", json={"designation": "piscine"}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        assert service.process.wait(30) == 0


def test_who_is_told_twice_stops_at_once(shop: Shop, tokens: Running) -> None:
    with shop.running("serve", DRAIN_SECONDS="10") as service:
        service.process.terminate()
        wait_for(lambda: "draining" in service.log)
        service.process.terminate()
        assert service.process.wait(8) == 0


def test_a_request_under_way_is_answered_before_the_end(shop: Shop, tokens: Running) -> None:
    body = b'{"designation": "piscine"}'
    one_place = {"QUEUE_SIZE": "1", **QUICK}
    with shop.running("serve", **one_place) as service, httpx.Client(base_url=service.url) as client:
        headers = sign_in(service.url) | {"content-type": "application/json", "content-length": str(len(body))}
        half_way, go_on = threading.Event(), threading.Event()

        def slowly() -> Iterator[bytes]:
            yield body[:10]
            half_way.set()
            go_on.wait(30)
            yield body[10:]

        statuses: list[int] = []
        thread = threading.Thread(
            target=lambda: statuses.append(client.post("/predict", content=slowly(), headers=headers).status_code)
        )
        thread.start()
        half_way.wait(30)
        # The one place is taken; who only knocks, with a method that /predict does not take, takes none.
        wait_for(lambda: httpx.get(f"{service.url}/predict").status_code == 503)
        service.process.terminate()
        wait_for(lambda: not service.is_ready())
        go_on.set()
        thread.join(30)
        assert statuses == [200]
        assert service.process.wait(30) == 0


@pytest.mark.parametrize("service", ["serve", pytest.param("auth", marks=pytest.mark.soak)])
def test_a_request_that_never_ends_does_not_keep_a_service_longer_than_promised(shop: Shop, service: str) -> None:
    """With the longest drain that may be set; a platform kills after 30 seconds."""
    path, kind = {
        "serve": ("/feedback", "application/json"),
        "auth": ("/token/revoke", "application/x-www-form-urlencoded"),
    }[service]
    head = f"POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Type: {kind}\r\nContent-Length: 50\r\n\r\n"
    with shop.running(service, DRAIN_SECONDS="10") as running:
        address = urlsplit(running.url)
        with socket.create_connection((str(address.hostname), address.port or 0)) as connection:
            connection.sendall(head.encode() + b"{")
            running.process.terminate()
            running.process.wait(30)
        assert "graceful shutdown exceeded" in running.log  # it was under way until the end


def test_two_instances_share_a_limit_by_redis_and_go_on_without_it(
    shop: Shop, tokens: Running, redis_server: RunningRedis
) -> None:
    limited = shop.with_settings(REDIS_URL=redis_server.url, RATE_LIMITS="predict=10/hour", **QUICK)
    with limited.running("serve") as first, limited.running("serve") as second:
        headers = sign_in(first.url)

        def statuses(count: int) -> list[int]:
            urls = [first.url, second.url] * count
            body = {"designation": "piscine"}
            return [httpx.post(f"{url}/predict", json=body, headers=headers).status_code for url in urls[:count]]

        found = statuses(20)
        assert (found.count(200), found.count(429)) == (10, 10)
        redis_server.process.kill()
        redis_server.process.wait()
        assert statuses(4) == [200] * 4
        assert metric(first.url, "aisle_limits_degraded") == 1


def test_predictions_go_on_while_the_database_is_away_and_are_recorded_after(shop: Shop, tokens: Running) -> None:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(new_cluster())
        database = stack.enter_context(contextlib.ExitStack())
        database.enter_context(cluster.running())
        service = stack.enter_context(shop.running("serve", DATABASE_URL=cluster.url, **QUICK))
        headers = sign_in(tokens.url)

        def predict() -> str:
            answer = httpx.post(f"{service.url}/predict", json={"designation": "piscine"}, headers=headers)
            assert answer.status_code == 200
            found: str = answer.json()["prediction_id"]
            return found

        def correct(prediction_id: str) -> int:
            body = {"prediction_id": prediction_id, "type": "2583"}
            return httpx.post(f"{service.url}/feedback", json=body, headers=headers, timeout=30).status_code

        def recorded(*prediction_ids: str) -> list[bool]:
            engine = open_database(cluster.url)
            with reading(engine) as connection:
                found = [find(connection, one) is not None for one in prediction_ids]
            engine.dispose()
            return found

        known = predict()
        assert correct(known) == 201
        assert recorded(known) == [True]
        database.close()
        meanwhile = [predict() for _ in range(3)]
        assert correct(known) == 503
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        database.enter_context(cluster.running())
        wait_for(lambda: all(recorded(*meanwhile)))
        assert correct(meanwhile[0]) == 201
        assert metric(service.url, "aisle_prediction_records_total") == 4  # each once, and none dropped


def test_while_the_token_service_is_away_whoever_has_a_token_goes_on(shop: Shop) -> None:
    with shop.running("serve", **QUICK) as service:
        with shop.running("auth", **QUICK):
            headers = sign_in(service.url)
            wait_for(lambda: httpx.get(f"{service.url}/model", headers=headers).status_code == 200)
        assert httpx.get(f"{service.url}/model", headers=headers).status_code == 200
        answer = httpx.post(f"{service.url}/token", data={"username": "admin", "password": PASSWORD})
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:aisle:problem:sign-in-unavailable"
        assert answer.headers["retry-after"]


def test_a_sign_in_counts_for_the_address_that_it_comes_from(shop: Shop) -> None:
    """The prediction service is a proxy that the token service trusts, and believes no other."""
    slow = shop.with_settings(LOGIN_ATTEMPTS_PER_MINUTE="2", **QUICK)
    with slow.running("auth"), slow.running("serve", TRUSTED_PROXIES="") as service:

        def status(address: str) -> int:
            form = {"username": "admin", "password": PASSWORD}
            return httpx.post(f"{service.url}/token", data=form, headers={"X-Forwarded-For": address}).status_code

        assert [status(f"192.0.2.{last}") for last in (1, 2, 3)] == [200, 200, 429]


def test_the_log_has_a_line_for_each_request_and_no_secret(shop: Shop, tokens: Running) -> None:
    with shop.running("serve", **QUICK) as service:
        headers = sign_in(service.url)
        httpx.get(f"{service.url}/model?token={headers['Authorization'][7:]}", headers=headers)
    log = (shop.folder / "logs" / "serving_logger.log").read_text()
    assert '"route": "/model"' in log
    assert headers["Authorization"][7:] not in log + service.log
    assert PASSWORD not in log
