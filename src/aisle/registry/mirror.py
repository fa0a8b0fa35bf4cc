"""The mirror of the bundle store in MLflow, for people: runs to compare, registered versions, aliases.

The bundle store says what serves; MLflow repeats it. A bundle holds all that its run is made of (parameters, metrics,
history), so nothing waits anywhere while MLflow is away: the next mirroring finds what MLflow does not have yet.
Of a bundle outside the store, as `aisle train --out` writes it, the run alone is logged; its version is registered
once it is in the store.

Only this module imports MLflow, and late: that takes many seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aisle.catalog import TYPES_FILE
from aisle.errors import BundleError, ServiceMissing
from aisle.files import read_json, sha256_bytes, sha256_json, write_text
from aisle.logs import get_logger
from aisle.model.bundle import LINEAGE_FILE, METRICS_FILE, RUN_FILE, Bundle
from aisle.model.classifier import TEXT
from aisle.registry.bundles import CHALLENGER, CHAMPION, BundleStore, pass_over
from aisle.settings import Settings, provide, provide_keras

LOCK_FILE, STATE_FILE = ".mirror.lock", ".mirrored"
RUN_NAMES = {"lstm-vgg16": "Train_Concatenate_Model"}
"""As the original project called its run; other recipes' runs are called after them."""

BUNDLE_TAG, REPORTS_TAG = "bundle", "reports"
BUNDLE_FOLDER, REPORTS_FOLDER = "bundle", "reports"
LONGEST_PARAMETER = 500


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where MLflow is, and what things are called there."""

    tracking_uri: str
    experiment: str
    artifacts: Path

    @property
    def model(self) -> str:
        """The registered model is called as the experiment is."""
        return self.experiment


@dataclass
class Mirrored:
    """What a mirroring did: versions whose run was logged, those that are damaged and were not, and where the
    aliases point now.
    """

    logged: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)


def mirror(settings: Settings, outside: Bundle | None = None) -> Mirrored:
    """Bring MLflow up to date with the store; again does nothing more. One at a time: a second one waits.

    The run of a bundle `outside` the store is logged as well. Raises ServiceMissing where MLflow does not answer or
    is not installed.
    """
    store, ledger = BundleStore(settings.models_path), _ledger(settings)
    provide(mlflow_logging_level="WARNING")
    provide(mlflow_http_request_max_retries=2, mlflow_http_request_timeout=30)  # by default: minutes, when it is away
    if token := settings.dagshub_token.get_secret_value():
        provide(mlflow_tracking_username=settings.dagshub_username, mlflow_tracking_password=token)
    store.root.mkdir(parents=True, exist_ok=True)
    with (store.root / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = _state(store, ledger, settings.reports_path)
        with _answering(ledger):
            done = _Mirror(store, ledger, settings.reports_path, settings.runs_path).bring_up_to_date(outside)
        if not done.damaged:
            write_text(store.root / STATE_FILE, state)
    return done


def needs_mirroring(settings: Settings) -> bool:
    """Is there an MLflow that may not know yet what the store knows? Told from this side alone, at once."""
    store = BundleStore(settings.models_path)
    if not settings.mlflow_uri:
        return False
    try:
        return (store.root / STATE_FILE).read_text() != _state(store, _ledger(settings), settings.reports_path)
    except OSError:
        return True


def _ledger(settings: Settings) -> Ledger:
    return Ledger(
        tracking_uri=settings.mlflow_uri,
        experiment=settings.mlflow_experiment_name,
        artifacts=settings.data_path / "mlflow-artifacts",
    )


def _state(store: BundleStore, ledger: Ledger, reports: Path) -> str:
    """A hash of all that is mirrored, and of where to."""
    versions = store.versions()
    files = [path for version in versions for path in sorted((reports / version).glob("*"))]
    changed = [(str(path), path.stat().st_mtime_ns) for path in files]
    return sha256_json([versions, asdict(store.serving()), changed, ledger.tracking_uri, ledger.experiment])


class _Mirror:
    def __init__(self, store: BundleStore, ledger: Ledger, reports: Path, attachments: Path) -> None:
        import mlflow  # noqa: PLC0415  takes many seconds

        self._store, self._ledger, self._reports, self._attachments = store, ledger, reports, attachments
        mlflow.set_tracking_uri(ledger.tracking_uri)
        self._client = mlflow.MlflowClient()
        self._experiment = self._experiment_id()

    def bring_up_to_date(self, outside: Bundle | None) -> Mirrored:
        done = Mirrored()
        numbers = {}
        for version in self._store.versions():
            run_id = self._finished_run(version) or self._run_of_stored(version, done)
            if run_id is not None:
                self._log_reports(version, run_id)
                numbers[version] = self._registered(version, run_id)
        if outside is not None and self._finished_run(outside.version) is None:
            self._log_run(outside, _run_of(outside), done)
        done.aliases = self._set_aliases(numbers)
        return done

    def _experiment_id(self) -> str:
        name = self._ledger.experiment
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        remote = "://" in self._ledger.tracking_uri and not self._ledger.tracking_uri.startswith("sqlite")
        location = None if remote else self._ledger.artifacts.resolve().as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _finished_run(self, version: str) -> str | None:
        """The run of a bundle, as far as it was logged to its end; one that was begun and not finished goes."""
        runs = self._client.search_runs([self._experiment], f"tags.{BUNDLE_TAG} = '{version}'")
        finished = [run for run in runs if run.info.status == "FINISHED"]
        for run in runs:
            if run not in finished[:1]:
                self._client.delete_run(run.info.run_id)
        return str(finished[0].info.run_id) if finished else None

    def _run_of_stored(self, version: str, done: Mirrored) -> str | None:
        """The run of a bundle of the store, logged now; None, with a warning, for a damaged one."""
        try:
            bundle = Bundle.load(self._store.root / version)
            run = _run_of(bundle)
        except (BundleError, OSError) as error:
            pass_over(version, error)
            done.damaged.append(version)
            return None
        return self._log_run(bundle, run, done)

    def _log_run(self, bundle: Bundle, run: Mapping[str, Any], done: Mirrored) -> str:
        lineage, metrics = bundle.json(LINEAGE_FILE), bundle.json(METRICS_FILE)
        configuration = lineage["configuration"]
        recipe = configuration["name"]
        began = run.get("began", "")
        created = self._client.create_run(
            self._experiment,
            start_time=int(datetime.fromisoformat(began).timestamp() * 1000) if began else None,
            run_name=RUN_NAMES.get(recipe, recipe),
            tags={
                BUNDLE_TAG: bundle.version,
                "source": run.get("source", "unknown"),
                "version": began,
                "model_type": configuration.get("model_type", recipe),
                "recipe": recipe,
                "data_hash": lineage["data_hash"],
                "git_revision": lineage["code_revision"],
            },
        )
        run_id = str(created.info.run_id)
        self._log_numbers(run_id, configuration, metrics, run)
        self._client.log_artifacts(run_id, str(bundle.path), BUNDLE_FOLDER)
        for name, folder in ((TYPES_FILE, "label_table"), (f"{TEXT}.json", "tokenizer")):
            if name in bundle.contents:
                self._client.log_artifact(run_id, str(bundle.path / name), folder)
        self._log_networks(run_id, bundle)
        self._client.set_terminated(run_id)
        done.logged.append(bundle.version)
        get_logger(__name__).info("run logged in MLflow", version=bundle.version, run=run_id)
        return run_id

    def _log_numbers(
        self, run_id: str, configuration: Mapping[str, Any], metrics: Mapping[str, Any], run: Mapping[str, Any]
    ) -> None:
        from mlflow.entities import Metric, Param  # noqa: PLC0415

        parameters = [Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in _flat(configuration)]
        now = int(self._client.get_run(run_id).info.start_time)
        numbers = [
            Metric(f"{metrics['side']}/{name}", float(value), now, 0)
            for name, value in _flat({name: one for name, one in metrics.items() if isinstance(one, Mapping)})
            if isinstance(value, int | float) and "per_type" not in name
        ]
        numbers += [
            Metric(f"{stage}/{name}", float(value), now, epoch)
            for stage, epochs in run.get("history", {}).items()
            for epoch, measures in enumerate(epochs)
            for name, value in measures.items()
        ]
        numbers += [Metric(f"seconds/{name}", float(value), now, 0) for name, value in run["seconds"].items()]
        for some in (parameters[at : at + 100] for at in range(0, len(parameters), 100)):
            self._client.log_batch(run_id, params=some)
        for several in (numbers[at : at + 1000] for at in range(0, len(numbers), 1000)):
            self._client.log_batch(run_id, metrics=several)

    def _log_networks(self, run_id: str, bundle: Bundle) -> None:
        """Keras models, each a `.keras` file of standard layers: no pickle, no code.

        As artifacts of the run, which servers of every MLflow version take; `runs:/RUN/lstm_model` loads one.
        """
        files = sorted((self._attachments / bundle.version).glob("*.keras"))
        if not files:
            return
        provide_keras()
        import keras  # noqa: PLC0415
        import mlflow.keras  # noqa: PLC0415

        packages = bundle.json(LINEAGE_FILE)["packages"]
        networks = ("keras", "tensorflow-cpu", "tensorflow")
        pinned = [f"{name}=={packages[name]}" for name in networks if name in packages]
        for file in files:
            network = keras.models.load_model(file)
            signature, example = _signature(network)
            with tempfile.TemporaryDirectory() as folder:  # MLflow 3.17 writes the example before it makes the folder
                mlflow.keras.save_model(
                    network, folder, signature=signature, input_example=example, pip_requirements=pinned
                )
                self._client.log_artifacts(run_id, folder, file.stem)

    def _log_reports(self, version: str, run_id: str) -> None:
        """Reports that were written since the last time; a verdict of the gate comes long after the training."""
        folder = self._reports / version
        files = {path.name: sha256_bytes(path.read_bytes()) for path in sorted(folder.glob("*")) if path.is_file()}
        now = sha256_json(files)
        if files and self._client.get_run(run_id).data.tags.get(REPORTS_TAG) != now:
            self._client.log_artifacts(run_id, str(folder), REPORTS_FOLDER)
            self._client.set_tag(run_id, REPORTS_TAG, now)

    def _registered(self, version: str, run_id: str) -> str:
        """The number under which MLflow knows a version."""
        name = self._ledger.model
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        known = self._client.search_model_versions(f"run_id = '{run_id}'")
        ours = [one for one in known if one.name == name]
        if not ours:
            uri = self._client.get_run(run_id).info.artifact_uri
            ours = [
                self._client.create_model_version(
                    name, source=f"{uri}/{BUNDLE_FOLDER}", run_id=run_id, tags={BUNDLE_TAG: version}
                )
            ]
        return str(ours[0].version)

    def _set_aliases(self, numbers: Mapping[str, str]) -> dict[str, str]:
        serving = self._store.serving()
        wanted = {CHAMPION: serving.champion, CHALLENGER: serving.challenger}
        if not numbers:
            return {}
        known = self._client.get_registered_model(self._ledger.model).aliases
        for alias, version in wanted.items():
            if version is None or version not in numbers:
                if alias in known:
                    self._client.delete_registered_model_alias(self._ledger.model, alias)
            elif str(known.get(alias)) != numbers[version]:
                self._client.set_registered_model_alias(self._ledger.model, alias, numbers[version])
        return {alias: version for alias, version in wanted.items() if version is not None}


@contextlib.contextmanager
def _answering(ledger: Ledger) -> Iterator[None]:
    """Says that MLflow is missing where it is, without the addresses and headers that its errors may repeat."""
    try:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ServiceMissing("MLflow is not installed", hint="Install aisle with its extra `train`.") from None
    import requests  # noqa: PLC0415  what MLflow asks with
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError) as error:
        raise ServiceMissing(
            f"MLflow does not do what it is asked ({type(error).__name__}: {_first_line(error)})",
            where=ledger.tracking_uri,
            hint="Training and serving go on without it; `aisle registry mirror` catches up once it is back.",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _run_of(bundle: Bundle) -> dict[str, Any]:
    """What the training left beside the sums. Raises BundleError where it is missing or damaged."""
    try:
        run: dict[str, Any] = read_json(bundle.path / RUN_FILE)
        dict(run["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(f"{RUN_FILE} is missing or damaged", where=bundle.path) from None
    return run


def _signature(network: Any) -> tuple[Any, Any]:
    """What a network takes and gives, and an example of it: words 1, 2, … and a grey image."""
    import numpy as np  # noqa: PLC0415
    from mlflow.models import ModelSignature  # noqa: PLC0415
    from mlflow.types.schema import Schema, TensorSpec  # noqa: PLC0415

    makers: dict[str, Callable[[tuple[int, ...]], Any]] = {
        "words": lambda _: np.array([[2, 3, 1]], dtype=np.int32),
        "pixels": lambda shape: np.full((1, *shape), 128, dtype=np.float32),
    }
    examples = {one.name: makers[one.name](tuple(one.shape[1:])) for one in network.inputs}
    given: list[Any] = [
        TensorSpec(np.dtype(array.dtype), (-1, *(size or -1 for size in one.shape[1:])), one.name)
        for one, array in zip(network.inputs, examples.values(), strict=True)
    ]
    result = TensorSpec(np.dtype(np.float32), (-1, network.output_shape[-1]))
    signature = ModelSignature(inputs=Schema(given), outputs=Schema([result]))
    return signature, examples


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
