"""Batches whose table and images are in S3, by a worker that is told when to work."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from sqlalchemy import Engine
from tests.batch.conftest import S3

from aisle.batch.bulk import predict_file
from aisle.batch.spool import Spool
from aisle.batch.worker import Worker
from aisle.data.raw import IMAGES_ZIP, TEST_FILE
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.store import batches
from aisle.store.batches import Batch, BatchState, NewBatch
from aisle.store.engine import open_database, reading, writing
from aisle.store.migrate import migrate

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Shop:
    engine: Engine
    settings: Settings
    worker: Worker
    now: datetime = NOW

    def order(self, location: str, images: str | None = None) -> str:
        new = NewBatch(uuid.uuid4().hex, "anne", "table", location, images, None, "f" * 64, 10_000)
        with writing(self.engine) as connection:
            batches.add(connection, new, at=self.now)
        return new.id

    def work(self) -> None:
        while self.worker.step():
            pass

    def batch(self, batch_id: str) -> Batch:
        with reading(self.engine) as connection:
            found = batches.find(connection, batch_id, user="anne")
        assert found is not None
        return found

    def result(self, batch_id: str) -> bytes:
        return Spool(self.settings.batches_path).parts(batch_id).output.read_bytes()


@pytest.fixture
def shop(bundle: Bundle, s3: S3, tmp_path: Path) -> Iterator[Shop]:
    store = BundleStore(tmp_path / "models")
    store.add(bundle)
    store.make_champion(bundle.version)
    settings = Settings().model_copy(
        update={
            "models_path": store.root,
            "batches_path": tmp_path / "batches",
            "batch_locations": "s3://shop/catalogues",
            "s3_endpoint_url": s3.endpoint,
        }
    )
    engine = open_database(f"sqlite:///{tmp_path / 'aisle.db'}")
    migrate(engine)
    made = Shop(engine, settings, Worker(engine, settings, threads=2, clock=lambda: made.now))
    yield made
    made.worker.close()
    engine.dispose()


def test_a_table_and_its_images_in_s3_give_what_they_give_on_a_disk(
    shop: Shop, s3: S3, sample: Path, bundle: Bundle, tmp_path: Path
) -> None:
    s3.put("catalogues/table.csv", (sample / TEST_FILE).read_bytes())
    s3.put("catalogues/images.zip", (sample / IMAGES_ZIP).read_bytes())
    batch_id = shop.order("s3://shop/catalogues/table.csv", "s3://shop/catalogues/images.zip")
    shop.work()
    assert shop.batch(batch_id).state is BatchState.DONE
    predict_file(bundle, sample / TEST_FILE, tmp_path / "out.parquet", images=sample, cores=2)
    assert pl.read_parquet(io.BytesIO(shop.result(batch_id))).equals(pl.read_parquet(tmp_path / "out.parquet"))


def test_a_bucket_that_vanishes_fails_the_batch_says_so_and_leaves_what_is_done(
    shop: Shop, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aisle.batch.bulk.ROWS_OF_TEXT", 2)
    s3.put("catalogues/table.csv", b"designation\n" + b"piscine\n" * 2)
    s3.put("catalogues/more.csv", b"designation\n" + b"livre\n" * 6)
    batch_id = shop.order("s3://shop/catalogues")
    assert shop.worker.step()
    assert shop.worker.step()
    s3.remove_bucket()
    for _ in range(12):  # what is open already may be read on, or tried again a few times
        shop.work()
        shop.now += timedelta(minutes=5)
    batch = shop.batch(batch_id)
    assert batch.state is BatchState.FAILED
    assert batch.problem is not None
    assert "s3://shop/catalogues" in batch.problem
    assert 0 < batch.done < 8
    assert Spool(shop.settings.batches_path).parts(batch_id).read(0).height == 2


def test_a_server_that_is_away_is_waited_for(shop: Shop, s3: S3) -> None:
    s3.put("catalogues/table.csv", b"designation\npiscine\n")
    batch_id = shop.order("s3://shop/catalogues/table.csv")
    s3.stop()
    assert shop.worker.step()
    batch = shop.batch(batch_id)
    assert (batch.state, batch.done) == (BatchState.WAITING, 0)
    assert batch.problem is not None
    assert "s3://shop/catalogues/table.csv: the server does not answer" in batch.problem
    assert not shop.worker.step()
    shop.now += timedelta(seconds=2)
    assert shop.worker.step()


def test_a_location_that_is_no_longer_allowed_is_not_read(shop: Shop, s3: S3) -> None:
    s3.put("secret/table.csv", b"designation\npiscine\n")
    batch_id = shop.order("s3://shop/secret/table.csv")
    shop.work()
    assert shop.batch(batch_id).state is BatchState.FAILED
    assert "none of those that a batch may read" in str(shop.batch(batch_id).problem)


def test_a_bundle_that_is_being_replaced_is_waited_for(shop: Shop, s3: S3) -> None:
    s3.put("catalogues/table.csv", b"designation\npiscine\n")
    batch_id = shop.order("s3://shop/catalogues/table.csv")
    store = BundleStore(shop.settings.models_path)
    file = store.find("champion") / "title.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert shop.worker.step()
    batch = shop.batch(batch_id)
    assert (batch.state, batch.done) == (BatchState.WAITING, 0)
    assert "models" in str(batch.problem)
    file.write_bytes(whole)
    shop.now += timedelta(seconds=2)
    shop.work()
    assert shop.batch(batch_id).state is BatchState.DONE
