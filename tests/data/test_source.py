"""Importing a catalogue: from each source, once more, after a crash, over another one, and when it goes wrong."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from aisle.catalog import TYPES_FILE, ProductTypes
from aisle.data.download import Patience
from aisle.data.raw import (
    AGREEMENT_FILE,
    IMAGES_ZIP,
    LABELS_FILE,
    RAKUTEN_TYPES,
    TEST_FILE,
    TRAIN_FILE,
    check_raw_folder,
)
from aisle.data.source import MANIFEST_FILE, ImportResult, import_catalogue
from aisle.errors import AisleError, ArchiveError, InputError, ServiceMissing, UsageError
from aisle.settings import Settings, get_settings

if TYPE_CHECKING:
    from tests.data.conftest import FileServer

Import = Callable[..., ImportResult]


def zipped(**images: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in images.items():
            packed.writestr(f"images/image_train/{name}.jpg", content)
    return buffer.getvalue()


TABLES = {
    TRAIN_FILE: b",designation,description,productid,imageid\n0,un livre,,1,2\n",
    LABELS_FILE: b",prdtypecode\n0,10\n",
}
BAD_ZIP = zipped(a=b"image").replace(b"images/image_train/a.jpg", b"../../../../../image.jpg")


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw"


@pytest.fixture
def settings() -> Settings:
    return get_settings()


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the manifest: a test sees what else an import leaves lying about."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def states(result: ImportResult) -> dict[str, str]:
    return {one.name: one.state for one in result.files}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


class TestHuggingFace:
    @pytest.fixture
    def run(self, server: FileServer, settings: Settings, patience: Patience, to: Path) -> Import:
        server.files = {f"/{name}": content for name, content in TABLES.items()}
        settings = settings.model_copy(update={"data_source_url": server.url + "/"})
        return lambda **options: import_catalogue(
            "huggingface", to, **{"settings": settings, "patience": patience, **options}
        )

    def test_all_that_is_there_arrives_and_what_is_optional_may_be_missing(
        self, run: Import, server: FileServer, to: Path
    ) -> None:
        server.files[f"/{IMAGES_ZIP}"] = zipped(a=b"image")
        result = run()
        assert contents(to) == {
            **TABLES,
            IMAGES_ZIP: server.files[f"/{IMAGES_ZIP}"],
            TYPES_FILE: RAKUTEN_TYPES.read_bytes(),
        }
        assert {(one.name, one.bytes, one.sha256) for one in result.files} == {
            (name, len(content), hashlib.sha256(content).hexdigest()) for name, content in contents(to).items()
        }

    def test_rakutens_types_come_along_when_the_source_names_none(self, run: Import, to: Path) -> None:
        assert states(run())[TYPES_FILE] == "copied"
        assert len(ProductTypes.from_csv(to / TYPES_FILE)) == 27

    def test_the_sources_own_types_come_first(self, run: Import, server: FileServer, to: Path) -> None:
        server.files[f"/{TYPES_FILE}"] = b"prdtypecode,label\n10,Livres\n"
        assert states(run())[TYPES_FILE] == "downloaded"
        assert (to / TYPES_FILE).read_bytes() == b"prdtypecode,label\n10,Livres\n"

    def test_the_labels_come_last(self, run: Import, server: FileServer) -> None:
        server.files[f"/{IMAGES_ZIP}"] = zipped(a=b"image")
        run()
        gets = [one.path for one in server.requests if one.method == "GET"]
        assert (gets[0], gets[-1]) == (f"/{TRAIN_FILE}", f"/{LABELS_FILE}")

    def test_a_second_run_asks_no_server(self, run: Import, server: FileServer) -> None:
        run()
        asked = len(server.requests)
        assert set(states(run()).values()) == {"already there"}
        assert len(server.requests) == asked

    def test_a_new_date_alone_is_no_change(self, run: Import, server: FileServer, to: Path) -> None:
        run()
        asked = len(server.requests)
        os.utime(to / TRAIN_FILE, (1, 1))
        run()
        assert len(server.requests) == asked

    @pytest.mark.parametrize("damage", [b"short", bytes(len(TABLES[LABELS_FILE])), None])
    def test_a_damaged_file_alone_is_fetched_again(
        self, run: Import, server: FileServer, to: Path, damage: bytes | None
    ) -> None:
        run()
        (to / LABELS_FILE).unlink() if damage is None else (to / LABELS_FILE).write_bytes(damage)
        result = run()
        assert (to / LABELS_FILE).read_bytes() == TABLES[LABELS_FILE]
        assert states(result)[LABELS_FILE] == "downloaded"
        assert len(server.gets(f"/{TRAIN_FILE}")) == 1

    def test_refresh_fetches_only_what_changed(self, run: Import, server: FileServer, to: Path) -> None:
        run()
        server.files[f"/{LABELS_FILE}"] = b",prdtypecode\n0,40\n"
        result = run(refresh=True)
        assert (to / LABELS_FILE).read_bytes() == b",prdtypecode\n0,40\n"
        assert states(result)[LABELS_FILE] == "downloaded"
        assert states(result)[TRAIN_FILE] == "already there"
        assert states(result)[TYPES_FILE] == "already there"
        assert len(server.gets(f"/{TRAIN_FILE}")) == 1

    def test_refresh_removes_what_the_source_no_longer_has(self, run: Import, server: FileServer, to: Path) -> None:
        server.files[f"/{AGREEMENT_FILE}"] = b",agreement\n0,0.9\n"
        run()
        del server.files[f"/{AGREEMENT_FILE}"]
        run(refresh=True)
        assert not (to / AGREEMENT_FILE).exists()

    def test_a_server_that_answers_only_to_get_will_do(self, run: Import, server: FileServer, to: Path) -> None:
        server.without_head = True
        run()
        run(refresh=True)
        assert contents(to) == {**TABLES, TYPES_FILE: RAKUTEN_TYPES.read_bytes()}

    @pytest.mark.parametrize("without_head", [False, True])
    def test_a_missing_table_is_bad_input_that_names_it(
        self, run: Import, server: FileServer, to: Path, without_head: bool
    ) -> None:
        server.without_head = without_head
        del server.files[f"/{LABELS_FILE}"]
        with pytest.raises(InputError, match=f"{server.url}/{LABELS_FILE}"):
            run()
        with pytest.raises(InputError):
            check_raw_folder(to)

    def test_a_zip_that_would_do_harm_is_refused_whole(self, run: Import, server: FileServer, to: Path) -> None:
        server.files[f"/{IMAGES_ZIP}"] = BAD_ZIP
        with pytest.raises(ArchiveError, match=f"{to / IMAGES_ZIP}: .*leads outside") as caught:
            run()
        assert caught.value.exit_code == 3
        assert [name for name in contents(to) if name.startswith(IMAGES_ZIP)] == []
        with pytest.raises(InputError):
            check_raw_folder(to)

    def test_a_source_that_gives_up_midway_is_no_catalogue_yet_and_is_completed_by_the_next_run(
        self, run: Import, server: FileServer, to: Path
    ) -> None:
        server.files[f"/{IMAGES_ZIP}"] = zipped(a=os.urandom(1 << 20))
        server.fail(f"/{IMAGES_ZIP}", send=1 << 19)
        server.fail(f"/{IMAGES_ZIP}", status=503, times=2)
        with pytest.raises(ServiceMissing, match="goes on where it stopped"):
            run()
        with pytest.raises(InputError):
            check_raw_folder(to)
        run()
        check_raw_folder(to)
        assert server.gets(f"/{IMAGES_ZIP}")[-1].range == f"bytes={1 << 19}-"
        assert len(server.gets(f"/{TRAIN_FILE}")) == 1

    def test_a_password_in_the_address_is_nowhere_to_be_seen(
        self, run: Import, server: FileServer, settings: Settings, to: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        address = server.url.replace("http://", "http://me:secret@")
        server.fail(f"/{TRAIN_FILE}", status=503)
        run(settings=settings.model_copy(update={"data_source_url": address}))
        assert (to / MANIFEST_FILE).exists()
        assert b"secret" not in b"".join(path.read_bytes() for path in to.iterdir())
        shown = capfd.readouterr()
        assert "fetching again" in shown.out + shown.err
        assert "secret" not in shown.out + shown.err


class TestCrash:
    """A real process that is killed, and one whose disk is full."""

    CODE = """
import resource, sys
from pathlib import Path
from aisle.data.source import import_catalogue
from aisle.errors import AisleError
from aisle.settings import get_settings
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    import_catalogue("huggingface", Path(sys.argv[1]), settings=get_settings())
except AisleError as error:
    print(error)
    sys.exit(error.exit_code)
"""

    @pytest.fixture
    def settings(self, server: FileServer, settings: Settings) -> Settings:
        server.files = {f"/{name}": content for name, content in TABLES.items()}
        server.files[f"/{IMAGES_ZIP}"] = zipped(a=os.urandom(1 << 20))
        return settings.model_copy(update={"data_source_url": server.url})

    def start(self, to: Path, settings: Settings, *, limit: int = 0) -> subprocess.Popen[str]:
        environment = {**os.environ, "DATA_SOURCE_URL": settings.data_source_url}
        command = [sys.executable, "-c", self.CODE, str(to), str(limit)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def test_a_killed_import_goes_on_where_it_stopped(self, server: FileServer, settings: Settings, to: Path) -> None:
        server.fail(f"/{IMAGES_ZIP}", send=1 << 19, stall=True)
        part = to / f"{IMAGES_ZIP}.part"
        with self.start(to, settings) as process:
            deadline = time.monotonic() + 30
            while not (part.exists() and part.stat().st_size > 1 << 18) and time.monotonic() < deadline:
                server.released.wait(0.01)
            process.send_signal(signal.SIGKILL)
        assert part.stat().st_size > 1 << 18
        assert not (to / IMAGES_ZIP).exists()

        import_catalogue("huggingface", to, settings=settings)
        assert (to / IMAGES_ZIP).read_bytes() == server.files[f"/{IMAGES_ZIP}"]
        assert contents(to).keys() == {*TABLES, IMAGES_ZIP, TYPES_FILE}
        start = int(server.gets(f"/{IMAGES_ZIP}")[-1].range.removeprefix("bytes=").rstrip("-"))
        assert start > 1 << 18

    def test_a_full_disk_is_one_clear_line_and_no_half_file(
        self, server: FileServer, settings: Settings, to: Path
    ) -> None:
        with self.start(to, settings, limit=1 << 19) as process:
            out, _ = process.communicate(timeout=60)
        line = out.splitlines()[-1]
        assert process.returncode == 1
        assert "cannot be read or written: File too large" in line
        assert "run the same command again" in line
        assert not (to / IMAGES_ZIP).exists()
        import_catalogue("huggingface", to, settings=settings)
        assert (to / IMAGES_ZIP).read_bytes() == server.files[f"/{IMAGES_ZIP}"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


class TestS3:
    @pytest.fixture(autouse=True)
    def keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
        }.items():
            monkeypatch.setenv(name, value)

    @pytest.fixture
    def bucket(self, address: str) -> Iterator[Any]:
        resource = boto3.Session().resource("s3", endpoint_url=address)
        bucket = resource.create_bucket(Bucket="shop")
        for name, content in TABLES.items():
            bucket.put_object(Key=f"catalogue/{name}", Body=content)
        yield bucket
        bucket.objects.all().delete()
        bucket.delete()
        resource.meta.client.close()

    @pytest.fixture
    def run(self, address: str, settings: Settings, patience: Patience, to: Path) -> Import:
        settings = settings.model_copy(update={"s3_endpoint_url": address})

        def run(source: str = "s3://shop/catalogue", **options: Any) -> ImportResult:
            return import_catalogue(source, to, **{"settings": settings, "patience": patience, **options})

        return run

    def test_tables_gold_rows_and_images_arrive_and_nothing_else(self, run: Import, bucket: Any, to: Path) -> None:
        wanted = {
            "gold_dev.csv": b"gold",
            **{f"image_train/image_{n}_product_{n}.jpg": os.urandom(999) for n in range(20)},
            "image_test/deeper/a.PNG": b"png",
        }
        for name, content in {**wanted, "image_train/": b"", "notes.txt": b"x", "models/a.csv": b"x"}.items():
            bucket.put_object(Key=f"catalogue/{name}", Body=content)
        bucket.put_object(Key="catalogue_old/gold_old.csv", Body=b"x")
        result = run()
        assert contents(to) == {**TABLES, **wanted}
        assert set(states(result).values()) == {"downloaded"}
        assert result.as_dict()["images"] == {"files": 21, "bytes": 20 * 999 + 3, "already_there": 0}

    def test_a_whole_bucket_is_a_source_too(self, run: Import, bucket: Any, to: Path) -> None:
        for name, content in TABLES.items():
            bucket.put_object(Key=name, Body=content)
        run("s3://shop")
        assert contents(to) == TABLES

    def test_more_objects_than_one_page_of_a_listing_arrive(
        self, run: Import, bucket: Any, to: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        images = {f"image_train/{n}.jpg": b"image" for n in range(9)}
        for name, content in images.items():
            bucket.put_object(Key=f"catalogue/{name}", Body=content)
        run()
        assert contents(to) == {**TABLES, **images}

    def test_a_second_run_asks_no_server(self, run: Import, bucket: Any, caplog: pytest.LogCaptureFixture) -> None:
        bucket.put_object(Key="catalogue/image_train/a.jpg", Body=b"image")
        run()
        assert any("GET /shop/catalogue/image_train/a.jpg" in line for line in caplog.messages)
        caplog.clear()
        assert set(states(run()).values()) == {"already there"}
        assert not [line for line in caplog.messages if "GET /" in line]

    def test_refresh_fetches_what_changed_and_removes_what_is_gone(self, run: Import, bucket: Any, to: Path) -> None:
        for name in ("a", "b", "c"):
            bucket.put_object(Key=f"catalogue/image_train/{name}.jpg", Body=b"image")
        run()
        bucket.put_object(Key="catalogue/image_train/b.jpg", Body=b"another")
        bucket.Object("catalogue/image_train/c.jpg").delete()
        result = run(refresh=True)
        assert contents(to) == {**TABLES, "image_train/a.jpg": b"image", "image_train/b.jpg": b"another"}
        assert [one.name for one in result.files if one.state == "downloaded"] == ["image_train/b.jpg"]

    def test_bytes_that_differ_from_the_checksum_of_the_server_are_not_taken(
        self, run: Import, bucket: Any, to: Path
    ) -> None:
        stored = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets["shop"].keys[f"catalogue/{TRAIN_FILE}"]
        stored._etag = "0" * 32
        with pytest.raises(ServiceMissing, match="checksum"):
            run()
        assert contents(to) == {}

    def test_an_object_that_leads_outside_is_refused_before_anything_is_fetched(
        self, run: Import, bucket: Any, to: Path
    ) -> None:
        bucket.put_object(Key="catalogue/image_train/../../../escaped.jpg", Body=b"x")
        with pytest.raises(InputError, match="leads outside"):
            run()
        assert contents(to) == {}

    def test_a_prefix_without_a_catalogue_is_bad_input(self, run: Import, bucket: Any) -> None:
        with pytest.raises(InputError, match=f"s3://shop/elsewhere/: is not a catalogue: {TRAIN_FILE}") as caught:
            run("s3://shop/elsewhere")
        assert caught.value.exit_code == 3

    def test_a_missing_bucket_is_a_missing_service(self, run: Import) -> None:
        with pytest.raises(ServiceMissing, match="NoSuchBucket") as caught:
            run("s3://nowhere/catalogue")
        assert caught.value.exit_code == 5

    def test_missing_keys_are_a_missing_service_that_says_what_to_set(
        self, run: Import, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ServiceMissing, match="AWS_ACCESS_KEY_ID"):
            run()

    @pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "localhost:9000"])
    def test_a_server_that_cannot_be_used_is_a_missing_service_that_names_the_setting(
        self, run: Import, settings: Settings, endpoint: str
    ) -> None:
        with pytest.raises(ServiceMissing, match="S3_ENDPOINT_URL"):
            run(settings=settings.model_copy(update={"s3_endpoint_url": endpoint}))

    def test_an_address_without_a_bucket_is_wrong_use(self, run: Import) -> None:
        with pytest.raises(UsageError, match="bucket"):
            run("s3://")

    def test_no_signature_and_no_key_is_written_or_logged(
        self, run: Import, bucket: Any, to: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        bucket.put_object(Key=f"catalogue/{IMAGES_ZIP}", Body=zipped(a=os.urandom(1 << 19)))
        capfd.readouterr()
        run()
        logged = [line for line in "".join(capfd.readouterr()).splitlines() if '"GET /' not in line]
        assert any("file imported" in line for line in logged)
        seen = "".join(logged) + (to / MANIFEST_FILE).read_text()
        assert "Signature" not in seen
        assert "Credential" not in seen


class TestFolder:
    FILES = {  # noqa: RUF012
        **TABLES,
        TEST_FILE: b"test",
        AGREEMENT_FILE: b"agreement",
        "gold_dev.csv": b"gold",
        "image_train/a.jpg": b"image a",
        "image_test/b.webp": b"image b",
    }

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write(tmp_path / "shop", {**self.FILES, "notes.txt": b"x", "image_train/.hidden.jpg": b"x"})

    @pytest.fixture
    def run(self, folder: Path, settings: Settings, to: Path) -> Import:
        return lambda source=folder, target=to, **options: import_catalogue(
            str(source), target, settings=settings, **options
        )

    def test_a_catalogue_is_copied_with_its_images_and_without_the_rest(
        self, run: Import, folder: Path, to: Path
    ) -> None:
        before = contents(folder)
        result = run()
        assert contents(to) == self.FILES
        assert set(states(result).values()) == {"copied"}
        assert contents(folder) == before

    def test_a_zip_is_copied_as_it_is(self, run: Import, folder: Path, to: Path) -> None:
        content = zipped(a=b"image")
        write(folder, {IMAGES_ZIP: content})
        run()
        assert (to / IMAGES_ZIP).read_bytes() == content

    @pytest.mark.parametrize("content", [BAD_ZIP, b"no zip", zipped(a=b"image")[:-5]])
    def test_a_zip_that_is_refused_is_not_left_there(
        self, run: Import, folder: Path, to: Path, content: bytes
    ) -> None:
        write(folder, {IMAGES_ZIP: content})
        with pytest.raises(ArchiveError):
            run()
        assert not [name for name in contents(to) if "zip" in name]

    def test_a_second_run_writes_nothing(self, run: Import, to: Path) -> None:
        run()
        before = {path: path.stat().st_ino for path in to.rglob("*") if path.name != MANIFEST_FILE}
        assert set(states(run()).values()) == {"already there"}
        assert {path: path.stat().st_ino for path in to.rglob("*") if path.name != MANIFEST_FILE} == before

    def test_what_changed_in_the_folder_is_copied_again(self, run: Import, folder: Path, to: Path) -> None:
        run()
        write(folder, {"image_train/a.jpg": b"image c", LABELS_FILE: b",prdtypecode\n0,40\n"})
        (folder / "gold_dev.csv").unlink()
        result = run()
        assert {one.name for one in result.files if one.state == "copied"} == {"image_train/a.jpg", LABELS_FILE}
        assert (to / "image_train/a.jpg").read_bytes() == b"image c"
        assert not (to / "gold_dev.csv").exists()

    def test_a_folder_imported_into_itself_stays_as_it_is(self, run: Import, folder: Path) -> None:
        before = contents(folder)
        result = run(target=folder)
        assert contents(folder) == before
        assert {one.name for one in result.files} == self.FILES.keys()
        assert set(states(result).values()) == {"already there"}

    @pytest.mark.parametrize("missing", [TRAIN_FILE, LABELS_FILE])
    def test_a_folder_without_a_table_is_bad_input(self, run: Import, folder: Path, to: Path, missing: str) -> None:
        (folder / missing).unlink()
        with pytest.raises(InputError, match=missing):
            run()
        assert not to.exists()

    def test_a_folder_that_is_not_there_is_bad_input(self, run: Import, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            run(source=tmp_path / "nowhere")


class TestSample:
    def test_a_generated_catalogue_is_the_same_each_time_and_made_once(
        self, to: Path, settings: Settings, tmp_path: Path
    ) -> None:
        first = import_catalogue("sample", to, settings=settings, rows=54)
        check_raw_folder(to)
        assert set(states(first).values()) == {"generated"}
        assert contents(to).keys() == {one.name for one in first.files}
        again = import_catalogue("sample", to, settings=settings, rows=54)
        assert set(states(again).values()) == {"already there"}
        elsewhere = import_catalogue("sample", tmp_path / "other", settings=settings, rows=54)
        assert [one.sha256 for one in elsewhere.files] == [one.sha256 for one in first.files]

    @pytest.mark.parametrize("other", [{"rows": 60}, {"rows": 54, "seed": 1}])
    def test_other_rows_or_another_seed_make_another_one(
        self, to: Path, settings: Settings, other: dict[str, int]
    ) -> None:
        first = import_catalogue("sample", to, settings=settings, rows=54)
        second = import_catalogue("sample", to, settings=settings, rows=other["rows"], seed=other.get("seed", 0))
        assert {one.sha256 for one in first.files} != {one.sha256 for one in second.files}


class TestAnotherSource:
    """What is in the folder already is replaced if an import put it there, and left alone if not."""

    @pytest.fixture
    def run(self, settings: Settings, to: Path) -> Import:
        return lambda source: import_catalogue(str(source), to, settings=settings)

    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        extra = {AGREEMENT_FILE: b"old", TYPES_FILE: b"old", "gold_dev.csv": b"old", "image_train/a.jpg": b"old"}
        return write(tmp_path / "old", {**TABLES, **extra})

    @pytest.fixture
    def new(self, tmp_path: Path) -> Path:
        files = {name: content.replace(b"0,", b"1,") for name, content in TABLES.items()}
        return write(tmp_path / "new", files)

    def test_the_new_one_takes_the_place_of_all_that_was_imported(
        self, run: Import, old: Path, new: Path, to: Path
    ) -> None:
        run(old)
        write(to, {"notes.txt": b"mine"})
        run(new)
        assert contents(to) == {**contents(new), "notes.txt": b"mine"}
        assert not (to / "image_train").exists()

    def test_a_replacement_that_stops_midway_is_no_catalogue_until_it_is_done(
        self, run: Import, old: Path, new: Path, to: Path
    ) -> None:
        run(old)
        write(new, {IMAGES_ZIP: b"no zip"})
        with pytest.raises(ArchiveError):
            run(new)
        with pytest.raises(InputError, match=LABELS_FILE):
            check_raw_folder(to)
        run(old)
        assert contents(to) == contents(old)

    def test_a_replacement_that_stopped_before_its_first_file_is_completed_by_the_next_run(
        self,
        run: Import,
        old: Path,
        to: Path,
        server: FileServer,
        settings: Settings,
        patience: Patience,
    ) -> None:
        new = {**contents(old), **dict.fromkeys(TABLES, b"new")}
        del new["gold_dev.csv"], new["image_train/a.jpg"]
        server.files = {f"/{name}": content for name, content in new.items()}
        settings = settings.model_copy(update={"data_source_url": server.url})
        server.fail(f"/{TRAIN_FILE}", status=503, times=patience.attempts)
        run(old)
        with pytest.raises(ServiceMissing):
            import_catalogue("huggingface", to, settings=settings, patience=patience)
        assert contents(to) == contents(old)
        import_catalogue("huggingface", to, settings=settings, patience=patience)
        assert contents(to) == new

    def test_a_file_that_arrived_just_before_a_crash_is_known_as_its_own(
        self, run: Import, new: Path, to: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def crash(*anything: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("aisle.data.source._Import._note", crash)
        with pytest.raises(KeyboardInterrupt):
            run(new)
        monkeypatch.undo()
        assert contents(to).keys() == {TRAIN_FILE}
        run(new)
        assert contents(to) == contents(new)

    def test_a_source_that_cannot_be_reached_costs_nothing(
        self, run: Import, old: Path, to: Path, settings: Settings, patience: Patience
    ) -> None:
        run(old)
        dead = settings.model_copy(update={"data_source_url": "http://127.0.0.1:9/"})
        with pytest.raises(ServiceMissing):
            import_catalogue("huggingface", to, settings=dead, patience=patience)
        assert contents(to) == contents(old)

    def test_a_catalogue_that_no_import_put_there_is_never_touched(self, run: Import, new: Path, to: Path) -> None:
        write(to, {AGREEMENT_FILE: b"mine"})
        with pytest.raises(UsageError, match=AGREEMENT_FILE) as caught:
            run(new)
        assert caught.value.exit_code == 2
        assert contents(to) == {AGREEMENT_FILE: b"mine"}

    def test_a_file_of_ones_own_stays_if_the_source_has_none_of_that_name(
        self, run: Import, old: Path, new: Path, to: Path
    ) -> None:
        run(new)
        write(to, {"gold_mine.csv": b"mine"})
        run(old)
        assert contents(to) == {**contents(old), "gold_mine.csv": b"mine"}

    def test_a_file_of_ones_own_is_not_replaced_by_one_of_the_same_name(
        self, run: Import, old: Path, new: Path, to: Path
    ) -> None:
        run(new)
        write(to, {TYPES_FILE: b"mine"})
        with pytest.raises(UsageError, match=TYPES_FILE):
            run(old)
        assert contents(to) == {**contents(new), TYPES_FILE: b"mine"}

    @pytest.mark.parametrize("again", ["old", "new"])
    def test_a_table_that_was_changed_by_hand_is_kept_under_another_name(
        self, run: Import, old: Path, new: Path, to: Path, again: str
    ) -> None:
        run(old)
        write(to, {TYPES_FILE: b"changed"})
        source = old if again == "old" else new
        run(source)
        assert contents(to) == {**contents(source), f"{TYPES_FILE}.bak": b"changed"}

    def test_a_manifest_cannot_have_a_file_outside_removed(self, run: Import, old: Path, new: Path, to: Path) -> None:
        run(old)
        manifest = json.loads((to / MANIFEST_FILE).read_text())
        manifest["files"]["image_train/../../../victim.jpg"] = None
        (to / MANIFEST_FILE).write_text(json.dumps(manifest))
        victim = to.parent.parent / "victim.jpg"
        victim.write_bytes(b"here")
        with pytest.raises(InputError, match=MANIFEST_FILE):
            run(new)
        assert victim.exists()

    def test_two_imports_into_one_folder_do_not_run_at_once(self, run: Import, old: Path, to: Path) -> None:
        to.mkdir(parents=True)
        handle = os.open(to, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match="another import"):
                run(old)
        finally:
            os.close(handle)
        run(old)


@pytest.mark.parametrize("source", ["ftp://shop/catalogue", "http://shop/catalogue", "file:///shop", ""])
def test_another_kind_of_source_is_wrong_use_and_the_four_are_named(
    source: str, to: Path, settings: Settings
) -> None:
    with pytest.raises(UsageError, match="sample, huggingface, s3://BUCKET/PREFIX or a folder") as caught:
        import_catalogue(source, to, settings=settings)
    assert caught.value.exit_code == 2
    assert not to.exists()


def test_a_target_that_is_a_file_is_wrong_use(to: Path, settings: Settings) -> None:
    write(to.parent, {to.name: b"a file"})
    with pytest.raises(UsageError, match="not a folder"):
        import_catalogue("sample", to, settings=settings)


def test_a_target_that_cannot_be_written_is_one_clear_line(to: Path, settings: Settings) -> None:
    with pytest.raises(AisleError, match="/proc/nowhere: cannot be read or written"):
        import_catalogue("sample", Path("/proc/nowhere"), settings=settings)


def test_the_result_for_machines_is_json(to: Path, settings: Settings) -> None:
    found = json.loads(json.dumps(import_catalogue("sample", to, settings=settings, rows=54).as_dict()))
    assert found["source"] == "sample"
    assert {one["name"] for one in found["files"]} >= TABLES.keys()
    assert {frozenset(one) for one in found["files"]} == {frozenset({"name", "bytes", "sha256", "state"})}
