"""Batches over HTTP: a table in, its predictions out, whoever asks and whatever is wrong with the table."""

from __future__ import annotations

import io
import json
import os
import resource
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.service.conftest import Service, Starter

from aisle.batch import pieces
from aisle.batch.bulk import predict_file
from aisle.batch.spool import Spool
from aisle.batch.worker import Worker, clean_up
from aisle.data.raw import IMAGES_ZIP, TEST_FILE
from aisle.errors import UsageError
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.service.batches import quotas
from aisle.settings import Settings
from aisle.store import batches
from aisle.store.engine import writing
from aisle.store.users import Role

PREDICTED = ["predicted", "label", "confidence", "decision", "top_k", "model_version", "error"]


class SetClock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Shop:
    """A service, and a worker that works when it is told to."""

    service: Service
    settings: Settings
    clock: SetClock
    workers: list[Worker] = field(default_factory=list)

    def worker(self) -> Worker:
        self.workers.append(Worker(self.service.engine, self.settings, threads=2, clock=self.clock))
        return self.workers[-1]

    def work(self) -> None:
        worker = self.worker()
        while worker.step():
            pass

    def send(self, content: bytes, name: str = "table.csv", *, user: str = "anne", **more: Any) -> Any:
        files = {"table": (name, content), **more.pop("files", {})}
        return self.service.post("/batches", more.pop("role", Role.CLIENT), user, files=files, **more)

    def batch(self, content: bytes, name: str = "table.csv", **more: Any) -> dict[str, Any]:
        answer = self.send(content, name, **more)
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def done(self, content: bytes, name: str = "table.csv", **more: Any) -> dict[str, Any]:
        """The batch, after the worker."""
        batch = self.batch(content, name, **more)
        self.work()
        return self.get(batch)

    def get(self, batch: dict[str, Any]) -> dict[str, Any]:
        answer = self.service.get(f"/batches/{batch['id']}", name="anne")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    def results(self, batch: dict[str, Any], query: str = "", user: str = "anne") -> Any:
        return self.service.get(f"/batches/{batch['id']}/results{query}", name=user)

    def rows(self, batch: dict[str, Any], query: str = "?format=ndjson") -> list[dict[str, Any]]:
        answer = self.results(batch, query)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture(scope="module")
def models(bundle: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> BundleStore:
    store = BundleStore(tmp_path_factory.mktemp("models"))
    for one in (bundle, other_bundle):
        store.add(one)
    store.make_champion(bundle.version)
    return store


@pytest.fixture(scope="module")
def shop(start_service: Starter, models: BundleStore, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Each test asks as anne, who may have many batches."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shared").mkdir()
    more = {
        "batches_path": folder / "batches",
        "models_path": models.root,
        "batch_quotas": "client=1000/1000, reviewer=2/1000",
        "batch_locations": f"{folder / 'shared'}, s3://shop/catalogues/",
        "batch_max_mib": 16,
    }
    settings = Settings().model_copy(update=more)
    clock = SetClock()
    return Shop(start_service(clock=clock, **more), settings, clock)


@pytest.fixture(autouse=True)
def _workers_go(shop: Shop) -> Iterator[None]:
    yield
    while shop.workers:
        shop.workers.pop().close()


@pytest.fixture
def shared(shop: Shop) -> Path:
    """The folder that batches may read."""
    return Path(shop.settings.batch_locations.partition(",")[0])


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 8 rows."""
    monkeypatch.setattr("aisle.batch.bulk.ROWS_OF_TEXT", 8)


def titles(*lines: str) -> bytes:
    return "\n".join(["index,designation", *lines, ""]).encode()


def many(count: int) -> bytes:
    return titles(*(f"{number},piscine ronde {number}" for number in range(count)))


class TestAWholeBatch:
    def test_its_result_is_what_the_command_line_writes(
        self, shop: Shop, bundle: Bundle, sample: Path, tmp_path: Path
    ) -> None:
        batch = shop.done((sample / TEST_FILE).read_bytes())
        predict_file(bundle, sample / TEST_FILE, tmp_path / "out.csv", cores=2)
        answer = shop.results(batch)
        assert answer.content == (tmp_path / "out.csv").read_bytes()
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="table-types.csv"'

    def test_with_a_zip_of_images_too(self, shop: Shop, bundle: Bundle, sample: Path, tmp_path: Path) -> None:
        packed = (sample / IMAGES_ZIP).read_bytes()
        batch = shop.done((sample / TEST_FILE).read_bytes(), files={"images": ("photos.zip", packed)})
        predict_file(bundle, sample / TEST_FILE, tmp_path / "out.csv", images=sample, cores=2)
        assert shop.results(batch).content == (tmp_path / "out.csv").read_bytes()

    def test_it_says_what_it_is_at_each_step(self, shop: Shop, bundle: Bundle) -> None:
        batch = shop.batch(titles("7,piscine", "8,", "9,livre"))
        assert (batch["state"], batch["rows"], batch["done"], batch["model"]) == ("waiting", None, 0, None)
        worker = shop.worker()
        assert worker.step()
        planned = shop.get(batch)
        assert (planned["state"], planned["rows"], planned["model"]) == ("running", 3, bundle.version)
        assert worker.step()
        done = shop.get(batch)
        assert (done["state"], done["done"], done["errors"]) == ("running", 3, 1)
        [error] = done["first_errors"]
        assert (error["row"], "nothing to classify" in error["error"]) == (2, True)
        assert worker.step()
        assert shop.get(batch)["state"] == "done"
        assert not worker.step()

    def test_the_rate_and_the_time_that_is_left_follow_from_what_is_done(
        self, shop: Shop, small_pieces: None
    ) -> None:
        batch = shop.batch(many(32))
        worker = shop.worker()
        worker.step()
        shop.clock.now += timedelta(seconds=4)
        worker.step()
        found = shop.get(batch)
        assert (found["rows_per_second"], found["seconds_left"]) == (2.0, 12)
        shop.work()

    @pytest.mark.parametrize("by", ["format", "accept"])
    def test_its_result_comes_in_three_formats(self, shop: Shop, by: str) -> None:
        batch = shop.done(titles("7,piscine", "8,livre"))
        found = {}
        for name, kind in (
            ("csv", "text/csv"), ("ndjson", "application/x-ndjson"), ("parquet", "application/vnd.apache.parquet"),
        ):  # fmt: skip
            query = f"?format={name}" if by == "format" else ""
            headers = shop.service.headers(name="anne") | ({"Accept": kind} if by == "accept" else {})
            answer = shop.service.client.get(f"/batches/{batch['id']}/results{query}", headers=headers)
            assert answer.headers["content-type"].startswith(kind)
            found[name] = answer.content
        table = pl.read_parquet(io.BytesIO(found["parquet"]))
        assert table.columns == ["index", *PREDICTED]
        assert pl.read_csv(io.BytesIO(found["csv"]), schema=table.schema).rows() == table.rows()
        assert [json.loads(line) for line in found["ndjson"].splitlines()] == table.to_dicts()

    def test_a_parquet_table_will_do(self, shop: Shop) -> None:
        buffer = io.BytesIO()
        pl.DataFrame({"product_id": [7, 8], "designation": ["piscine", "livre"]}).write_parquet(buffer)
        batch = shop.done(buffer.getvalue(), "table.parquet")
        assert [row["product_id"] for row in shop.rows(batch)] == ["7", "8"]

    def test_all_rows_are_by_the_model_that_was_champion_when_it_began(
        self, shop: Shop, models: BundleStore, bundle: Bundle, other_bundle: Bundle, small_pieces: None
    ) -> None:
        batch = shop.batch(many(20))
        worker = shop.worker()
        worker.step()
        worker.step()
        models.make_champion(other_bundle.version)
        try:
            shop.work()
        finally:
            models.make_champion(bundle.version)
        assert {row["model_version"] for row in shop.rows(batch)} == {bundle.version}


class TestWhileItRuns:
    def test_the_whole_result_is_refused_and_what_is_done_can_be_had(self, shop: Shop, small_pieces: None) -> None:
        batch = shop.batch(many(20))
        worker = shop.worker()
        assert shop.results(batch).status_code == 409
        for _ in range(3):
            worker.step()
        answer = shop.results(batch)
        assert answer.status_code == 409
        assert answer.headers["retry-after"]
        assert "16 of 20 rows" in answer.json()["detail"]
        part = shop.rows(batch, "?format=ndjson&partial=true")
        shop.work()
        whole = shop.rows(batch)
        assert len(part) == 16
        assert part == whole[:16]
        assert shop.rows(batch, "?format=ndjson&partial=true") == whole

    def test_what_is_done_has_no_gap(self, shop: Shop, small_pieces: None) -> None:
        batch = shop.batch(many(24))
        worker, other = shop.worker(), shop.worker()
        worker.step()
        parts = Spool(shop.settings.batches_path).parts(batch["id"])
        for _ in range(3):
            other.step()
        (parts.folder / "part-000001.parquet").remove()
        assert len(shop.rows(batch, "?format=ndjson&partial=true")) == 8
        shop.service.post(f"/batches/{batch['id']}/cancel", name="anne")

    def test_parquet_is_for_whole_results(self, shop: Shop) -> None:
        batch = shop.batch(many(3))
        assert shop.results(batch, "?format=parquet&partial=true").status_code == 422
        shop.work()
        assert shop.results(batch, "?format=parquet&partial=true").status_code == 200

    def test_a_cancelled_batch_stops_and_keeps_what_is_done(self, shop: Shop, small_pieces: None) -> None:
        batch = shop.batch(many(24))
        worker = shop.worker()
        worker.step()
        worker.step()
        answer = shop.service.post(f"/batches/{batch['id']}/cancel", name="anne")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert not worker.step()
        refused = shop.results(batch)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:aisle:problem:batch-without-result")
        assert "retry-after" not in refused.headers
        assert len(shop.rows(batch, "?format=ndjson&partial=true")) == 8
        again = shop.service.post(f"/batches/{batch['id']}/cancel", name="anne")
        assert again.json() == answer.json()

    def test_a_deleted_batch_is_gone_with_its_files(self, shop: Shop, small_pieces: None) -> None:
        batch = shop.batch(many(24))
        worker = shop.worker()
        worker.step()
        worker.step()
        address = f"/batches/{batch['id']}"
        assert shop.service.client.delete(address, headers=shop.service.headers(name="anne")).status_code == 204
        assert not worker.step()
        assert shop.service.get(address, name="anne").status_code == 404
        assert not (shop.settings.batches_path / batch["id"]).exists()

    def test_what_comes_too_late_for_a_deleted_batch_is_swept_away(self, shop: Shop) -> None:
        late = shop.settings.batches_path / f"{'a' * 32}"
        (late / "parts").mkdir(parents=True)
        kept = shop.done(many(2))
        clean_up(shop.service.engine, shop.settings, clock=shop.clock)
        assert late.exists()  # it may be a batch that is being written down just now
        os.utime(late, (0, 0))
        assert clean_up(shop.service.engine, shop.settings, clock=shop.clock) == [late.name]
        assert not late.exists()
        assert len(shop.rows(kept)) == 2


def test_a_batch_is_kept_for_a_while_after_its_end(shop: Shop) -> None:
    batch = shop.done(many(2))
    days = timedelta(days=shop.settings.batches_keep_days)
    clean_up(shop.service.engine, shop.settings, clock=lambda: shop.clock.now + days - timedelta(minutes=1))
    assert len(shop.rows(batch)) == 2
    gone = clean_up(shop.service.engine, shop.settings, clock=lambda: shop.clock.now + days + timedelta(minutes=1))
    assert batch["id"] in gone
    assert shop.results(batch).status_code == 404
    assert not (shop.settings.batches_path / batch["id"]).exists()


OF_ONE = (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", ""))


class TestWhose:
    @pytest.mark.parametrize(("method", "path"), OF_ONE)
    @pytest.mark.parametrize("role", [Role.CLIENT, Role.ADMIN])
    def test_anothers_batch_is_as_if_it_were_not_there(self, shop: Shop, method: str, path: str, role: Role) -> None:
        batch = shop.batch(many(1))
        headers = shop.service.headers(role, "ben")
        for batch_id in (batch["id"], "0" * 32):
            answer = shop.service.client.request(method, f"/batches/{batch_id}{path}", headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:aisle:problem:no-such-batch")
        shop.work()
        assert shop.get(batch)["state"] == "done"

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", ""),
            ("GET", ""),
            ("GET", "/ID"),
            ("GET", "/ID/results"),
            ("POST", "/ID/cancel"),
            ("DELETE", "/ID"),
        ],
    )
    def test_nobody_gets_anything_without_a_token(self, shop: Shop, method: str, path: str) -> None:
        answer = shop.service.client.request(method, f"/batches{path.replace('ID', '0' * 32)}")
        assert answer.status_code == 401

    def test_the_list_has_ones_own_batches_the_newest_first_page_by_page(self, shop: Shop) -> None:
        made = []
        for _ in range(5):
            made.append(shop.batch(many(1), user="carla")["id"])
            shop.clock.now += timedelta(microseconds=1)
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = shop.service.get(f"/batches?limit=2&after={cursor}", name="carla").json()
            found += [one["id"] for one in page["batches"]]
            cursor = page["next"]
        assert found == made[::-1]
        shop.work()

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=many", "after=1", "after=../x", "after=1-zz"])
    def test_a_page_that_is_none_is_refused(self, shop: Shop, query: str) -> None:
        assert shop.service.get(f"/batches?{query}", name="anne").status_code == 422

    @pytest.mark.parametrize("name", ["x", "0" * 31, "G" * 32, "..%2F.." + "0" * 25])
    def test_an_id_that_is_none_is_refused(self, shop: Shop, name: str) -> None:
        assert shop.service.get(f"/batches/{name}", name="anne").status_code in (404, 422)


class TestIdempotency:
    def test_the_same_key_and_body_are_the_same_batch(self, shop: Shop) -> None:
        headers = {"Idempotency-Key": "monday"}
        first, again = (shop.send(many(2), headers=headers) for _ in range(2))
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        shop.work()
        assert shop.send(many(2), headers=headers).json()["state"] == "done"

    @pytest.mark.parametrize("other", ["content", "name", "images"])
    def test_the_same_key_and_another_body_are_refused(self, shop: Shop, other: str) -> None:
        headers = {"Idempotency-Key": f"tuesday {other}"}
        shop.batch(many(2), headers=headers)
        before = set(shop.settings.batches_path.iterdir())
        files = {"images": ("photos.zip", b"PK")} if other == "images" else {}
        answer = shop.send(
            many(3 if other == "content" else 2),
            "b.csv" if other == "name" else "table.csv",
            headers=headers,
            files=files,
        )
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:aisle:problem:idempotency-key-used")
        assert set(shop.settings.batches_path.iterdir()) == before
        shop.work()

    def test_a_key_is_its_users_own(self, shop: Shop) -> None:
        headers = {"Idempotency-Key": "wednesday"}
        assert shop.batch(many(2), headers=headers)["id"] != shop.batch(many(3), headers=headers, user="dora")["id"]
        shop.work()

    def test_without_a_key_each_request_is_a_batch(self, shop: Shop) -> None:
        assert shop.batch(many(2))["id"] != shop.batch(many(2))["id"]
        shop.work()

    @pytest.mark.parametrize("key", ["", "k" * 201])
    def test_a_key_that_is_none_is_refused(self, shop: Shop, key: str) -> None:
        assert shop.send(many(1), headers={"Idempotency-Key": key}).status_code == 422


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def test_a_footer_that_lies_about_its_rows_costs_nothing(shop: Shop) -> None:
    honest = parquet(designation=["piscine"] * 127)
    lying = honest.replace(bytes([0x16, 0xFE, 0x01]), bytes([0x16, 0xFE, 0xFF]))  # 127 as Thrift writes it, and more
    batch = shop.done(lying if lying != honest else b"PAR1", "table.parquet")
    assert (batch["state"], batch["done"]) == ("failed", 0)


def test_a_text_that_many_rows_share_is_not_kept_for_each(shop: Shop) -> None:
    """6 MB for each of 200 rows would be 1.2 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), pa.array(["piscine " * 750_000]))
    batch = shop.done(parquet(designation=shared), "table.parquet")
    assert (batch["state"], batch["done"]) == ("done", 200)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # KiB


@pytest.mark.parametrize("column", ["designation", "productid"])
def test_bytes_that_are_no_utf_8_fail_the_batch_and_not_its_worker(shop: Shop, column: str) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe")])
    columns = {"designation": pa.array(["piscine"]), column: bad}
    batch = shop.done(parquet(**columns), "table.parquet")
    assert (batch["state"], "cannot be read as a table" in batch["problem"]) == ("failed", True)


def test_a_column_of_another_kind_fails_at_once(shop: Shop) -> None:
    spans = pa.array([timedelta(seconds=1)], pa.duration("us"))
    batch = shop.done(parquet(designation=["piscine"], productid=spans), "table.parquet")
    assert batch["state"] in ("failed", "done")


def test_a_plan_that_kills_its_workers_fails_and_the_others_go_on(shop: Shop) -> None:
    batch = shop.batch(many(2))
    for number in range(5):
        with writing(shop.service.engine) as connection:
            claim = batches.claim(connection, f"dead {number}", now=shop.clock.now, lease=timedelta(seconds=30))
        assert claim is not None
        assert claim.piece.number == batches.PLAN
        shop.clock.now += timedelta(seconds=30)
    shop.work()
    assert (shop.get(batch)["state"], "stops the program" in shop.get(batch)["problem"]) == ("failed", True)


class TestQuotas:
    def test_so_many_batches_may_be_under_way(self, shop: Shop) -> None:
        made = [shop.batch(many(1), user="rita", role=Role.REVIEWER) for _ in range(2)]
        refused = shop.send(many(1), user="rita", role=Role.REVIEWER)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:aisle:problem:too-many-batches")
        assert refused.headers["retry-after"]
        shop.service.post(f"/batches/{made[0]['id']}/cancel", name="rita")
        shop.batch(many(1), user="rita", role=Role.REVIEWER)
        shop.work()
        shop.batch(many(1), user="rita", role=Role.REVIEWER)
        shop.work()

    def test_a_table_that_is_too_long_fails_and_says_how_long_it_may_be(self, shop: Shop) -> None:
        batch = shop.done(many(1001))
        assert batch["state"] == "failed"
        assert "more than 1000 rows, which are allowed" in batch["problem"]

    def test_a_role_without_a_quota_may_not_ask(self, shop: Shop) -> None:
        assert shop.send(many(1), role=Role.ADMIN).status_code == 403

    @pytest.mark.parametrize("text", ["client", "client=2", "client=a/b", "guest=2/10", "client=2/10/3"])
    def test_a_quota_that_is_none_is_wrong_use(self, text: str) -> None:
        with pytest.raises(UsageError, match="ROLE=BATCHES/ROWS"):
            quotas(text)


class TestUploads:
    def test_a_body_that_is_too_large_is_refused(self, shop: Shop) -> None:
        answer = shop.send(b"designation\n" + b"piscine\n" * (17 << 17))
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:aisle:problem:body-too-large")

    @pytest.mark.parametrize("name", ["table.txt", "table", ".csv", "table.csv.gz", "table.xlsx", "a" * 300])
    def test_a_table_of_another_kind_is_refused(self, shop: Shop, name: str) -> None:
        assert shop.send(many(1), name).status_code == 415

    def test_images_that_are_no_zip_by_their_name_are_refused(self, shop: Shop) -> None:
        assert shop.send(many(1), files={"images": ("photos.tar", b"")}).status_code == 415

    @pytest.mark.parametrize(
        "request_",
        [
            {"files": {"images": ("photos.zip", b"")}},
            {"files": {"table": ("", b"")}},
            {"files": [("table", ("a.csv", b"x")), ("table", ("b.csv", b"x"))]},
            {"files": {"table": ("a.csv", b"x"), "other": ("b.csv", b"x")}},
            {"files": {"images": ("photos.zip", b"")}, "data": {"table": "designation"}},
            {"data": {"table": "designation"}},
            {"content": b"{", "headers": {"Content-Type": "application/json"}},
            {"content": b"[1]", "headers": {"Content-Type": "application/json"}},
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            {"content": b"x", "headers": {"Content-Type": "text/csv"}},
            {"json": {}},
            {"json": {"location": 7}},
            {"content": b"[" * 20_000, "headers": {"Content-Type": "application/json"}},
            {"json": {"location": "x" * 1001}},
            {"json": {"location": "/shared/a.csv", "more": 1}},
        ],
    )
    def test_what_is_no_order_is_refused_and_leaves_nothing(self, shop: Shop, request_: dict[str, Any]) -> None:
        before = set(shop.settings.batches_path.glob("*"))
        answer = shop.service.post("/batches", name="anne", **request_)
        assert answer.status_code in (400, 413, 415, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(shop.settings.batches_path.glob("*")) == before

    def test_a_name_is_shown_and_is_never_a_path(self, shop: Shop) -> None:
        batch = shop.batch(many(1), "../../etc/ta\u202eble<b>.csv")
        assert batch["name"] == "ta ble<b>.csv"
        shop.work()
        answer = shop.results(batch)
        assert answer.headers["content-disposition"] == 'attachment; filename="ta_ble_b_-types.csv"'


class TestLocations:
    def test_a_folder_that_is_allowed_is_read_where_it_is(self, shop: Shop, shared: Path) -> None:
        (shared / "day").mkdir(exist_ok=True)
        (shared / "day" / "a.csv").write_bytes(many(2))
        (shared / "day" / "b.csv").write_bytes(many(3))
        answer = shop.service.post("/batches", name="anne", json={"location": str(shared / "day")})
        assert answer.status_code == 202
        shop.work()
        assert [row["index"] for row in shop.rows(answer.json())] == ["0", "1", "0", "1", "2"]

    @pytest.mark.parametrize(
        "address",
        [
            "/etc/passwd", "SHARED/../secret.csv", "SHARED/link/secret.csv", "shared/a.csv", "../a.csv",
            "SHAREDX/a.csv", "file:///etc/passwd", "http://169.254.169.254/latest", "ftp://x/a.csv",
            "S3://shop/catalogues/a.csv", "s3://shop/other/a.csv", "s3://shop/cataloguesX/a.csv", "s3://other/a.csv",
            "s3://shop/catalogues/../other/a.csv", "s3://shop/catalogues//../../other/a.csv", "SHARED/a\x00.csv", "",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("field", ["location", "images"])
    def test_another_place_is_refused(self, shop: Shop, shared: Path, address: str, field: str) -> None:
        secret = shared.parent / "secret"
        secret.mkdir(exist_ok=True)
        (secret / "secret.csv").write_bytes(many(1))
        if not (shared / "link").exists():
            (shared / "link").symlink_to(secret)
        named = address.replace("SHARED", str(shared))
        body = {"location": named} if field == "location" else {"location": str(shared), "images": named}
        if field == "images" and not address:
            return  # no images, which is fine
        assert shop.service.post("/batches", name="anne", json=body).status_code == 422

    def test_a_link_out_of_an_allowed_folder_is_not_read(self, shop: Shop, shared: Path) -> None:
        (shared.parent / "outside.csv").write_bytes(many(3))
        (shared / "links").mkdir(exist_ok=True)
        (shared / "links" / "a.csv").symlink_to(shared.parent / "outside.csv")
        answer = shop.service.post("/batches", name="anne", json={"location": str(shared / "links")})
        shop.work()
        assert "none of those that a batch may read" in shop.get(answer.json())["problem"]

    def test_a_place_without_a_table_fails_and_says_so(self, shop: Shop, shared: Path) -> None:
        answer = shop.service.post("/batches", name="anne", json={"location": str(shared / "nothing.csv")})
        assert answer.status_code == 202
        shop.work()
        assert "there is no such file" in shop.get(answer.json())["problem"]

    def test_a_table_that_changes_meanwhile_fails_and_says_so(
        self, shop: Shop, shared: Path, small_pieces: None
    ) -> None:
        (shared / "moving.csv").write_bytes(many(20))
        batch = shop.service.post("/batches", name="anne", json={"location": str(shared / "moving.csv")}).json()
        worker = shop.worker()
        worker.step()
        (shared / "moving.csv").write_bytes(many(21))
        while worker.step():
            pass
        assert "has changed since" in shop.get(batch)["problem"]

    def test_nothing_is_allowed_by_default(self, start_service: Starter, tmp_path: Path) -> None:
        service = start_service(batches_path=tmp_path / "batches")
        answer = service.post("/batches", json={"location": str(tmp_path / "a.csv")})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:aisle:problem:batch-location")


HOSTILE = {
    "semicolons and Windows-1252": ("index;designation\n1;Bébé – été\n2;livre\n".encode("cp1252"), ["1", "2"]),
    "a byte order mark": (b"\xef\xbb\xbfindex,designation\n1,piscine\n", ["1"]),
    "quotes and line breaks": (b'index,designation\r\n1,"a ""b"",\r\nc"\r\n2,d\r\n', ["1", "2"]),
    "tabs": (b"index\tdesignation\n1\tpiscine\n", ["1"]),
    "a cell of a million characters": (b"index,designation\n1," + b"piscine " * 125_000 + b"\n2,livre\n", ["1", "2"]),
    "no rows": (b"index,designation\n", []),
    "a formula": (b'index,designation\n"=1+1",piscine\n', ["=1+1"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_table_as_shops_write_them_is_done(shop: Shop, name: str) -> None:
    content, keys = HOSTILE[name]
    batch = shop.done(content)
    assert (batch["state"], batch["errors"], batch["problem"]) == ("done", 0, None)
    assert [row["index"] for row in shop.rows(batch) if row["index"]] == keys
    assert shop.results(batch).text.startswith("index,predicted")


def test_a_row_with_too_many_cells_has_an_error_and_the_others_have_none(shop: Shop) -> None:
    batch = shop.done(titles("1,piscine", "2,livre,ancien", "3,livre"))
    assert (batch["state"], batch["errors"]) == ("done", 1)
    rows = shop.rows(batch)
    assert [row["predicted"] is None for row in rows] == [False, True, False]
    assert "the row has 3 cells, the header 2" in rows[1]["error"]


def zipped(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    return buffer.getvalue()


BROKEN = {
    "nothing in it": (b"", None, "table.csv: is empty"),
    "missing columns": (b"index,nom\n1,piscine\n", None, "table.csv: has neither a column 'designation' nor"),
    "no columns for the images": (many(1), zipped(**{"a.jpg": b""}), "has no column 'productid'"),
    "a quote that is never closed": (
        b'index,designation\n1,"piscine\n',
        None,
        "cannot be read as a table in the row",
    ),
    "two encodings": ("index,designation\n1,été été\n".encode() + b"2,\xe9\n", None, "byte 0xE9 in line 3"),
    "UTF-16": ("index,designation\n1,a\n".encode("utf-16"), None, "UTF-16"),
    "two columns for one": (b"designation,designation\na,b\n", None, "two columns for 'title'"),
    "a zip that is none": (many(1), b"PK", "photos.zip: the zip is refused"),
    "a zip with a path outside": (many(1), zipped(**{"../a.jpg": b""}), "'../a.jpg' leads outside"),
    "a bomb": (many(1), zipped(**{"a.jpg": bytes(50 << 20)}), "a bomb"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_table_that_cannot_be_read_fails_and_says_why(shop: Shop, name: str) -> None:
    content, images, problem = BROKEN[name]
    files = {} if images is None else {"images": ("photos.zip", images)}
    batch = shop.done(content, files=files)
    assert batch["state"] == "failed"
    assert problem in batch["problem"]
    assert str(shop.settings.batches_path) not in batch["problem"]
    assert shop.results(batch).status_code == 409


def test_parquet_that_is_none_fails_and_says_why(shop: Shop) -> None:
    batch = shop.done(b"PAR1 and nothing else", "table.parquet")
    assert (batch["state"], "table.parquet: cannot be read as a table" in batch["problem"]) == ("failed", True)


class TestTrouble:
    """What a worker cannot do now, and what it does about that."""

    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
        """Pieces cannot be read."""

        def read(*_: object) -> pl.DataFrame:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(pieces.PieceReader, "read", read)
            yield patch

    def test_it_is_tried_again_after_a_while_that_grows_and_then_it_is_done(
        self, shop: Shop, broken: pytest.MonkeyPatch
    ) -> None:
        batch = shop.batch(many(2))
        worker = shop.worker()
        assert worker.step()
        for pause in (2, 4, 8):
            assert worker.step()
            assert not worker.step()
            assert "No space left on device: the service tries again" in shop.get(batch)["problem"]
            shop.clock.now += timedelta(seconds=pause)
        broken.undo()
        shop.work()
        assert (shop.get(batch)["state"], shop.get(batch)["problem"]) == ("done", None)

    def test_after_ten_times_the_batch_fails(self, shop: Shop, broken: pytest.MonkeyPatch) -> None:
        batch = shop.batch(many(2))
        worker = shop.worker()
        for _ in range(11):
            assert worker.step()
            shop.clock.now += timedelta(minutes=5)
        assert not worker.step()
        assert shop.get(batch)["state"] == "failed"
        assert "It was tried 10 times." in shop.get(batch)["problem"]

    def test_rows_that_killed_five_workers_have_an_error_and_the_others_are_done(
        self, shop: Shop, small_pieces: None
    ) -> None:
        batch = shop.batch(many(16))
        worker = shop.worker()
        worker.step()
        lease = timedelta(seconds=30)
        for number in range(5):
            with writing(shop.service.engine) as connection:
                claim = batches.claim(connection, f"dead {number}", now=shop.clock.now, lease=lease)
            assert claim is not None
            assert claim.piece.number == 0
            shop.clock.now += lease
        shop.work()
        assert shop.get(batch)["errors"] == 8
        errors = [row["error"] for row in shop.rows(batch)]
        assert ["stops the program" in (error or "") for error in errors] == [True] * 8 + [False] * 8
