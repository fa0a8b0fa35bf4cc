"""The application of compose.yaml, started as a project of its own."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.deploy.engine import Engine
from tests.deploy_tools import REPOSITORY
from tests.servers import free_port

SECRETS = REPOSITORY / "deploy" / "secrets.sh"
PUBLISHED = ("SERVE", "AUTH", "PROMETHEUS", "ALERTMANAGER", "PUSHGATEWAY")


def write_secrets(folder: Path) -> Path:
    """Secrets as `make secrets` writes them."""
    file = folder / ".env"
    subprocess.run(["sh", SECRETS, file], check=True, capture_output=True)
    return file


@dataclass
class Application:
    """A project of its own that is up, and how to call Compose for it."""

    docker: Engine
    project: str
    env_file: Path
    ports: dict[str, str]

    def compose(self, *words: str, check: bool = True) -> str:
        first = ("compose", "--project-name", self.project, "--env-file", self.env_file)
        return self.docker(*first, *words, check=check, **self.ports)

    def url_of(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[f'{name}_PUBLISH_PORT']}"

    @property
    def url(self) -> str:
        return self.url_of("SERVE")

    @property
    def token_url(self) -> str:
        return self.url_of("AUTH")

    def sign_in(self, url: str = "") -> dict[str, str]:
        values = dict(line.split("=", 1) for line in self.env_file.read_text().splitlines())
        form = {"username": values["BOOTSTRAP_ADMIN_USER"], "password": values["BOOTSTRAP_ADMIN_PASSWORD"]}
        answer = httpx.post(f"{url or self.url}/token", data=form, timeout=30)
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}


@contextlib.contextmanager
def running_application(docker: Engine, env_file: Path) -> Iterator[Application]:
    """The services without a profile, once they are well; gone at the end, with their volumes."""
    for target in ("auth", "serve", "train", "predict"):
        docker.image(target)
    mark = uuid.uuid4().hex[:8]
    ports = {f"{name}_PUBLISH_PORT": str(free_port()) for name in PUBLISHED}
    subnet = f"172.30.{int(mark[:2], 16)}.0/24"
    running = Application(docker, f"aisle-test-{mark}", env_file, {**ports, "AISLE_SUBNET": subnet})
    try:
        running.compose("up", "--detach", "--wait", "--no-build")
        yield running
    finally:
        running.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)
