"""The recipe `lstm-vgg16`, small: the same figures whatever is killed, and graphs that are its networks."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
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
from aisle.settings import Settings, provide_keras
from aisle.training.examples import Examples
from aisle.training.recipes import Epochs, LstmVgg16, lstm_vgg16
from aisle.training.train import train

if find_spec("keras") is None:  # importing it here would be before `train` sets how it computes
    pytest.skip("the extra `keras` is not installed", allow_module_level=True)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what TensorFlow warns of is not ours

GOLDEN = Path(__file__).with_name("golden_lstm_vgg16.json")
SIZE = 48


def tiny(fine_tuning: int = 0, *, rate: float = 1e-6) -> LstmVgg16:
    """Small images and few epochs; everything else as it is. What random weights see tells little apart, so that the
    smallest steps of fine-tuning are large ones."""
    recipe = lstm_vgg16("none")
    return replace(
        recipe,
        text=replace(recipe.text, epochs=Epochs(most=14, patience=3, batch=16, rate=2e-3)),
        image=replace(
            recipe.image,
            size=SIZE,
            epochs=Epochs(most=6, patience=6, batch=32, rate=1e-3),
            fine_tuning=Epochs(most=fine_tuning, patience=2, batch=32, rate=rate),
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
    return train(tiny(fine_tuning=1), prepared, out, cache=cache, threads=2, attachments=attachments)


def processor() -> str:
    """The kind of this machine's processor, as far as it decides the order in which TensorFlow sums."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    first = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    names = [first.get(name, "?") for name in ("vendor_id", "cpu family", "model")]
    return f"{' '.join(names)}, {os.cpu_count()} cores"


def test_a_golden_run_gives_the_checked_in_figures(network_bundle: Bundle) -> None:
    """Exactly, on a kind of processor whose figures are in the table; to renew an entry, take it out and run this.

    Other processors sum in another order, and training makes the last bits larger: between two kinds the log-loss
    differed by 0.131 and the F1 by 0.039. On an unknown kind the figures have to agree so far, and the test is
    reported as skipped, with the entry that holds them exactly from then on.
    """
    metrics = network_bundle.json("metrics.json")
    found = {
        f"{name} {figure}": metrics[name][figure]
        for name in ("all", "text", "image")
        for figure in ("weighted_f1", "log_loss")
    }
    golden = read_json(GOLDEN)
    if processor() in golden:
        assert found == golden[processor()]
        return
    assert any(found == pytest.approx(known, abs=0.2) for known in golden.values())
    pytest.skip(f"only loosely: {GOLDEN.name} has no {json.dumps({processor(): found}, sort_keys=True)}")


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


@pytest.mark.soak  # as one that was killed again and again shows, too
def test_the_same_data_code_and_seed_give_the_same_sums(
    prepared: Prepared, network_bundle: Bundle, cache: Path, tmp_path: Path
) -> None:
    again = train(tiny(fine_tuning=1), prepared, tmp_path / "again", cache=cache, threads=1)
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


def tuning(bundle: Bundle) -> list[dict[str, float]]:
    """The measures of each epoch of fine-tuning."""
    epochs: list[dict[str, float]] = read_json(bundle.path / RUN_FILE)["history"]["image-fine-tuning"]
    return epochs


def test_the_last_block_can_be_tuned(network_bundle: Bundle) -> None:
    assert len(tuning(network_bundle)) == 1


@pytest.mark.soak
def test_tuning_that_does_harm_is_left_out(prepared: Prepared, cache: Path, tmp_path: Path) -> None:
    untuned = train(tiny(), prepared, tmp_path / "untuned", cache=cache, threads=2)
    harmed = train(tiny(fine_tuning=1, rate=1e-2), prepared, tmp_path / "harmed", cache=cache, threads=2)
    assert harmed.json("metrics.json")["image_encoder"]["fine_tuned"] is False
    assert harmed.encoder_graph() == untuned.encoder_graph()


@pytest.fixture
def _a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What computes is the processor all the same."""
    monkeypatch.setattr("aisle.training.lstm_vgg16.image._has_gpu", lambda: True)


@pytest.mark.soak  # a processor takes long over halves
@pytest.mark.usefixtures("_a_gpu")
def test_tuning_in_half_precision_ends_with_a_graph_that_is_its_network(
    prepared: Prepared, network_bundle: Bundle, cache: Path, tmp_path: Path
) -> None:
    import keras

    half = train(tiny(fine_tuning=1), prepared, tmp_path / "half", cache=cache, threads=2)
    assert half.json("metrics.json")["image_encoder"]["parity"] <= 1e-4
    [epoch], [exact] = tuning(half), tuning(network_bundle)
    assert epoch != exact
    assert np.isfinite(list(epoch.values())).all()
    assert keras.mixed_precision.dtype_policy().name == "float32"


@pytest.mark.soak  # a processor takes long over halves
@pytest.mark.usefixtures("_a_gpu")
def test_in_half_precision_the_block_learns_and_weights_and_scores_stay_in_32_bits(tmp_path: Path) -> None:
    """With features that spread as ImageNet's do: those of random weights hardly spread at all."""
    provide_keras()
    from aisle.training.checkpoints import Checkpoints
    from aisle.training.lstm_vgg16.batches import array_batches
    from aisle.training.lstm_vgg16.fitting import fit
    from aisle.training.lstm_vgg16.image import _half_precision_on_a_gpu
    from aisle.training.lstm_vgg16.networks import image_head, image_network, vgg16_encoder

    random, how = np.random.default_rng(0), tiny().image
    pixels = random.integers(0, 256, (32, SIZE, SIZE, 3)).astype(np.float32)
    targets, order = random.integers(0, 3, 32), np.arange(32)
    with _half_precision_on_a_gpu():
        head = image_head(how, random.normal(size=(64, 512)).astype(np.float32), 3)
        network = image_network(vgg16_encoder(how), head)
        block = network.get_layer("encoder").get_layer("vgg16").get_layer("block5_conv3")
        before = block.get_weights()[0]
        history = fit(
            network,
            lambda _: array_batches(pixels, targets, np.ones(32), order, 16),
            None,
            Epochs(most=3, patience=3, batch=16, rate=1e-5),
            Checkpoints(tmp_path, "half"),
            "half",
        )
    assert np.isfinite([one["loss"] for one in history]).all()
    assert not np.array_equal(before, block.get_weights()[0])
    assert block.compute_dtype == "float16"
    assert head.get_layer("spread").compute_dtype == "float32"
    assert {weight.dtype for weight in network.weights if "int" not in weight.dtype} == {"float32"}
    assert network.outputs[0].dtype == "float32"


TRAIN = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from aisle.data.prepare import Prepared
from aisle.logs import LogFile, setup_logging
from aisle.settings import provide_keras
from aisle.training.train import train
sys.path.insert(0, sys.argv[1])
folder, prepared, where, call = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
provide_keras()
from test_lstm_vgg16 import tiny

def kill_at(where, call):
    module, _, name = where.partition(":")
    place, calls = import_module(module), 0
    original = getattr(place, name)
    def counted(*given, **named):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)
    setattr(place, name, counted)

if where:
    kill_at(where, call)
setup_logging(LogFile.TRAIN, folder / "logs")
train(
    tiny(fine_tuning=1), Prepared.open(prepared), folder / "bundle",
    cache=folder / "cache", threads=2, attachments=folder / "runs",
)
"""

NETWORKS = "aisle.training.lstm_vgg16"
POINTS = {
    "an epoch of the text network begins": (f"{NETWORKS}.text:text_batches", 4),
    "an epoch of it is to be kept": ("aisle.training.checkpoints:write_bytes", 3),
    "it is exported": (f"{NETWORKS}.text:lstm_graph", 1),
    "VGG16 looks at images, of which a shard is kept": ("aisle.training.features:encode_image", 300),
    "an epoch of the image head begins": (f"{NETWORKS}.image:array_batches", 4),
    "an epoch of fine-tuning is under way": (f"{NETWORKS}.batches:decode", 200),
    "VGG16 is quantised": (f"{NETWORKS}.quantize:quantize_static", 1),
    "the fusion is fitted on the second fold": (f"{NETWORKS}.fusing:array_batches", 6),
    "the bundle is half written": ("aisle.model.bundle:write_json", 1),
    "the bundle is written, its attachments are not": ("aisle.training.train:write_bytes", 2),
}
"""Where a process is killed: when it calls a function for the n-th time."""


@pytest.mark.timeout(1800)
@pytest.mark.soak
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bundle(
    prepared: Prepared, network_bundle: Bundle, tmp_path: Path
) -> None:
    def run(where: str, call: int) -> subprocess.CompletedProcess[str]:
        given = [str(Path(__file__).parent), str(tmp_path), str(prepared.folder), where, str(call)]
        command = [sys.executable, "-W", "ignore", "-c", TRAIN, *given]
        return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)

    said = ""
    for point, moment in POINTS.items():
        ran = run(*moment)
        assert ran.returncode == -signal.SIGKILL, f"{point}:\n{ran.stderr}"
        said += ran.stderr
    last = run("", 0)
    assert last.returncode == 0, last.stderr
    assert Bundle.load(tmp_path / "bundle").version == network_bundle.version
    assert len(list((tmp_path / "runs" / network_bundle.version).iterdir())) == 3
    for stage in ("text", "image", "image-fine-tuning"):  # none was begun again
        assert len(re.findall(rf"epoch=1 .*of={stage} ", said + last.stderr)) == 1, stage
    assert "cached=256" in said
