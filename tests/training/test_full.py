"""The recipe `full`, on tiny networks of chance in the environment with PyTorch: a bundle that serves without it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aisle.catalog import Prediction, Product
from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import BundleError, ServiceMissing, UsageError
from aisle.files import read_json
from aisle.model.bundle import METRICS_FILE, MODEL_FILE, RUN_FILE, Bundle
from aisle.model.known_answer import load_checked
from aisle.model.predictor import Predictor
from aisle.training.evaluate import measure
from aisle.training.examples import Examples
from aisle.training.graph import check_parity
from aisle.training.pretrained import place_of, with_sources
from aisle.training.recipes import full, recipe
from aisle.training.train import learner_of, lineage_of

pytestmark = pytest.mark.timeout(1200)  # whoever comes first waits for the training

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-full" / "bin" / "python"


@pytest.fixture(scope="module")
def trained(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tiny_full.py` leaves: networks, a bundle, and what is told of the way."""
    if not PYTHON.exists():
        pytest.skip("the environment with PyTorch is not there (make .venv-full/.ready)")
    folder = tmp_path_factory.mktemp("full")
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    command = [PYTHON, Path(__file__).with_name("tiny_full.py"), prepared.folder, folder]
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def full_bundle(trained: Path) -> Bundle:
    return Bundle.load(trained / "bundle")


@pytest.fixture(scope="module")
def full_predictor(full_bundle: Bundle) -> Iterator[Predictor]:
    with load_checked(full_bundle.path, threads=2) as loaded:
        yield loaded


@pytest.mark.slow
def test_the_graphs_are_the_networks(full_bundle: Bundle) -> None:
    metrics = full_bundle.json(METRICS_FILE)
    graphs = [*metrics["readers"], metrics["image_encoder"]]
    assert len(graphs) == 3
    assert all(one["parity"] <= 1e-4 for one in graphs)


@pytest.mark.slow
def test_it_is_measured_here_as_where_it_was_trained(full_bundle: Bundle, prepared: Prepared, tmp_path: Path) -> None:
    classifier, graph = full_bundle.classifier(), full_bundle.encoder_graph()
    rows = Examples(prepared, tmp_path, threads=2).rows(Side.TEST, graph=graph)
    figures = measure(classifier.probabilities(rows.inputs), rows.targets, classifier.codes)
    assert figures["log_loss"] == pytest.approx(full_bundle.json(METRICS_FILE)["all"]["log_loss"], abs=1e-5)
    assert not {"torch", "transformers"} & sys.modules.keys()


@pytest.mark.slow
def test_each_network_has_its_say(full_bundle: Bundle) -> None:
    weights = full_bundle.json(MODEL_FILE)["blends"]["text"]["weights"]
    viewers = full_bundle.json(METRICS_FILE)["image_encoder"]["networks"]
    assert set(weights) == {"text_1", "text_2"}
    assert [one["model"] for one in viewers] == ["convnext", "swin", "siglip"]
    assert all(weight > 0 for weight in [*weights.values(), *(one["weight"] for one in viewers)])


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [(), ("description",), ("image",), ("title", "description")])
def test_whatever_is_missing_there_is_an_answer(
    full_predictor: Predictor, prepared: Prepared, left_out: tuple[str, ...]
) -> None:
    images = prepared.images()
    assert images is not None
    image = images.read(prepared.products().drop_nulls("image")["image"][0])
    product: dict[str, Any] = {"title": "Piscine ronde", "description": "Avec pompe", "image": image}
    kept = {"title": "", **{name: value for name, value in product.items() if name not in left_out}}
    [outcome] = full_predictor.predict([Product(**kept)])
    assert isinstance(outcome, Prediction)
    assert sum(one.confidence for one in outcome.candidates) <= 1 + 1e-6


@pytest.mark.slow
def test_texts_are_cut_as_the_pretrained_tokenizers_cut_them(trained: Path) -> None:
    assert read_json(trained / "told.json")["cut_alike"] == 1


@pytest.mark.slow
def test_what_a_gpu_encodes_ahead_the_graph_need_not_encode(trained: Path, prepared: Prepared) -> None:
    images = len(prepared.products().drop_nulls("image"))
    assert read_json(trained / "told.json")["encoded_ahead"] == images > 0


@pytest.mark.slow
def test_a_model_that_is_not_to_be_had_is_said_to_be_so(trained: Path) -> None:
    said = read_json(trained / "told.json")["refusal"]
    assert said.startswith("5: the model nobody/nothing can be loaded neither from a folder nor from the hub")


@pytest.mark.slow
def test_a_bundle_says_nothing_of_the_machine_it_was_trained_on(full_bundle: Bundle, trained: Path) -> None:
    files = {path.name: path.read_bytes() for path in full_bundle.path.iterdir() if path.name != RUN_FILE}
    for word in (str(trained), str(REPOSITORY), "site-packages"):
        assert [name for name, content in files.items() if word.encode() in content] == []


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_pytorch_it_is_said_what_to_install() -> None:
    with pytest.raises(ServiceMissing, match=r"needs the package torch.*extra `full`"):
        learner_of(full())


def test_models_are_given_by_name_or_folder_and_trained_for_as_many_epochs() -> None:
    chosen = full(text_models="a/b, c", image_models="", fine_tune=3)
    assert chosen.text.models == ("a/b", "c")
    assert chosen.image.models == ()
    assert chosen.text.tuning.epochs == chosen.image.tuning.epochs == 3
    with pytest.raises(UsageError, match="one epoch at least"):
        recipe("full", fine_tune=0)


def test_a_revision_is_named_behind_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "mine@home"
    folder.mkdir()
    assert place_of("a/b@1234") == ("a/b", "1234")
    assert place_of("a/b") == ("a/b", None)
    assert place_of(str(folder)) == (str(folder), None)


def test_a_lineage_knows_a_folder_by_what_is_in_it(tmp_path: Path, prepared: Prepared) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    one, two = (with_sources(full(text_models=str(tmp_path / name))).text.models for name in ("one", "two"))
    assert one == two != (str(tmp_path / "one"),)
    (tmp_path / "two" / "model.safetensors").write_bytes(b"0")
    assert with_sources(full(text_models=str(tmp_path / "two"))).text.models != one
    assert str(tmp_path) not in str(lineage_of(full(text_models=str(tmp_path / "one")), prepared)["configuration"])


def test_a_graph_that_is_not_its_network_is_refused() -> None:
    scores = np.array([[0.0, 1.0]])
    assert check_parity("reader", scores, scores) == 0
    with pytest.raises(BundleError, match="exported reader differs from the network"):
        check_parity("reader", scores, scores + np.array([[0.0, 0.01]]))
