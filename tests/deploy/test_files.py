"""What the linters say of the files that containers are made of and configured by."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from tests.deploy_tools import REPOSITORY, tool

pytestmark = pytest.mark.slow

NAMED_BY_AN_ARGUMENT = "CKV_DOCKER_7"  # the base image, whose exact version is the default of its argument


def finds_nothing(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_any_dockerfile() -> None:
    finds_nothing(tool("hadolint"), "Dockerfile")


def test_checkov_finds_nothing_in_the_dockerfile() -> None:
    options = ["--framework", "dockerfile", "--quiet", "--compact", "--skip-download"]
    finds_nothing(tool("checkov"), "--file", "Dockerfile", *options, "--skip-check", NAMED_BY_AN_ARGUMENT)


def test_compose_understands_every_profile(tmp_path: Path) -> None:
    secrets = tmp_path / ".env"
    subprocess.run(["sh", REPOSITORY / "deploy/secrets.sh", secrets], check=True, capture_output=True)
    finds_nothing(tool("docker-compose"), "--env-file", secrets, "--profile", "*", "config", "--quiet")


@pytest.mark.parametrize("chain", [("data", "predict", "train", "keras"), ("auth", "serve")])
def test_what_an_image_s_packages_are_built_upon_its_lock_holds_too(chain: tuple[str, ...]) -> None:
    """Otherwise an image would hold packages that its lock does not name."""
    locks = [(REPOSITORY / "requirements" / f"{name}.txt").read_text() for name in chain]
    pinned = [set(re.findall(r"^\S+==\S+", lock, re.MULTILINE)) for lock in locks]
    for smaller, larger in pairwise(pinned):
        assert smaller < larger
