"""The recipe `lstm-vgg16`, small: the same figures whatever is killed, and graphs that are its networks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.files import read_json, sha256_file
from aisle.inputs.image import decode
from aisle.model.bundle import RUN_FILE, Bundle
from aisle.model.classifier import LOOKS_AT, TEXT
from aisle.model.predictor import Predictor
from aisle.registry.bundles import BundleStore
from aisle.registry.mirror import mirror
from aisle.settings import Settings
from aisle.training.examples import Examples
from aisle.training.recipes import Epochs, LstmVgg16, lstm_vgg16
from aisle.training.train import train

if find_spec("keras") is None:  # importing it here would be before `train` sets how it computes
    pytest.skip("the extra `keras` is not installed", allow_module_level=True)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what TensorFlow warns of is not ours

GOLDEN = Path(__file__).with_name("golden_lstm_vgg16.json")
SIZE = 48


def tiny(fine_tuning: int = 0) -> LstmVgg16:
    """Small images and few epochs; everything else as it is."""
    recipe = lstm_vgg16("none")
    return replace(
        recipe,
        text=replace(recipe.text, epochs=Epochs(most=14, patience=3, batch=16, rate=2e-3)),
        image=replace(
            recipe.image,
            size=SIZE,
            epochs=Epochs(most=6, patience=6, batch=32, rate=1e-3),
            fine_tuning=Epochs(most=fine_tuning, patience=1, batch=32, rate=1e-4),
        ),
        fusion=replace(recipe.fusion, folds=2, epochs=Epochs(most=4, patience=4, batch=32, rate=3e-3)),
    )


@pytest.fixture(scope="module")
def attachments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attachments")


@pytest.fixture(scope="module")
def network_bundle(
    prepared: Prepared, cache: Path, attachments: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    out = tmp_path_factory.mktemp("network") / "bundle"
    return train(tiny(), prepared, out, cache=cache, threads=2, attachments=attachments)


def test_a_golden_run_gives_the_checked_in_figures(network_bundle: Bundle) -> None:
    """To renew them after a change that is meant to change them: delete the file and run the test once.

    On one machine the figures are exact. Processors differ in the last bits, which training makes larger: another
    order of the same sums moved the log-loss by 0.017 and the F1 by 0.039.
    """
    metrics = network_bundle.json("metrics.json")
    found = {
        f"{name} {figure}": metrics[name][figure]
        for name in ("all", "text", "image")
        for figure in ("weighted_f1", "log_loss")
    }
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
        pytest.fail(f"{GOLDEN.name} was missing and is written anew; look at it and run again")
    assert found == pytest.approx(read_json(GOLDEN), abs=0.06)


def test_it_learns_to_read(network_bundle: Bundle) -> None:
    assert network_bundle.json("metrics.json")["text"]["weighted_f1"] > 0.3


def test_both_ways_of_joining_are_reported_and_the_better_is_kept(network_bundle: Bundle) -> None:
    report = network_bundle.json("metrics.json")["fusion"]
    kept = report.pop("kept")
    assert set(report) == {"weighted_sum", "dense_head"}
    assert report[kept]["log_loss"] == min(one["log_loss"] for one in report.values())
    assert network_bundle.json("model.json")["fusion"]["kind"] == kept


def test_the_graphs_are_the_networks(network_bundle: Bundle) -> None:
    metrics = network_bundle.json("metrics.json")
    assert metrics["text_graph"]["parity"] <= 1e-4
    assert metrics["image_encoder"]["parity"] <= 1e-4


def test_the_image_graph_with_8_bits_is_a_quarter_of_the_size(network_bundle: Bundle) -> None:
    encoder = network_bundle.json("metrics.json")["image_encoder"]
    assert encoder["int8"]["bytes"] < encoder["fp32"]["bytes"] / 3.5
    assert encoder["kept"] in ("fp32", "int8")


def test_the_same_data_code_and_seed_give_the_same_sums(
    prepared: Prepared, network_bundle: Bundle, cache: Path, tmp_path: Path
) -> None:
    again = train(tiny(), prepared, tmp_path / "again", cache=cache, threads=1)
    assert again.version == network_bundle.version
    for path in network_bundle.path.iterdir():
        if path.name != RUN_FILE:
            assert sha256_file(path) == sha256_file(again.path / path.name), path.name


def test_a_product_gets_the_same_probabilities_alone_and_in_a_batch(
    prepared: Prepared, network_bundle: Bundle
) -> None:
    from aisle.catalog import Product

    table = prepared.products().head(12)
    images = prepared.images()
    assert images is not None
    products = [
        Product(title, description, images.read(stem) if stem else None)
        for title, description, stem in table.select("title", "description", "image").iter_rows()
    ]
    with Predictor(network_bundle, threads=2) as predictor:
        together = predictor.predict(products)
        assert together == [predictor.predict([product])[0] for product in products]


def test_serving_does_not_load_a_network_library(network_bundle: Bundle) -> None:
    script = (
        "import sys; from pathlib import Path; from aisle.catalog import Product\n"
        "from aisle.model.bundle import Bundle; from aisle.model.predictor import Predictor\n"
        "with Predictor(Bundle.load(Path(sys.argv[1]))) as p: print(p.predict([Product('Piscine')])[0].type.code)\n"
        "assert not {'tensorflow', 'keras', 'onnx'} & set(sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(network_bundle.path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_attached_networks_say_what_the_bundle_says(
    prepared: Prepared, network_bundle: Bundle, attachments: Path, cache: Path
) -> None:
    """They load without code of ours; VGG16 with 8-bit integers is not the same network, so it is left out here."""
    import keras

    folder = attachments / network_bundle.version
    assert {path.name for path in folder.iterdir()} == {
        "lstm_model.keras",
        "vgg16_model.keras",
        "concatenate_model.keras",
    }
    examples = Examples(prepared, cache, 2)
    rows = examples.rows(Side.VALIDATION, graph=None).looked_at_by(LOOKS_AT[TEXT])
    classifier = network_bundle.classifier()
    tokenizer = classifier.models.texts[TEXT].tokenizer  # type: ignore[union-attr]
    network = keras.models.load_model(folder / "lstm_model.keras")
    for row, title in enumerate(rows.inputs.field(TEXT)[:5]):
        expected = np.asarray(network(tokenizer.ids(title)[np.newaxis].astype(np.int32)))
        one = rows.at(np.array([row]))
        assert classifier.probabilities(one.inputs) == pytest.approx(expected, abs=1e-4)


def test_the_whole_network_joins_as_the_bundle_does(
    prepared: Prepared, network_bundle: Bundle, attachments: Path, cache: Path
) -> None:
    """With the log-probabilities of its own parts in place of the bundle's."""
    import keras

    folder = attachments / network_bundle.version
    parts = {
        name: keras.models.load_model(folder / f"{label}.keras")
        for name, label in (("text", "lstm_model"), ("image", "vgg16_model"))
    }
    whole = keras.models.load_model(folder / "concatenate_model.keras")
    classifier = network_bundle.classifier()
    examples = Examples(prepared, cache, 2)
    rows = examples.rows(Side.VALIDATION, graph=None)
    names = examples.image_names(Side.VALIDATION)
    row = next(row for row, name in enumerate(names) if name is not None)
    tokenizer = classifier.models.texts[TEXT].tokenizer  # type: ignore[union-attr]
    words = tokenizer.ids(rows.inputs.field(TEXT)[row])[np.newaxis].astype(np.int32)
    pixels = decode(examples.image(names[row] or ""), SIZE)[np.newaxis].astype(np.float32)
    logs = {"text": np.log(np.asarray(parts["text"](words))), "image": np.log(np.asarray(parts["image"](pixels)))}
    joined = classifier.fusion.log_probabilities(
        {name: logs[name].astype(np.float64) for name in classifier.fusion.models}, np.ones((1, 2), dtype=bool)
    )
    assert np.exp(joined) == pytest.approx(np.asarray(whole([words, pixels])), abs=1e-4)


def test_the_ledger_has_the_run_as_the_original_called_it(
    network_bundle: Bundle, attachments: Path, tmp_path: Path
) -> None:
    import mlflow

    store = BundleStore(tmp_path / "models")
    store.add(network_bundle)
    settings = Settings(data_path=tmp_path / "data", models_path=store.root, mlflow_tracking_uri="")
    settings.runs_path.parent.mkdir()
    settings.runs_path.symlink_to(attachments)
    mirror(settings)
    client = mlflow.MlflowClient(settings.mlflow_uri)
    experiment = client.get_experiment_by_name("ProductCodeClassifier")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.data.tags["model_type"]) == ("Train_Concatenate_Model", "VGG16+LSTM")
    assert [one.step for one in client.get_metric_history(run.info.run_id, "text/val_loss")][:3] == [0, 1, 2]

    names = {path.name for path in (tmp_path / "data" / "mlflow-artifacts").rglob("*")}
    assert {"text.json", "product_types.csv"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".h5"))]
    mlflow.set_tracking_uri(settings.mlflow_uri)
    for name in ("lstm_model", "vgg16_model", "concatenate_model"):
        uri = f"runs:/{run.info.run_id}/{name}"
        information = mlflow.models.get_model_info(uri)
        assert information.signature is not None
        example: Any = mlflow.models.Model.load(uri).load_input_example(uri)
        network = mlflow.keras.load_model(uri)
        given = {key: np.asarray(value) for key, value in example.items()}
        assert np.asarray(network(given)).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_last_block_can_be_tuned(prepared: Prepared, cache: Path, tmp_path: Path) -> None:
    bundle = train(tiny(fine_tuning=1), prepared, tmp_path / "tuned", cache=cache, threads=2)
    assert len(read_json(bundle.path / RUN_FILE)["history"]["image-fine-tuning"]) == 1
    assert bundle.json("metrics.json")["image_encoder"]["parity"] <= 1e-4


TRAIN = """
import sys
from pathlib import Path
from typing import Any
from aisle.data.prepare import Prepared
from aisle.logs import LogFile, setup_logging
from aisle.training.train import train
sys.path.insert(0, sys.argv[1])
from test_lstm_vgg16 import tiny
folder, prepared = Path(sys.argv[2]), Path(sys.argv[3])
setup_logging(LogFile.TRAIN, folder / "logs")
train(tiny(), Prepared.open(prepared), folder / "bundle", cache=folder / "cache", threads=2)
"""

POINTS = (
    ("fitting the text network", 1),
    ("of=text", 1),
    ("of=text", 2),
    ("of=text", 1),
    ("encoding images", 1),
    ("fitting the image head", 1),
    ("of=image", 1),
    ("of=image", 2),
    ("of=image", 1),
    ("measuring VGG16", 1),
)


def test_a_training_that_is_killed_at_ten_points_ends_with_the_same_bundle(
    prepared: Prepared, network_bundle: Bundle, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        TRAIN,
        str(Path(__file__).parent),
        str(tmp_path),
        str(prepared.folder),
    ]
    for said, times in POINTS:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if sum(said in one for one in lines) == times:
                    process.kill()
                    break
            else:
                pytest.fail(f"it ended before {said!r} came {times} times:\n{''.join(lines)}")
    last = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert last.returncode == 0, last.stderr
    assert re.search("stage taken|training goes on", last.stderr)
    assert Bundle.load(tmp_path / "bundle").version == network_bundle.version
