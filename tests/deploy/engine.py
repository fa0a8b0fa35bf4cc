"""A real Docker engine, found or started, and the images that the repository's own are built on.

Where no engine answers, one is installed (as root, from Debian's packages) and started in a folder of its own. Where
no image registry does, images of the same names stand in for the official ones: the base is made by debootstrap,
PostgreSQL and Redis are Debian's. Building and starting is the real thing all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.deploy_tools import REPOSITORY, tool
from tests.servers import find_program

IMAGES = Path(__file__).with_name("images")
BASE, RELEASE = "python:3.11.14-slim-bookworm", "bookworm"
CLIENT = "docker:28.5.2-cli"
DEBIAN_IMAGES = {"postgres:15.18-bookworm": "postgres", "redis:7.0.15-bookworm": "redis"}
WATCHING_IMAGES = {
    "prom/prometheus:v3.5.0": "prometheus",
    "prom/alertmanager:v0.28.1": "alertmanager",
    "prom/pushgateway:v1.11.4": "pushgateway",
    "prom/node-exporter:v1.9.1": "node-exporter",
}
"""Older ones stand in for them, of Debian; of Grafana there is none."""
REVISION = "0123456789abcdef"
SECONDS = 1500
LAST_WITH_BUILDKIT_INSIDE = 22


@dataclass
class Engine:
    """`docker` words, in an environment in which it finds the engine, BuildKit and Compose."""

    environment: Mapping[str, str]
    built: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, check: bool = True, **variables: str) -> str:
        """What the command printed; a test fails with its complaint unless `check` is off."""
        done = subprocess.run(
            ["docker", *map(str, words)],
            env={**self.environment, **variables},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"docker {' '.join(map(str, words))}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        return done.stdout if check else done.stdout + done.stderr

    def image(self, target: str) -> str:
        """The image of a stage of the Dockerfile, built once; the name is ours again if a pipeline took it since."""
        name = f"aisle/{target}:dev"
        if target not in self.built:
            self("build", "--target", target, "--tag", name, "--build-arg", f"REVISION={REVISION}", ".")
            self.built[target] = self("image", "inspect", "--format", "{{.Id}}", name).strip()
        self("tag", self.built[target], name)
        return name

    def has(self, image: str) -> bool:
        """Is it here, or can it be had?"""
        return self._answers("image", "inspect", image) or self._answers("pull", "--quiet", image)

    def _answers(self, *words: str) -> bool:
        return _succeeds(["docker", *words], self.environment)


@contextlib.contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """An engine that answers, with everything that the Dockerfile and Compose ask for."""
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        if not _answers(environment):
            environment["DOCKER_HOST"] = stack.enter_context(_daemon(folder / "engine"))
        environment |= _client(folder, environment)
        engine = Engine(environment)
        _provide_images(engine, folder)
        yield engine


def _answers(environment: Mapping[str, str]) -> bool:
    with contextlib.suppress(OSError):
        return _succeeds(["docker", "info"], environment)
    return False


@contextlib.contextmanager
def _daemon(folder: Path) -> Iterator[str]:
    """A dockerd of our own, for as long as the context lasts; its address."""
    find_program("dockerd", "docker.io", "iptables")
    folder.mkdir(parents=True)
    address = f"unix://{folder}/docker.sock"
    places = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    # Mounts of its own: on a machine that is a container itself none is shared, as that of node exporter has to be.
    command = ["unshare", "--mount", "--propagation", "shared", "dockerd", f"--host={address}", *places]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not _answers({**os.environ, "DOCKER_HOST": address}):
            if process.poll() is not None or time.monotonic() > deadline:
                last = (folder / "log").read_text(errors="replace")[-500:]
                pytest.skip(f"no Docker engine can be started here: {last}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)  # many gigabytes


def _client(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """A client that builds with BuildKit and has Compose, as `docker` on the path."""
    found = {"DOCKER_BUILDKIT": "1"}
    candidates = [one for one in (shutil.which("docker"), "/usr/bin/docker") if one and Path(one).exists()]
    able = [one for one in candidates if _builds(one, environment)]
    if not able:
        pytest.skip("docker builds without BuildKit here: install its plug-in buildx")
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "bin" / "docker").symlink_to(able[0])
    found["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    if not _succeeds([able[0], "compose", "version"], environment):
        plugins = folder / "config" / "cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(tool("docker-compose"))
        found["DOCKER_CONFIG"] = str(folder / "config")
    return found


def _builds(docker: str, environment: Mapping[str, str]) -> bool:
    """Older clients have BuildKit inside, newer ones ask a plug-in."""
    version = subprocess.check_output([docker, "--version"], env=environment, text=True)
    major = re.search(r"version (\d+)", version)
    if major and int(major[1]) <= LAST_WITH_BUILDKIT_INSIDE:
        return True
    return _succeeds([docker, "buildx", "version"], environment)


def _succeeds(command: list[str], environment: Mapping[str, str]) -> bool:
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def _provide_images(engine: Engine, folder: Path) -> None:
    if not engine.has(BASE):
        _import_base(engine, folder / "base")
    if not engine.has(CLIENT):
        context = folder / "client"
        context.mkdir()
        shutil.copy2((folder / "bin" / "docker").resolve(), context / "docker")
        shutil.copy2(tool("docker-compose"), context / "docker-compose")
        engine("build", "--tag", CLIENT, "--file", IMAGES / "client" / "Dockerfile", context)
    for name, stand_in in DEBIAN_IMAGES.items():
        if not engine.has(name):
            engine("build", "--tag", name, IMAGES / stand_in)


def provide_watching(engine: Engine) -> None:
    """The images of the profile `monitoring`, Grafana's excepted."""
    for name, target in WATCHING_IMAGES.items():
        if not engine.has(name):
            engine("build", "--target", target, "--tag", name, IMAGES / "watching")


def _import_base(engine: Engine, folder: Path) -> None:
    """Debian's minimal system with its Python, which is of the same minor version as that of the official image."""
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    debootstrap = find_program("debootstrap", "debootstrap")
    subprocess.run([debootstrap, "--variant=minbase", packages, RELEASE, folder], check=True, capture_output=True)
    # Whom this machine trusts, pip trusts inside as well: it may be behind a proxy of its own.
    trusted = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copyfile(trusted, folder / "etc/ssl/certs/ca-certificates.crt")
    with subprocess.Popen(["tar", "--directory", folder, "--create", "."], stdout=subprocess.PIPE) as archive:
        subprocess.run(
            ["docker", "import", "--change", 'CMD ["python3"]', "-", BASE],
            env=engine.environment, stdin=archive.stdout, check=True, capture_output=True,
        )  # fmt: skip
    shutil.rmtree(folder)
