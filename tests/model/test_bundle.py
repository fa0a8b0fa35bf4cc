"""The bundle: whole and unaltered, or not loaded at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aisle.errors import BundleError
from aisle.files import sha256_file
from aisle.model.bundle import MANIFEST_FILE, RUN_FILE, Bundle


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def test_a_bundle_loads_from_anywhere(bundle: Bundle, copy: Path) -> None:
    assert Bundle.load(copy).version == bundle.version


def test_the_manifest_holds_the_sum_of_each_file_but_the_run(bundle: Bundle) -> None:
    sums = json.loads((bundle.path / MANIFEST_FILE).read_text())["files"]
    there = {path.name for path in bundle.path.iterdir()}
    assert set(sums) == there - {MANIFEST_FILE, RUN_FILE}
    assert all(sha256_file(bundle.path / name) == value for name, value in sums.items())


def test_a_bundle_holds_only_tables_and_graphs(bundle: Bundle) -> None:
    endings = {path.suffix for path in bundle.path.iterdir()}
    assert endings == {".json", ".safetensors", ".onnx", ".csv", ".md"}


@pytest.mark.parametrize(
    "name", ["model.json", "title.safetensors", "image.onnx", "metrics.json", "product_types.csv"]
)
def test_an_altered_file_is_refused_by_name(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=name):
        Bundle.load(copy)


@pytest.mark.parametrize("name", ["model.json", "title.json", "image.onnx"])
def test_a_missing_file_is_refused_by_name(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        Bundle.load(copy)


def test_a_manifest_whose_sums_were_altered_with_the_file_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST_FILE).read_text())
    (copy / "metrics.json").write_text("{}")
    manifest["files"]["metrics.json"] = sha256_file(copy / "metrics.json")
    (copy / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="version"):
        Bundle.load(copy)


def test_a_manifest_that_points_outside_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST_FILE).read_text())
    manifest["files"]["../secret"] = "0" * 64
    (copy / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="outside"):
        Bundle.load(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "version": "a", "files": 3}'])
def test_a_damaged_manifest_is_refused(copy: Path, content: str) -> None:
    (copy / MANIFEST_FILE).write_text(content)
    with pytest.raises(BundleError):
        Bundle.load(copy)


def test_another_format_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST_FILE).read_text())
    (copy / MANIFEST_FILE).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(BundleError, match="format 99"):
        Bundle.load(copy)


def test_no_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.load(tmp_path / "nowhere")


def test_what_differs_from_run_to_run_is_not_under_the_sums(copy: Path, bundle: Bundle) -> None:
    (copy / RUN_FILE).write_text('{"seconds": {}}')
    assert Bundle.load(copy).version == bundle.version


def test_what_was_verified_is_what_is_used(copy: Path) -> None:
    loaded = Bundle.load(copy)
    names = [one.label for one in loaded.types().values()]
    (copy / "product_types.csv").write_text("prdtypecode,label\n10,altered\n")
    assert [one.label for one in loaded.types().values()] == names


@pytest.mark.parametrize("name", ["best_lstm_model.h5", "best_vgg16.h5", "mapper.pkl", "tokenizer_config.json"])
def test_a_file_of_the_original_project_is_refused_with_the_way_on(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89HDF")
    for path in (tmp_path / name, tmp_path):  # handed over itself, or as a folder of such files
        with pytest.raises(BundleError, match="can run code when it is loaded") as refused:
            Bundle.load(path)
        assert "aisle train --recipe lstm-vgg16" in str(refused.value)
