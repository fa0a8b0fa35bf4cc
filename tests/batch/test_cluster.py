"""Bulk work on a real Ray cluster of two nodes: what one machine gives, whatever is lost in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil  # type: ignore[import-untyped]
import pytest
from botocore.exceptions import ClientError
from tests.batch.cluster_nodes import Nodes, ray_nodes, workers
from tests.batch.conftest import KEYS, S3
from tests.end_to_end.conftest import LOG_LINE, Processes, Ran, image_path, write_csv, write_shop
from tests.end_to_end.conftest import store as store  # noqa: PLC0414

from aisle.batch.bulk import BulkOptions, local_engine, predict_table
from aisle.batch.places import Place
from aisle.data.prepare import Prepared
from aisle.data.raw import TRAIN_FILE
from aisle.model.bundle import CARD_FILE, LINEAGE_FILE, Bundle
from aisle.registry.bundles import BundleStore
from aisle.training.recipes import light
from aisle.training.train import train

pytestmark = pytest.mark.slow

SECONDS = 200
ROWS, PIECE = 240, 8
WORDS = ("livre roman ancien", "piscine gonflable bleue", "jeu console", "figurine", "lampe de chevet")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with ray_nodes(2, **KEYS) as nodes:
        yield nodes


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """Two, whatever an earlier test did to them."""
    cluster.have(2)
    return cluster


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """30 pieces of eight products."""
    titles = [[n, f"{WORDS[n % 5]} {n}", "rouge" if n % 3 else ""] for n in range(ROWS)]
    write_csv(tmp_path / "in.csv", [["index", "designation", "description"], *titles])
    return tmp_path / "in.csv"


@pytest.fixture
def whole(bundle: Bundle, table: Path, tmp_path: Path) -> pl.DataFrame:
    """What this machine gives."""
    return alone(bundle, table, tmp_path / "alone.parquet")


@pytest.fixture
def here(store: BundleStore, tmp_path: Path) -> dict[str, Any]:
    """Variables of a command."""
    return {"MODELS_PATH": store.root, "DATA_PATH": tmp_path / "data", "THREADS": "2"}


def alone(bundle: Bundle, table: Path, output: Path, images: Path | None = None) -> pl.DataFrame:
    options = BulkOptions(images=Place(str(images)) if images else None, rows=PIECE)
    predict_table(bundle, Place(str(table)), Place(str(output)), local_engine(1), options)
    return pl.read_parquet(output)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(processes: Processes, nodes: Nodes, here: dict[str, Any], tmp_path: Path) -> Start:
    """`start(INPUT, OUTPUT, …)`: a prediction on the cluster, in a process of its own."""

    def start(table: str | Path, output: str | Path, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        options = ["--output", output, "--engine", "ray", "--piece-rows", str(PIECE), *words]
        return processes.start(
            "predict", table, *options, cwd=tmp_path, **{**here, "RAY_ADDRESS": nodes.address, **variables}
        )

    return start


def ended(process: subprocess.Popen[str]) -> Ran:
    with process:
        out, err = process.communicate(timeout=SECONDS)
    return Ran(process.returncode, out, err)


def until(met: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not met():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def stopped_worker(process: subprocess.Popen[str]) -> psutil.Process:
    """A worker that has a piece in its hands, and keeps it: without it the work cannot end."""
    until(lambda: bool(workers()), process)
    worker = workers()[0]
    worker.send_signal(signal.SIGSTOP)
    return worker


def parts_of(output: Path) -> int:
    return len(list((output.parent / f".{output.name}.parts").glob("part-*")))


def is_removed(s3: S3) -> bool:
    """Whether the bucket is; while it is emptied a worker may write another part."""
    try:
        s3.remove_bucket()
    except ClientError:
        return False
    return True


def check_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Types and order equal, probabilities within 1e-6."""
    assert found.schema == expected.schema
    numbers = ["confidence", "top_k"]
    assert found.drop(numbers).equals(expected.drop(numbers))
    assert (found["confidence"] - expected["confidence"]).abs().max() < 1e-6  # type: ignore[operator]
    for one, other in zip(found["top_k"], expected["top_k"], strict=True):
        for mine, theirs in zip(json.loads(one), json.loads(other), strict=True):
            assert mine["prediction"] == theirs["prediction"]
            assert mine["confidence"] == pytest.approx(theirs["confidence"], abs=1e-6)


class TestSame:
    def test_csv_in_and_parquet_out_by_a_relative_path(
        self, start: Start, table: Path, tmp_path: Path, whole: pl.DataFrame
    ) -> None:
        ran = ended(start("in.csv", "out.parquet", "--json"))
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["rows"] == ROWS  # nothing of Ray's stands beside it
        check_same(pl.read_parquet(tmp_path / "out.parquet"), whole)

    @pytest.mark.soak
    def test_parquet_in_and_csv_out_on_a_cluster_of_its_own(
        self, start: Start, table: Path, tmp_path: Path, whole: pl.DataFrame
    ) -> None:
        pl.read_csv(table, infer_schema=False).write_parquet(tmp_path / "in.parquet")
        with tempfile.TemporaryDirectory() as temporary:
            ran = ended(start("in.parquet", "out.csv", RAY_ADDRESS="", TMPDIR=temporary))
            assert list(Path(temporary).glob("aisle-ray-*")) == []
        assert ran.code == 0, ran.err
        found = pl.read_csv(tmp_path / "out.csv", schema_overrides=whole.schema)
        check_same(found, whole)

    @pytest.mark.soak  # a cluster takes long to start
    def test_images_of_a_zip_and_of_a_column(self, start: Start, bundle: Bundle, tmp_path: Path) -> None:
        shop = write_shop(tmp_path / "shop", products=24, images=20)
        expected = alone(bundle, shop / TRAIN_FILE, tmp_path / "alone.parquet", shop / "image_train")
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for key in range(20):
                archive.write(image_path(shop, key), image_path(shop, key).name)
        ran = ended(start(shop / TRAIN_FILE, "zip.parquet", "--images", "images.zip"))
        assert ran.code == 0, ran.err
        check_same(pl.read_parquet(tmp_path / "zip.parquet"), expected)

        images = [image_path(shop, key).read_bytes() if key < 20 else None for key in range(24)]
        rows = pl.read_csv(shop / TRAIN_FILE, infer_schema=False)
        rows.with_columns(image=pl.Series(images)).write_parquet(tmp_path / "in.parquet")
        assert ended(start("in.parquet", "column.parquet")).code == 0
        column = pl.read_parquet(tmp_path / "column.parquet")
        assert column.drop("error").equals(pl.read_parquet(tmp_path / "zip.parquet").drop("error"))

    @pytest.mark.soak  # a cluster takes long to start
    def test_from_s3_and_to_s3(self, start: Start, s3: S3, table: Path, whole: pl.DataFrame) -> None:
        s3.put("in.csv", table.read_bytes())
        output = "s3://shop/results"
        ran = ended(start("s3://shop/in.csv", output, "--partitioned", S3_ENDPOINT_URL=s3.endpoint))
        assert ran.code == 0, ran.err
        keys = [key for key in s3.names("results/") if key.endswith(".parquet")]
        assert len(keys) == ROWS // PIECE
        check_same(pl.concat(pl.read_parquet(s3.get(key)) for key in sorted(keys)), whole)


class TestLosses:
    def test_a_worker_that_is_killed_loses_nothing(
        self, start: Start, table: Path, tmp_path: Path, whole: pl.DataFrame
    ) -> None:
        output = tmp_path / "out.parquet"
        process = start(table, output)
        worker = stopped_worker(process)
        until(lambda: parts_of(output) > 4, process)
        worker.kill()
        ran = ended(process)
        assert ran.code == 0, ran.err
        check_same(pl.read_parquet(output), whole)

    @pytest.mark.soak
    def test_a_node_that_is_gone_loses_nothing(
        self, start: Start, nodes: Nodes, table: Path, tmp_path: Path, whole: pl.DataFrame
    ) -> None:
        output = tmp_path / "out.parquet"
        process = start(table, output)
        worker = stopped_worker(process)
        until(lambda: parts_of(output) > 4, process)
        nodes.kill(nodes.of(worker))
        ran = ended(process)
        assert ran.code == 0, ran.err
        check_same(pl.read_parquet(output), whole)

    @pytest.mark.soak
    def test_a_bucket_that_vanishes_is_one_error_and_it_goes_on_when_it_is_back(
        self, start: Start, s3: S3, table: Path, tmp_path: Path, whole: pl.DataFrame
    ) -> None:
        output = "s3://shop/out.parquet"
        process = start(table, output, S3_ENDPOINT_URL=s3.endpoint)
        worker = stopped_worker(process)
        until(lambda: len(s3.names(".out.parquet.parts/part-")) > 4, process)
        kept = {key: s3.get(key) for key in s3.names()}
        until(lambda: is_removed(s3), process)
        worker.resume()
        ran = ended(process)
        assert ran.code in (3, 5), ran.err  # a worker that was only starting misses a file, another its bucket
        assert ran.err.splitlines()[-1].startswith("aisle: s3://shop")
        assert len([line for line in ran.err.splitlines() if not LOG_LINE.match(line)]) == 1

        s3.client.create_bucket(Bucket="shop")
        for key, content in kept.items():
            s3.put(key, content)
        again = ended(start(table, output, "--resume", S3_ENDPOINT_URL=s3.endpoint))
        assert again.code == 0, again.err
        assert "going on where a run stopped" in again.err
        check_same(pl.read_parquet(s3.get("out.parquet")), whole)

    @pytest.mark.soak  # a cluster takes long to start
    def test_an_interrupted_run_stops_and_goes_on(
        self, start: Start, table: Path, tmp_path: Path, whole: pl.DataFrame
    ) -> None:
        output = tmp_path / "out.parquet"
        process = start(table, output)
        worker = stopped_worker(process)
        until(lambda: parts_of(output) > 4, process)
        process.send_signal(signal.SIGINT)
        ran = ended(process)
        assert ran.code == 130
        assert ran.err.endswith("\naisle: stopped\n")
        worker.wait(SECONDS)  # nobody works for a run that is gone
        assert ended(start(table, output, "--resume")).code == 0
        check_same(pl.read_parquet(output), whole)


class TestRefused:
    @pytest.mark.parametrize(
        ("address", "code", "said"),
        [
            ("127.0.0.1:1", 5, "Ray at 127.0.0.1:1: does not answer"),
            ("ray://127.0.0.1:10001", 2, "is no address of a cluster"),
            ("somewhere", 2, "is no HOST:PORT"),
        ],
    )
    def test_an_address_without_a_cluster(
        self, processes: Processes, here: dict[str, Any], table: Path, address: str, code: int, said: str
    ) -> None:
        ran = processes.run(
            "predict", table, "--output", "out.csv", "--engine", "ray",
            cwd=table.parent, **{**here, "RAY_ADDRESS": address},
        )  # fmt: skip
        assert ran.code == code
        assert said in ran.complaint
        assert not (table.parent / ".out.csv.parts").exists()


class TestFeatures:
    def test_what_ray_encoded_a_training_takes_and_the_bundle_is_the_same(
        self,
        processes: Processes,
        nodes: Nodes,
        here: dict[str, Any],
        prepared: Prepared,
        bundle: Bundle,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        variables = {**here, "RAY_ADDRESS": nodes.address, "CACHE_PATH": tmp_path / "cache"}
        words = ("features", "--data", prepared.folder, "--json")
        ran = processes.run(*words, "--engine", "ray", cwd=tmp_path, **variables)
        assert ran.code == 0, ran.err
        images = json.loads(ran.out)["images"]
        assert json.loads(ran.out) == {"images": images, "known": 0, "encoded": images, "broken": 0}
        again = processes.run(*words, cwd=tmp_path, **variables)
        assert json.loads(again.out) == {"images": images, "known": images, "encoded": 0, "broken": 0}

        trained = train(light(), prepared, tmp_path / "bundle", cache=tmp_path / "cache", threads=2)
        seen = capsys.readouterr()
        assert "encoding images" not in seen.out + seen.err
        told = (LINEAGE_FILE, CARD_FILE)  # the commit, which may be another meanwhile
        assert {name: content for name, content in trained.contents.items() if name not in told} == {
            name: content for name, content in bundle.contents.items() if name not in told
        }
