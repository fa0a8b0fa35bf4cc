"""Places: the same of a path on this machine and of a key in S3."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.batch.conftest import S3

from aisle.batch.places import Place, place_of
from aisle.errors import AisleError, InputError, ServiceMissing, UsageError

Make = Callable[[str], Place]


@pytest.fixture(params=["disk", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A place of that name, which is not there yet."""
    if request.param == "disk":
        return lambda name: Place(str(tmp_path / name))
    s3: S3 = request.getfixturevalue("s3")
    return s3.place


class TestEither:
    def test_what_was_written_is_read(self, make: Make) -> None:
        place = make("deep/er/file.csv")
        for content in (b"first", b"", bytes(range(256)) * 10_000):
            place.write_bytes(content)
            assert place.read_bytes() == content

    def test_it_is_read_at_any_position(self, make: Make) -> None:
        place = make("numbers")
        place.write_bytes(bytes(range(256)) * 20_000)
        with place.open() as stream:
            for position in (4_000_123, 0, 1_048_575, 5_119_999):
                assert stream.seek(position) == stream.tell() == position
                assert stream.read(3) == bytes([(position + i) % 256 for i in range(3)])[: 5_120_000 - position]
            assert stream.seek(-1, os.SEEK_END) == 5_119_999

    def test_what_is_created_is_there_when_it_is_whole(self, make: Make) -> None:
        place = make("out/result.csv")
        with place.create() as stream:
            stream.write(b"one ")
            assert not place.exists()
            stream.write(b"two")
        assert place.read_bytes() == b"one two"
        assert [one.name for one in make("out").files()] == ["result.csv"]

    def test_an_error_while_it_is_created_leaves_what_was_there(self, make: Make) -> None:
        place = make("out/result.csv")
        place.write_bytes(b"earlier")
        with pytest.raises(ZeroDivisionError), place.create() as stream:
            stream.write(b"half" * 3_000_000)
            raise ZeroDivisionError
        assert place.read_bytes() == b"earlier"

    def test_files_are_listed_by_name_without_those_that_are_hidden(self, make: Make) -> None:
        names = ["b.csv", "a.parquet", "sub/c.CSV", "_SUCCESS", ".x.csv", "_temporary/d.csv", "a.txt", ".tmp-a.csv"]
        for name in names:
            make(f"folder/{name}").write_bytes(b"x")
        make("folder2/z.csv").write_bytes(b"x")
        found = make("folder").files((".csv", ".parquet"))
        assert found == [make(f"folder/{name}") for name in ("a.parquet", "b.csv", "sub/c.CSV")]

    def test_a_file_is_its_own_only_one(self, make: Make) -> None:
        place = make("_in.csv")
        place.write_bytes(b"x")
        assert place.files((".parquet",)) == [place]

    def test_of_nothing_there_are_no_files(self, make: Make) -> None:
        assert make("nothing").files() == []
        assert not make("nothing").exists()

    def test_a_folder_is_removed_with_all_that_is_in_it_and_nothing_else(self, make: Make) -> None:
        for name in ("folder/a", "folder/_b/c", "folder2/d", "folder.csv"):
            make(name).write_bytes(b"x")
        for _ in range(2):  # the second time there is nothing
            make("folder").remove()
        assert not make("folder/a").exists()
        assert make("folder2/d").exists()
        assert make("folder.csv").exists()

    def test_a_file_is_removed(self, make: Make) -> None:
        make("a").write_bytes(b"x")
        make("ab").write_bytes(b"x")
        make("a").remove()
        assert (make("a").exists(), make("ab").exists()) == (False, True)

    def test_its_version_tells_a_file_of_the_same_size_from_it(self, make: Make) -> None:
        place = make("in.csv")
        place.write_bytes(b"one")
        first = place.version()
        assert place.version() == first
        if not place.is_s3:
            os.utime(place.path, ns=(0, 0))  # another time, whatever the clock is like
            assert place.version() != first
        place.write_bytes(b"three")
        assert place.version() != first

    def test_it_travels_to_other_processes(self, make: Make) -> None:
        assert pickle.loads(pickle.dumps(make("a"))) == make("a")  # noqa: S301  our own

    @pytest.mark.parametrize("act", [Place.open, Place.read_bytes, Place.version])
    def test_what_is_not_there_cannot_be_read(self, make: Make, act: Callable[[Place], object]) -> None:
        with pytest.raises((InputError, FileNotFoundError)):
            act(make("nothing.csv"))


class TestS3:
    def test_a_bucket_that_is_not_there_is_named(self, s3: S3) -> None:
        place = Place("s3://other/in.csv", s3.endpoint)
        with pytest.raises(InputError, match="there is no such file") as refused:
            place.read_bytes()
        assert str(refused.value).startswith("s3://other/in.csv: ")
        with pytest.raises(AisleError) as refused_too:
            place.write_bytes(b"x")
        assert str(refused_too.value).startswith("s3://other/in.csv: ")

    @pytest.mark.slow  # it is asked again a few times
    def test_a_server_that_is_gone_is_said_to_be_missing_within_a_minute(self, s3: S3) -> None:
        place = s3.put("in.csv", b"x")
        s3.stop()
        started = time.monotonic()
        for act in (Place.read_bytes, Place.exists, Place.files, lambda one: one.write_bytes(b"y")):
            with pytest.raises(ServiceMissing, match="the server does not answer") as missing:
                act(place)
            assert "127.0.0.1" not in str(missing.value)
        assert time.monotonic() - started < 60

    def test_no_key_is_told(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(AisleError) as refused:
            Place("s3://other/in.csv", s3.endpoint).write_bytes(b"x")
        assert "secret" not in repr(refused.value) + str(refused.value)


class TestAddresses:
    @pytest.mark.parametrize("address", ["s3://", "s3://shop", "s3://shop/", "s3:///in.csv"])
    def test_a_bucket_alone_is_no_file(self, address: str) -> None:
        with pytest.raises(UsageError, match="names no file in a bucket"):
            place_of(address)

    @pytest.mark.parametrize("address", ["http://shop/in.csv", "gs://shop/in.csv"])
    def test_other_schemes_are_refused(self, address: str) -> None:
        with pytest.raises(UsageError, match="neither a path nor s3://"):
            place_of(address)

    def test_a_path_has_no_endpoint(self) -> None:
        assert place_of("a/b.csv", "http://server") == Place("a/b.csv")

    def test_names_and_neighbours(self) -> None:
        for place in (Place("a/b.CSV"), Place("s3://shop/a/b.CSV", "x")):
            assert (place.name, place.suffix) == ("b.CSV", ".csv")
            assert place.beside("c").address == place.address.replace("b.CSV", "c")
            assert (place / "d").address == f"{place.address}/d"
        assert Place("b.csv").beside("c") == Place("c")
