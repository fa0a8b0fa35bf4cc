"""What the generated catalogue promises: the challenge's layout and dirt, the same bytes for a seed."""

from __future__ import annotations

import csv
import errno
import io
import re
import tomllib
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aisle.catalog import TYPES_FILE, ProductTypes
from aisle.data.raw import (
    IMAGES_ZIP,
    LABELS_FILE,
    RAKUTEN_TYPES,
    TEST_FILE,
    TRAIN_FILE,
    check_raw_folder,
    image_stem,
    read_products,
)
from aisle.data.sample import catalogue, write_sample
from aisle.data.sample.plan import Row
from aisle.data.sample.texts import description
from aisle.data.sample.words import WORDS_PATH
from aisle.errors import UsageError

FILES = {TRAIN_FILE, LABELS_FILE, TEST_FILE, IMAGES_ZIP, TYPES_FILE}


@dataclass(frozen=True)
class Catalogue:
    """A generated folder, read with nothing but the standard library."""

    folder: Path

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    def column(self, name: str, column: str) -> list[str]:
        return [row[column] for row in self.rows(name)]

    def codes(self) -> list[str]:
        return self.column(LABELS_FILE, "prdtypecode")

    def images(self, part: str = "train") -> list[bytes | None]:
        """The image file of each product in the table's order, None where it is missing."""
        rows = self.rows(TRAIN_FILE if part == "train" else TEST_FILE)
        with zipfile.ZipFile(self.folder / IMAGES_ZIP) as archive:
            there = set(archive.namelist())
            names = [f"images/image_{part}/{image_stem(row['productid'], row['imageid'])}.jpg" for row in rows]
            return [archive.read(name) if name in there else None for name in names]

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


def generate(folder: Path, rows: int, seed: int = 0) -> Catalogue:
    write_sample(folder, rows=rows, seed=seed)
    return Catalogue(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return generate(tmp_path_factory.mktemp("tiny"), rows=54)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return generate(tmp_path_factory.mktemp("large"), rows=1000)


def test_the_same_rows_and_seed_give_the_same_bytes(tiny: Catalogue, tmp_path: Path) -> None:
    assert generate(tmp_path, rows=54).contents() == tiny.contents()


def test_another_seed_gives_another_catalogue(tiny: Catalogue, tmp_path: Path) -> None:
    other = generate(tmp_path, rows=54, seed=1)
    for column in ("designation", "description"):
        assert other.column(TRAIN_FILE, column) != tiny.column(TRAIN_FILE, column)
    assert not set(other.images()) & set(tiny.images())


def test_products_stay_the_same_when_the_catalogue_grows(tmp_path: Path) -> None:
    small, grown = generate(tmp_path / "small", rows=80), generate(tmp_path / "grown", rows=120)
    assert grown.rows(TRAIN_FILE)[:80] == small.rows(TRAIN_FILE)
    assert grown.codes()[:80] == small.codes()
    assert grown.images()[:80] == small.images()


def test_the_folder_has_the_challenges_files_and_headers(tiny: Catalogue) -> None:
    assert set(tiny.contents()) == FILES
    for name in (TRAIN_FILE, TEST_FILE):
        assert list(tiny.rows(name)[0]) == ["", "designation", "description", "productid", "imageid"]
    assert list(tiny.rows(LABELS_FILE)[0]) == ["", "prdtypecode"]
    check_raw_folder(tiny.folder)


def test_the_loading_code_reads_it_back(large: Catalogue) -> None:
    table = read_products(large.folder / TRAIN_FILE)
    assert table["title"].to_list() == large.column(TRAIN_FILE, "designation")
    assert table["description"].null_count() == large.column(TRAIN_FILE, "description").count("")


def test_keys_count_up_through_training_and_test_products(tiny: Catalogue) -> None:
    assert tiny.column(TRAIN_FILE, "") == [str(key) for key in range(54)]
    assert tiny.column(LABELS_FILE, "") == tiny.column(TRAIN_FILE, "")
    assert tiny.column(TEST_FILE, "") == [str(key) for key in range(54, 60)]


def test_no_two_products_share_their_ids(large: Catalogue) -> None:
    for column in ("productid", "imageid"):
        ids = large.column(TRAIN_FILE, column) + large.column(TEST_FILE, column)
        assert len(set(ids)) == len(ids)


def test_the_table_of_types_has_the_27_in_the_order_of_their_codes(tiny: Catalogue) -> None:
    types = ProductTypes.from_csv(tiny.folder / TYPES_FILE)
    assert list(types) == sorted(types, key=int)
    assert len(types) == 27
    assert types["2583"].label == "Piscine et accessoires"


def test_words_are_there_for_exactly_the_types_of_the_table() -> None:
    assert set(tomllib.loads(WORDS_PATH.read_text(encoding="utf-8"))["types"]) == set(
        ProductTypes.from_csv(RAKUTEN_TYPES)
    )


def test_the_smallest_catalogue_has_every_type_twice(tiny: Catalogue) -> None:
    assert Counter(tiny.codes()) == dict.fromkeys(ProductTypes.from_csv(RAKUTEN_TYPES), 2)


def test_types_are_as_unequal_as_in_the_real_catalogue(large: Catalogue) -> None:
    count = Counter(large.codes())
    assert 90 < count["2583"] < 150
    assert count.most_common(1)[0][0] == "2583"
    assert min(count.values()) < 20


def test_titles_have_2_to_25_words(large: Catalogue) -> None:
    lengths = [len(title.split()) for title in large.column(TRAIN_FILE, "designation")]
    assert min(lengths) == 2
    assert 20 <= max(lengths) <= 25


def test_no_slot_of_a_pattern_stays_unfilled(large: Catalogue) -> None:
    texts = large.column(TRAIN_FILE, "designation") + large.column(TRAIN_FILE, "description")
    assert not [text for text in texts if re.search(r"[{}|]", text)]


def test_images_are_jpegs_of_500_by_500(tiny: Catalogue) -> None:
    images = tiny.images() + tiny.images("test")
    assert len(images) == 60
    for content in images:
        with Image.open(io.BytesIO(content or b"")) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (500, 500))


def test_about_a_third_of_the_products_have_no_description(large: Catalogue) -> None:
    assert 0.25 < large.column(TRAIN_FILE, "description").count("") / 1000 < 0.45


@pytest.mark.parametrize("dirt", ["&eacute;", "&#39;", "&amp;eacute;", "Ã©", "<br>", "<p>", "<b>"])
def test_descriptions_are_dirty(large: Catalogue, dirt: str) -> None:
    assert any(dirt in text for text in large.column(TRAIN_FILE, "description"))


def test_a_few_titles_stand_twice(large: Catalogue) -> None:
    titles = large.column(TRAIN_FILE, "designation")
    assert 0.005 < 1 - len(set(titles)) / len(titles) < 0.03


def test_some_products_share_their_image(large: Catalogue) -> None:
    images = large.images()
    assert 0.03 < 1 - len(set(images)) / len(images) < 0.09


def test_some_images_are_another_one_encoded_anew(large: Catalogue) -> None:
    different = sorted({content for content in large.images() if content})
    pixels = [thumbnail(content) for content in different if is_whole(content)]
    grid = np.stack(pixels).reshape(len(pixels), -1)
    alike = sum(int((np.abs(grid[:i] - grid[i]).mean(axis=1) < 1).sum()) for i in range(1, len(grid)))
    assert 10 <= alike <= 60


def test_a_catalogue_of_1000_has_one_broken_image_of_each_kind(large: Catalogue) -> None:
    images = large.images()
    assert images.count(None) == 1
    assert images.count(b"") == 1
    assert sum(not is_whole(content) for content in images if content) == 1


def test_a_catalogue_of_200_has_no_broken_image(tmp_path: Path) -> None:
    assert all(content and is_whole(content) for content in generate(tmp_path, rows=200).images())


def test_the_zip_tells_nothing_of_time_or_machine(tiny: Catalogue) -> None:
    with zipfile.ZipFile(tiny.folder / IMAGES_ZIP) as archive:
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {(entry.create_system, entry.external_attr) for entry in entries} == {(3, 0o644 << 16)}


@pytest.mark.parametrize("rows", [-1, 0, 53, 100_001])
def test_a_size_outside_the_bounds_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(UsageError, match=r"54 to 100,000 rows, not .*\d"):
        write_sample(tmp_path / "new", rows=rows)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the tenth image."""
    write = zipfile.ZipFile.writestr
    written: list[str] = []

    def writestr(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, content: bytes) -> None:
        if len(written) == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(entry.filename)
        write(archive, entry, content)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", writestr)


@pytest.mark.usefixtures("full_disk")
def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_sample(tmp_path / "new", rows=54)
    assert list((tmp_path / "new").iterdir()) == []


def test_an_interrupted_table_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted_at_row_30(row: Row) -> str:
        if row.key == 30:
            raise KeyboardInterrupt
        return description(row)

    monkeypatch.setattr(catalogue, "description", interrupted_at_row_30)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path, rows=54)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {TRAIN_FILE, LABELS_FILE}


def test_an_interrupted_write_leaves_the_earlier_catalogue_whole(
    tiny: Catalogue, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    earlier = generate(tmp_path, rows=54)
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="No space left"):
        write_sample(tmp_path, rows=60, seed=1)
    assert earlier.contents() == tiny.contents()


def is_whole(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except OSError:
        return False
    return True


def thumbnail(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.int16)
