"""The bundle: whole and unaltered, or not loaded at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.service.conftest import change_table, replace_file

from aisle.errors import BundleError
from aisle.files import sha256_file, sha256_json
from aisle.model.bundle import MANIFEST_FILE, RUN_FILE, Bundle
from aisle.model.predictor import Predictor


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


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[" * 100_000, '{"format": 1}', '{"format": 1, "version": "a", "files": 3}'],
)
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
        assert str(refused.value).count(name) == 1


@pytest.mark.parametrize("name", ["model.json", "known_answer.json", "metrics.json", "lineage.json"])
@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_table_that_is_none_is_refused_by_name_though_its_sum_fits(copy: Path, name: str, content: bytes) -> None:
    replace_file(copy, name, content)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        Bundle.load(copy)


@pytest.mark.parametrize("name", ["product_types.csv", "MODEL_CARD.md"])
def test_a_text_that_is_none_is_refused_by_name_though_its_sum_fits(copy: Path, name: str) -> None:
    replace_file(copy, name, b"\xff")
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        Bundle.load(copy)


@pytest.mark.parametrize("name", ["model.json", "MODEL_CARD.md"])
def test_a_file_that_the_manifest_does_not_know_is_missing(copy: Path, name: str) -> None:
    manifest = json.loads((copy / MANIFEST_FILE).read_text())
    del manifest["files"][name]
    manifest["version"] = sha256_json(manifest["files"])[:12]
    (copy / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(copy)


def without_recipe(model: dict[str, Any]) -> None:
    del model["recipe"]


def without_decision(model: dict[str, Any]) -> None:
    del model["decision"]


def with_a_threshold_in_words(model: dict[str, Any]) -> None:
    model["decision"]["thresholds"] = {model["decision"]["promise"]: "high"}


def without_temperatures(model: dict[str, Any]) -> None:
    model["temperatures"] = {}


def without_a_type(model: dict[str, Any]) -> None:
    del model["codes"][0]


def with_a_stack_that_is_nowhere(model: dict[str, Any]) -> None:
    model["fusion"]["stacks"].append("image+sound")


def with_fusion_in_words(model: dict[str, Any]) -> None:
    model["fusion"] = "as usual"


@pytest.mark.parametrize(
    "harm",
    [without_recipe, without_decision, with_a_threshold_in_words, without_temperatures, without_a_type,
     with_a_stack_that_is_nowhere, with_fusion_in_words],
)  # fmt: skip
def test_tables_that_do_not_fit_each_other_do_not_predict(copy: Path, harm: Callable[[dict[str, Any]], None]) -> None:
    change_table(copy, "model.json", harm)
    with pytest.raises(BundleError, match="tables do not fit"):
        Predictor(Bundle.load(copy), threads=1)
