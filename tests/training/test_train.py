"""Training: same data, code and seed give the same bytes, and the checked-in figures."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from threadpoolctl import threadpool_limits

from aisle.data.images import Images
from aisle.data.prepare import Prepared
from aisle.errors import BundleError, CatalogError, ImageError
from aisle.files import read_json, sha256_file
from aisle.model.bundle import RUN_FILE, Bundle
from aisle.model.calibration import calibrated
from aisle.model.image import Features, ImageEncoder
from aisle.training import efficientnet
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples
from aisle.training.features import FeatureCache, compute_features
from aisle.training.heads import fit_text_head
from aisle.training.recipes import TextTraining, light
from aisle.training.train import train

GOLDEN = Path(__file__).with_name("golden.json")


def test_a_golden_run_gives_the_checked_in_figures(bundle: Bundle) -> None:
    """To renew them after a change that is meant to change them: delete golden.json and run the test once."""
    found = golden_figures(bundle.json("metrics.json"))
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
        pytest.fail("golden.json was missing and is written anew; look at it and run again")
    assert found == read_json(GOLDEN)


def golden_figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Log-loss and calibration to four digits: the last bits of a float differ between processors."""
    figures = {}
    for name in ("all", "title", "description", "image"):
        one = metrics[name]
        exact = {key: one[key] for key in ("rows", "accuracy", "weighted_f1", "macro_f1", "top_3", "coverage")}
        figures[name] = {**exact, "log_loss": round(one["log_loss"], 4)}
    return figures


def test_the_same_data_code_and_seed_give_the_same_sums(
    prepared: Prepared, bundle: Bundle, cache: Path, tmp_path: Path
) -> None:
    with threadpool_limits(2, "blas"):  # as on a machine with more cores
        again = train(light(), prepared, tmp_path / "again", cache=cache, threads=1)
    assert again.version == bundle.version
    for path in bundle.path.iterdir():
        if path.name != RUN_FILE:
            assert sha256_file(path) == sha256_file(again.path / path.name), path.name


def test_a_finished_training_leaves_no_checkpoint(bundle: Bundle, cache: Path) -> None:
    assert bundle.version
    assert list((cache / "training").rglob("*.safetensors")) == []


def test_images_are_encoded_once(prepared: Prepared, bundle: Bundle, cache: Path) -> None:
    def refuse(_: bytes) -> np.ndarray:
        raise AssertionError("encoded again")

    table = prepared.products().drop_nulls("image")
    wanted = dict(table.select("image_sha256", "image").iter_rows())
    images = prepared.images()
    assert images is not None
    graph = efficientnet.encoder(["lite0"])
    found = compute_features(images, refuse, wanted, FeatureCache(cache / "features", graph), threads=1)
    assert set(found) == set(wanted)


def test_cached_features_are_those_of_the_bundles_encoder(prepared: Prepared, bundle: Bundle, cache: Path) -> None:
    graph = bundle.encoder_graph()
    images = prepared.images()
    assert graph is not None
    assert images is not None
    sha256, stem = prepared.products().drop_nulls("image").select("image_sha256", "image").row(0)
    cached = FeatureCache(cache / "features", graph).load([sha256])
    assert (ImageEncoder(graph)(images.read(stem)) == cached[sha256]).all()


def test_a_damaged_shard_is_computed_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, b"graph")
    cache.save({"00" * 32: np.ones(4, np.float32)})
    [shard] = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:50])
    assert cache.load(["00" * 32]) == {}


def zeros(_: bytes) -> Features:
    return np.zeros(4, np.float32)


def test_an_image_that_changed_since_validation_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    images = prepared.images()
    assert images is not None
    stem = prepared.products().drop_nulls("image")["image"][0]
    with pytest.raises(ImageError, match="another one than when"):
        compute_features(images, zeros, {"ab" * 32: stem}, FeatureCache(tmp_path, b"g"), threads=1)


def test_a_stage_that_was_finished_is_not_computed_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def compute() -> dict[str, np.ndarray]:
        calls.append("computed")
        return {"a": np.arange(3, dtype=np.float32)}

    for _ in range(2):
        assert Checkpoints(tmp_path, "run").get("stage", compute)["a"].tolist() == [0, 1, 2]
    Checkpoints(tmp_path, "another run").get("stage", compute)
    assert calls == ["computed"] * 2


def test_a_checkpoint_that_is_not_the_expected_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"something else")
    with pytest.raises(BundleError, match="hash differs"):
        efficientnet.read_checkpoint(path, efficientnet.NETWORKS["lite0"].sha256)


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"".join(pickle.dumps(one) for one in (1, 2, 3, Malice())))
    with pytest.raises(BundleError, match="which is no tensor"):
        efficientnet.read_checkpoint(path, sha256_file(path))
    assert "executed" not in capsys.readouterr().out


def test_a_type_without_a_row_is_never_proposed_by_that_model_alone() -> None:
    import scipy.sparse as sp

    rows = sp.csr_matrix(np.eye(6, dtype=np.float32))
    targets = np.array([0, 0, 2, 2, 3, 3])
    head = fit_text_head(rows, targets, np.ones(6), 5, TextTraining(epochs=2), 0, threads=1)
    scores = rows @ head["weights"] + head["bias"]
    assert not set(scores.argmax(axis=1)) & {1, 4}


def test_a_type_that_never_had_a_description_survives_one() -> None:
    sure_title = np.array([[0.0, 4.0, 0.0]], np.float32)
    description = np.array([[1.0, -np.inf, 0.0]], np.float32)  # the model of descriptions never saw type 1
    logs = calibrated({"title": sure_title, "description": description}, {"title": 1.0, "description": 1.0})
    assert np.allclose(np.exp(logs["description"]).sum(), 1)
    assert np.exp(logs["description"][0, 1]) == pytest.approx(1 / 3)
    assert (logs["title"] + logs["description"]).argmax() == 1


def test_a_catalogue_without_images_trains_on_texts(prepared: Prepared, cache: Path, tmp_path: Path) -> None:
    bundle = train(light(), without(prepared, tmp_path, "image"), tmp_path / "b", cache=cache, threads=2)
    assert bundle.classifier().models.names() == ("title", "description")
    assert bundle.encoder_graph() is None


def test_few_descriptions_are_not_learnt_from(prepared: Prepared, cache: Path, tmp_path: Path) -> None:
    bundle = train(light(), without(prepared, tmp_path, "description"), tmp_path / "b", cache=cache, threads=2)
    assert bundle.classifier().models.names() == ("title", "image")


def test_one_type_is_nothing_to_learn(prepared: Prepared, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="nothing to learn"):
        train(light(), without(prepared, tmp_path, "types"), tmp_path / "b", cache=cache, threads=2)
    assert not (tmp_path / "b").exists()


def without(prepared: Prepared, folder: Path, what: str) -> Prepared:
    """The prepared catalogue as if it had come without images, without descriptions, or with a single type."""
    import dataclasses
    import shutil

    copy = Path(shutil.copytree(prepared.folder, folder / "without"))
    table = prepared.products()
    if what == "image":
        table = table.with_columns(image=pl.lit(None, pl.String), image_sha256=pl.lit(None, pl.String))
    elif what == "description":
        table = table.with_columns(description=pl.lit(""))
    else:
        table = table.with_columns(type_code=pl.lit("10"))
    table.write_parquet(copy / "products.parquet")
    images = prepared.folder / prepared.images_path if prepared.images_path and what != "image" else None
    return dataclasses.replace(
        prepared, folder=copy, images_path=str(images) if images else None, data_hash=f"{prepared.data_hash}-{what}"
    )


def test_the_zip_of_images_is_listed_once_however_many_are_read(
    prepared: Prepared, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, opened = Prepared.images, []

    def counted(self: Prepared) -> Images | None:
        opened.append(self)
        return images(self)

    monkeypatch.setattr(Prepared, "images", counted)
    examples = Examples(prepared, cache, 1)
    names = [name for name in examples.image_names() if name is not None][:3]
    assert len({examples.image(name) for name in names}) == 3
    assert len(opened) == 1
