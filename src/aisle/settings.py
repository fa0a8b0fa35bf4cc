"""Every environment variable that aisle reads, in one frozen object.

A variable comes from the environment, from `.env` in the working directory, or from a file in /run/secrets that is
named like it (`database_url`), which is where Docker and Kubernetes mount secrets. `.env.example` is generated
from this file (`python -m aisle.settings > .env.example`), so the two cannot drift apart.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aisle.errors import UsageError

SECRETS = Path("/run/secrets")
OFF = "off"
NO_MLFLOW = "it is none of: empty, off, sqlite:///FILE, http://HOST…, https://HOST…"
HUGGINGFACE_URL = "https://huggingface.co/datasets/ndiguesene/ml-datasets-image-rakuten-ecommerce/resolve/main/"


class Settings(BaseSettings):
    """Field `data_path` is the variable `DATA_PATH`, and so on. Unknown variables are ignored."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
        hide_input_in_errors=True,  # a value that is refused may hold a password
    )

    data_path: Path = Field(Path("data"), description="Folder of raw, validated and prepared data.")
    models_path: Path = Field(Path("models"), description="The bundle store: one folder a version.")
    logs_path: Path = Field(Path("logs"), description="Folder of the four rotating logs.")
    records_path: Path = Field(
        default_factory=lambda known: known["logs_path"] / "records",
        description="Where the prediction service writes each answer until the database has it; where it outlives the"
        " process, no kill loses one. Default: records in LOGS_PATH.",
    )
    records_mib: int = Field(
        16, ge=1, description="The most MiB that a process writes there while the database is away."
    )
    cache_path: Path = Field(
        default_factory=lambda known: known["data_path"] / "cache",
        description="Image features and unfinished training; safe to delete. Default: cache in DATA_PATH.",
    )
    keras_home: Path = Field(
        default_factory=lambda: Path.home() / ".keras",
        description="Where Keras keeps pretrained weights that it downloaded. Default: .keras in the home folder.",
    )
    keras_backend: Literal["tensorflow", "jax", "torch"] = Field(
        "tensorflow", description="What Keras computes with; TensorFlow feeds it in any case."
    )
    promised_accuracy: float = Field(
        0.98,
        gt=0.5,
        lt=1,
        description="The share of the products accepted without a person that is right; set when a model is trained.",
    )
    bundle_public_key: str = Field(
        "",
        description="Public keys of which one must have signed a bundle that is loaded: a PEM file, or its text;"
        " empty: none need be signed.",
    )
    bundle_signing_key: SecretStr = Field(
        SecretStr(""),
        description="Private key that signs what is trained here: a PEM file, or its text; empty: it is not signed.",
    )
    costs_file: str = Field(
        "",
        description="A table `type,given,cost` of mistakes that cost more or less than 1, read when a model is"
        " trained; empty: all cost alike.",
    )
    mlflow_tracking_uri: str = Field(
        "",
        description="MLflow: empty is SQLite in DATA_PATH, `sqlite:///FILE` another, `http(s)://…` a server, `off`"
        " none. No password in it.",
    )
    mlflow_wait_seconds: float = Field(
        60, ge=0, description="How long a training waits until MLflow has its run; logging goes on after that."
    )
    mlflow_experiment_name: str = Field(
        "ProductCodeClassifier", min_length=1, description="Experiment, and registered model, in MLflow."
    )
    dagshub_username: str = Field("", description="Who signs in at DagsHub, or at any MLflow server that asks.")
    dagshub_token: SecretStr = Field(SecretStr(""), description="The token of DAGSHUB_USERNAME.")
    run_source: str = Field("cli", min_length=1, description="Who started a training: the tag `source` of its run.")
    aisle_revision: str = Field("", description="The commit that an image was built from; its build sets it.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The lowest level that is logged."
    )
    data_source_url: str = Field(
        HUGGINGFACE_URL, description="Where `aisle import --source huggingface` finds its files."
    )
    s3_endpoint_url: str = Field(
        "",
        description="S3-compatible server for `s3://` addresses; empty: Amazon's. Keys as for any AWS client.",
    )
    serve_host: str = Field("127.0.0.1", description="Address the prediction service listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the prediction service; 0: any free one.")
    serve_model: str = Field(
        "champion", min_length=1, description="What is served: champion, which is followed, a version, or a folder."
    )
    serve_workers: int = Field(1, ge=1, le=64, description="Processes that share the port of the prediction service.")
    serve_reuse_port: bool = Field(
        False, description="Let several instances listen on one port, and the kernel spread connections over them."
    )
    drain_seconds: float = Field(
        3, ge=0, le=10, description="How long a service that is told to stop goes on answering, not ready any more."
    )
    champion_poll_seconds: float = Field(
        2, gt=0, description="How often the prediction service looks for a new champion."
    )
    queue_size: int = Field(
        64, ge=1, description="Predictions that a process takes on at once; beyond, it answers 503."
    )
    batch_size: int = Field(16, ge=1, description="The most predictions that are computed as one batch.")
    predict_timeout_seconds: float = Field(
        10, gt=0, description="How long a prediction may wait; one that waited longer is not computed."
    )
    predictions_keep_days: int = Field(
        365, ge=1, description="How long the record of a prediction, and the feedback on it, is kept."
    )
    review_photos_mib: int = Field(
        256,
        ge=0,
        description="The most MiB of small photos kept for reviewers, the oldest go first; 0: none are.",
    )
    rate_limits: str = Field(
        "predict=10/minute, explain=10/minute, feedback=60/minute, model=60/minute, batches=10/minute, "
        "results=60/minute, preview=120/minute",
        description="Requests for each user: ROUTE=COUNT/PERIOD, or ROUTE:ROLE=COUNT/PERIOD for one role.",
    )
    drift_window: int = Field(
        500, ge=100, le=5000, description="How many of the last products `aisle drift` compares with the reference."
    )
    retrain_every_days: int = Field(30, ge=0, description="Retrain at least this often; 0: never by the calendar.")
    retrain_min_corrections: int = Field(
        200, ge=1, description="So many products with a type that people gave since the last retraining ask for one."
    )
    retrain_least_labels: int = Field(
        50, ge=0, description="With fewer of them no drift and no calendar starts a retraining: nothing new to learn."
    )
    retrain_cooldown_hours: float = Field(
        24, ge=0, description="After a retraining nothing starts another for so long, but a person."
    )
    retrain_reviewer_share: float = Field(
        0.05, gt=0, le=1, description="The most that one reviewer's corrections weigh, as a share of the catalogue."
    )
    retrain_products: int = Field(
        500, ge=1, description="Products that a retrained model sees as shadow, and as many again as canary."
    )
    retrain_canary_share: float = Field(0.1, gt=0, le=1, description="Share of the products that a canary answers.")
    retrain_poll_seconds: float = Field(30, gt=0, description="How often `aisle retrain --watch` looks.")
    changes_webhook_url: str = Field(
        "", description="Who is told what a promotion would change in the catalogue, `https://…`; empty: nobody."
    )
    changes_webhook_secret: SecretStr = Field(
        SecretStr(""), description="Signs what CHANGES_WEBHOOK_URL is told (HMAC-SHA256); empty: it is not signed."
    )
    batches_path: Path = Field(
        default_factory=lambda known: known["data_path"] / "batches",
        description="What batches are made of and what they give; the service and its workers share it. Default:"
        " batches in DATA_PATH.",
    )
    batch_locations: str = Field(
        "",
        description="Folders and s3://BUCKET/PREFIX, separated by commas, from which a batch may take its table;"
        " empty: uploads only.",
    )
    batch_quotas: str = Field(
        "client=2/100000, reviewer=5/1000000, admin=20/100000000",
        description="ROLE=BATCHES/ROWS: how many batches of a user may be under way, and how long each may be.",
    )
    batch_max_mib: int = Field(1024, ge=1, description="The largest upload of a batch, in MiB.")
    batches_keep_days: int = Field(7, ge=1, description="How long a batch that is over is kept, with its files.")
    worker_processes: int = Field(
        0, ge=0, le=256, description="Processes of `aisle worker`; 0: as many as THREADS, or as cores."
    )
    worker_poll_seconds: float = Field(0.5, gt=0, description="How often a worker without work looks for some.")
    worker_lease_seconds: float = Field(
        30, ge=1, description="After how long the work of a worker that is not heard of is another's."
    )
    prometheus_multiproc_dir: str = Field(
        "", description="Folder in which the workers of one service add up their metrics; `aisle serve` sets it."
    )
    pushgateway_url: str = Field(
        "",
        description="Pushgateway that takes the figures of the verbs, `http://HOST:9091`; empty: they are written to"
        " DATA_PATH/metrics, for node exporter.",
    )
    auth_url: str = Field(
        "",
        description="Address of the token service, for the prediction service; empty: AUTH_HOST and AUTH_PORT, and"
        " `aisle run` starts one there.",
    )
    ray_address: str = Field(
        "",
        description="Ray cluster for `--engine ray`, `HOST:6379`, of which this machine is a node; empty: one is"
        " started on this machine.",
    )
    threads: int = Field(
        0, ge=0, description="Processor cores to use for decoding and encoding images; 0: all there are."
    )
    database_url: str = Field(
        "sqlite:///data/aisle.db",
        description="The database: `sqlite:///FILE` or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`.",
    )
    redis_url: str = Field(
        "", description="Redis that counts for every instance, `redis://HOST:6379/0`; empty: each counts in memory."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks, separated by commas, whose `X-Forwarded-For` is believed; empty: none.",
    )
    auth_host: str = Field("127.0.0.1", description="Address the token service listens on.")
    auth_port: int = Field(8011, ge=0, le=65535, description="Port of the token service; 0: any free one.")
    token_issuer: str = Field("aisle", min_length=1, description="Who issues the tokens: their claim `iss`.")
    token_audience: str = Field("aisle", min_length=1, description="Whom the tokens are for: their claim `aud`.")
    access_token_expire_minutes: int = Field(15, ge=1, le=1440, description="How long an access token is good.")
    refresh_token_expire_days: int = Field(
        14, ge=1, le=365, description="How long a sign-in lasts, however often its token is refreshed."
    )
    console_idle_hours: float = Field(
        8, gt=0, le=8760, description="How long a sign-in in the console lasts that nobody uses."
    )
    signing_algorithm: Literal["EdDSA", "ES256"] = Field(
        "EdDSA", description="How new signing keys sign: Ed25519 or ECDSA on P-256."
    )
    signing_key_passphrase: SecretStr = Field(
        SecretStr(""), description="Encrypts private signing keys in the database; empty: they are stored plain."
    )
    signing_key_lead_minutes: int = Field(
        10, ge=6, description="How long a new key is published before it signs; verifiers fetch keys every 5."
    )
    login_failures: int = Field(
        10, ge=1, description="Failed sign-ins after which an account has to wait, whether it exists or not."
    )
    login_window_minutes: int = Field(15, ge=1, description="Within how long these failures count.")
    login_attempts_per_minute: int = Field(30, ge=1, description="Sign-ins that one address may try in a minute.")
    bootstrap_admin_user: str = Field("", description="Name of the first administrator; empty: `admin`.")
    bootstrap_admin_password: SecretStr = Field(
        SecretStr(""),
        description="Its password; empty: a random one, shown once and kept in DATA_PATH/admin-password.",
    )

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _is_sqlite_or_a_server(cls, uri: str) -> str:
        """Nothing that is refused is repeated: it may hold a password."""
        if uri.lower() in ("", OFF):
            return uri.lower()
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise ValueError(NO_MLFLOW) from None
        if "@" in parts.netloc:
            raise ValueError("it holds a user or a password; DAGSHUB_USERNAME and DAGSHUB_TOKEN are for these")
        is_file = parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1
        is_server = parts.scheme in ("http", "https") and bool(parts.netloc)
        if not is_file and not is_server:
            raise ValueError(NO_MLFLOW)
        return f"{parts.scheme}{uri[len(parts.scheme) :]}"

    @field_validator("pushgateway_url", "changes_webhook_url")
    @classmethod
    def _is_a_server(cls, url: str, field: ValidationInfo) -> str:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError("it is not an address") from None
        if url and (parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc):
            raise ValueError("it is neither empty nor http(s)://HOST…, without a user or a password")
        return url.rstrip("/") if field.field_name == "pushgateway_url" else url

    @property
    def cores(self) -> int:
        """How many processor cores to use."""
        return self.threads or os.cpu_count() or 1

    @property
    def reports_path(self) -> Path:
        """Folder of what was found out about each version."""
        return self.data_path / "reports"

    @property
    def runs_path(self) -> Path:
        """Folder of what a training leaves beside its bundle, by version."""
        return self.data_path / "runs"

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow is; empty: nowhere."""
        if self.mlflow_tracking_uri == OFF:
            return ""
        return self.mlflow_tracking_uri or f"sqlite:///{self.data_path / 'mlflow.db'}"

    @property
    def token_service_url(self) -> str:
        return (self.auth_url or f"http://{self.auth_host}:{self.auth_port}").rstrip("/")


@cache
def get_settings() -> Settings:
    """The settings of this process. Raises UsageError that names the variable and what it accepts."""
    try:
        return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None)
    except UnicodeDecodeError:
        raise UsageError(".env is not UTF-8", where="settings", hint="Save it as UTF-8.") from None
    except ValidationError as error:
        first = error.errors()[0]
        variable = "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"{variable}: {first['msg']}", where="settings") from None


def environment(*, without: str, **values: object) -> dict[str, str]:
    """Of a process that is to be started: this one's, but for the variable `without`, and with these settings."""
    kept = {name: value for name, value in os.environ.items() if name != without}
    return kept | {name.upper(): str(value) for name, value in values.items()}


def override(**values: object) -> Settings:
    """Set variables for this process and those that it starts, and read the settings again. Raises UsageError."""
    os.environ |= {name.upper(): str(value) for name, value in values.items()}
    get_settings.cache_clear()
    return get_settings()


def provide(**values: object) -> None:
    """Set variables of libraries for this process and those that it starts, as far as they are not set."""
    for name, value in values.items():
        os.environ.setdefault(name.upper(), str(value))


def provide_keras() -> None:
    """Set, before Keras is imported, what it has to know; the environment goes before the settings here, too.

    oneDNN sums in an order of its own on each processor; and TensorFlow tells of the processor, past our log.
    """
    settings = get_settings()
    provide(keras_home=settings.keras_home, keras_backend=settings.keras_backend)
    provide(tf_enable_onednn_opts=0, tf_cpp_min_log_level=2)


def env_example() -> str:
    """The text of `.env.example`: every variable with its default and its meaning."""
    lines = ["# Copy to .env and change what you need. Generated by `make env-example`."]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory else field.default
        lines += ["", f"# {field.description}", f"#{name.upper()}={default}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(env_example(), end="")
