"""What the verbs have in common: kinds of options, the start of a verb, the end of one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from aisle.logs import LogFile, get_logger, setup_logging
from aisle.settings import Settings, get_settings

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)

RECIPE_CHOICES = ("weights", "fine_tune", "text_models", "image_models", "teacher")

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="local: all cores of this machine. ray: the cluster at RAY_ADDRESS, or one on this machine.",
)


def contract_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the data contract, for every verb that validates."""
    function = click.option(
        "--allow-missing-types", is_flag=True, help="Go on though a type of the table has no valid row."
    )(function)
    return click.option(
        "--max-bad",
        type=click.FloatRange(0, 1),
        default=0.01,
        show_default=True,
        help="Largest share of bad rows.",
    )(function)


def recipe_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """How to train, for every verb that does: `recipe_name`, and the `choices` of the recipe."""

    @wraps(verb)
    def with_choices(**given: Any) -> Any:
        return verb(choices={name: given.pop(name) for name in RECIPE_CHOICES}, **given)

    function = click.option(
        "--teacher",
        metavar="BUNDLE",
        default=None,
        help="light learns from what this bundle says, too: champion, a version or a folder.",
    )(with_choices)
    for kind in ("text", "image"):
        function = click.option(
            f"--{kind}-models",
            metavar="NAMES",
            default=None,
            help=f"Pretrained {kind} models of full, by their names on the hub or their folders, with commas.",
        )(function)
    function = click.option(
        "--fine-tune",
        metavar="EPOCHS",
        type=click.IntRange(min=0),
        default=None,
        help="For how many epochs the models of full are trained, or VGG16's last block of lstm-vgg16, too.",
    )(function)
    function = click.option(
        "--weights",
        type=click.Choice(["auto", "imagenet", "none"]),
        default=None,
        help="Pretrained weights of lstm-vgg16; auto: ImageNet's where they can be downloaded.  [default: auto]",
    )(function)
    return click.option(
        "--recipe", "recipe_name", default="light", show_default=True, help="How to train: light, lstm-vgg16 or full."
    )(function)


def start(file: LogFile) -> Settings:
    settings = get_settings()
    setup_logging(file, settings.logs_path, level=settings.log_level)
    return settings


def print_result(result: dict[str, Any], as_json: bool, sentence: Callable[[dict[str, Any]], str]) -> None:
    click.echo(json.dumps(result, ensure_ascii=False, default=str) if as_json else sentence(result))


def start_mirror(settings: Settings, *, outside: Path | None = None) -> subprocess.Popen[bytes] | None:
    """Bring MLflow up to date in a process of its own: this one stays small, and need not wait. None: there is none.

    It ends by itself, and says what it did in the log. The run of a bundle `outside` the store is logged as well.
    """
    from importlib.util import find_spec

    from aisle.registry.mirror import needs_mirroring

    is_wanted = settings.mlflow_uri and (outside is not None or needs_mirroring(settings))
    if not is_wanted or find_spec("mlflow") is None:
        return None
    command = [sys.executable, "-m", "aisle", "registry", "mirror", *([] if outside is None else [str(outside)])]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)  # noqa: S603


def wait_for_mirror(
    mirror: subprocess.Popen[bytes] | None, settings: Settings, *, outside: Path | None = None
) -> None:
    """Give the mirroring of a training its time; what it could not do is a warning, and no failure."""
    if mirror is None:
        return
    log, again = get_logger(__name__), f"aisle registry mirror {outside or ''}".strip()
    log.info("logging the run in MLflow", mlflow=settings.mlflow_uri)
    try:
        if mirror.wait(settings.mlflow_wait_seconds) != 0:
            log.warning(f"MLflow does not have this run yet: `{again}` says why, and catches up")
    except subprocess.TimeoutExpired:
        log.warning(
            f"MLflow does not have this run yet; logging goes on by itself, and `{again}` tells whether it succeeded",
            waited_seconds=settings.mlflow_wait_seconds,
        )


def operator() -> str:
    """Who is at the terminal, for the audit trail."""
    import os
    import pwd

    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user need not have a name
        return f"cli:{os.getuid()}"
