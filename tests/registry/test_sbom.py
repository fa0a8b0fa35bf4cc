"""A bundle's bill of materials names what the bundle is made of, and nothing that changes from run to run."""

from __future__ import annotations

import json
from pathlib import Path

from aisle.cli.registry import registry
from aisle.files import read_json
from aisle.model.bundle import MANIFEST_FILE, Bundle
from aisle.registry.sbom import bill_of_materials


def test_every_file_package_and_the_data_are_named_with_their_sums(bundle: Bundle) -> None:
    found = bill_of_materials(bundle)
    files = {one["name"]: one["hashes"][0]["content"] for one in found["components"] if one["type"] == "file"}
    assert files == read_json(bundle.path / MANIFEST_FILE)["files"]
    lineage = bundle.json("lineage.json")
    packages = {one["name"]: one["version"] for one in found["components"] if one["type"] == "library"}
    assert packages == lineage["packages"]
    assert [one["version"] for one in found["components"] if one["type"] == "data"] == [lineage["data_hash"]]
    model = found["metadata"]["component"]
    assert (model["type"], model["version"]) == ("machine-learning-model", bundle.version)


def test_the_figures_have_their_intervals(bundle: Bundle) -> None:
    measured = bill_of_materials(bundle)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    of_all = {one["type"]: one for one in measured["performanceMetrics"] if one["slice"] == "all"}
    low, high = bundle.json("metrics.json")["all"]["intervals"]["weighted_f1"]
    assert of_all["weighted_f1"]["confidenceInterval"] == {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"}


def test_what_refers_to_something_refers_to_what_is_there(bundle: Bundle) -> None:
    found = bill_of_materials(bundle)
    references = {one.get("bom-ref") for one in [found["metadata"]["component"], *found["components"]]}
    for one in found["dependencies"]:
        assert {one["ref"], *one["dependsOn"]} <= references


def test_the_verb_writes_the_same_bytes_twice(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        registry.main(["sbom", str(bundle.path), "--output", str(tmp_path / name)], standalone_mode=False)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert json.loads((tmp_path / "one.json").read_text())["specVersion"] == "1.6"
