"""Real servers for tests: found or installed, started on free ports in a folder of their own.

PostgreSQL, Redis and nginx, and what watches: Prometheus, Alertmanager, Pushgateway and node exporter.

Debian's packages are installed where the tests run as root. Where a server is not to be had, the tests that need it
skip and say why.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

START_SECONDS = 120
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class RunningRedis:
    url: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """A port that was free a moment ago, for servers that cannot take port 0."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL for the session, with an empty database `postgres`."""
    with new_cluster() as cluster, cluster.running():
        yield cluster.url


@pytest.fixture
def empty_postgres(postgres_url: str) -> Iterator[str]:
    """A database of its own for one test."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield postgres_url.removesuffix("postgres") + name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RunningRedis]:
    """A Redis of its own for one test, which may stop it."""
    with redis(tmp_path / "redis") as running:
        yield running


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL that runs when it is told to, as often as it is, always at the same address."""

    program: Path
    folder: Path
    port: int
    owner: int | None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://aisle@127.0.0.1:{self.port}/postgres"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        options = ["-k", str(self.folder), "-h", "127.0.0.1", "-p", str(self.port), "-c", "fsync=off"]
        command = [str(self.program), "-D", str(self.folder / "data"), *options]
        isready = str(self.program.with_name("pg_isready"))
        asked = [isready, "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "aisle"]
        with _running(command, self.folder, _postgres_environment(), signal.SIGINT, self.owner) as process:
            _wait(process, lambda: _succeeds(asked), self.folder)
            yield


@contextlib.contextmanager
def new_cluster() -> Iterator[Cluster]:
    """A PostgreSQL that does not run yet, as another account where the tests run as root, which it refuses.

    Its folder is not one of pytest's: those are closed to other accounts by every session that starts.
    """
    initdb = find_program("initdb", "postgresql-15")
    with tempfile.TemporaryDirectory(prefix="aisle-postgres-") as name:
        folder = Path(name)
        account = _unprivileged()
        owner: int | None = None
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
            owner = account.pw_uid
        subprocess.run(
            [initdb, "-D", str(folder / "data"), "-U", "aisle", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True, capture_output=True, env=_postgres_environment(), cwd=folder, user=owner,
        )  # fmt: skip
        yield Cluster(Path(initdb).with_name("postgres"), folder, free_port(), owner)


def _postgres_environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[RunningRedis]:
    """A new Redis that keeps nothing on the disk."""
    program = find_program("redis-server", "redis-server")
    folder.mkdir(parents=True)
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with _running(command, folder, dict(os.environ), signal.SIGTERM, None) as process:
        _wait(process, lambda: _accepts(port), folder)
        yield RunningRedis(f"redis://127.0.0.1:{port}/0", process)


@contextlib.contextmanager
def nginx(folder: Path, *ports: int) -> Iterator[str]:
    """An nginx before services on `ports`, as docs/api.md recommends it; its address."""
    program = find_program("nginx", "nginx")
    folder.mkdir(parents=True)
    port = free_port()
    servers = "".join(f"server 127.0.0.1:{one} max_fails=0;" for one in ports)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; worker_processes 1; {"user root;" if os.geteuid() == 0 else ""}
        error_log stderr;
        events {{}}
        http {{
            access_log off;
            {"".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)}
            upstream aisle {{ {servers} keepalive 16; }}
            server {{
                listen 127.0.0.1:{port};
                client_max_body_size 8m;
                location / {{
                    proxy_pass http://aisle;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                }}
            }}
        }}
    """)
    command = [program, "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with _running(command, folder, dict(os.environ), signal.SIGTERM, None) as process:
        _wait(process, lambda: _accepts(port), folder)
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def prometheus(folder: Path, config: str) -> Iterator[str]:
    """A Prometheus with this configuration (YAML), whose relative paths begin in `folder`; its address.

    127.0.0.1:9090 in the configuration is Prometheus itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "prometheus.yaml").write_text(config.replace("127.0.0.1:9090", f"127.0.0.1:{port}"))
    options = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with _watching("prometheus", "prometheus", folder, *options, port=port) as url:
        yield url


@contextlib.contextmanager
def alertmanager(folder: Path, config: str) -> Iterator[str]:
    """An Alertmanager with this configuration (YAML), alone; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alertmanager.yaml").write_text(config)
    options = [f"--config.file={folder}/alertmanager.yaml", f"--storage.path={folder}/data"]
    alone = "--cluster.listen-address="
    with _watching("prometheus-alertmanager", "prometheus-alertmanager", folder, *options, alone) as url:
        yield url


@contextlib.contextmanager
def pushgateway(folder: Path) -> Iterator[str]:
    """A Pushgateway that forgets at its end; its address."""
    keeping_nothing = "--persistence.file="  # Debian's keeps it in /var
    with _watching("prometheus-pushgateway", "prometheus-pushgateway", folder, keeping_nothing) as url:
        yield url


@contextlib.contextmanager
def node_exporter(folder: Path, textfiles: Path) -> Iterator[str]:
    """This machine's figures, and those of the `*.prom` in a folder; its address."""
    option = f"--collector.textfile.directory={textfiles.absolute()}"
    with _watching("prometheus-node-exporter", "prometheus-node-exporter", folder, option, ready="/metrics") as url:
        yield url


@contextlib.contextmanager
def _watching(
    name: str, package: str, folder: Path, *options: str, ready: str = "/-/ready", port: int | None = None
) -> Iterator[str]:
    """One of Prometheus' programs, once it is ready."""
    program = find_program(name, package)
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port or free_port()}"
    command = [program, f"--web.listen-address={url.removeprefix('http://')}", *options]
    with _running(command, folder, dict(os.environ), signal.SIGTERM, None) as process:
        _wait(process, lambda: _answers(f"{url}{ready}"), folder)
        yield url


def find_program(name: str, *packages: str) -> str:
    """The path of a program, installed from Debian's `packages` if it is missing; skips where that cannot be."""
    with _one_installation():
        return _found_or_installed(name, *packages)


@contextlib.contextmanager
def _one_installation() -> Iterator[None]:
    """Debian's tools refuse a second one at work, and tests may run side by side."""
    with (Path(tempfile.gettempdir()) / f"aisle-installing-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _found_or_installed(name: str, *packages: str) -> str:
    found = _find(name)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        # Debian starts a server when it installs it; the policy file's answer 101 forbids that.
        policy = Path("/usr/sbin/policy-rc.d")
        ours = not policy.exists()
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
                subprocess.run(["apt-get", *arguments], check=False, capture_output=True, env=environment)
        finally:
            if ours:
                policy.unlink()
        found = _find(name)
    if found is None:
        pytest.skip(f"{name} is not here and cannot be installed (Debian: {', '.join(packages)})")
    return found


def _find(name: str) -> str | None:
    debian = [str(path) for path in sorted(DEBIAN_POSTGRES.glob("*/bin"), reverse=True)]
    return shutil.which(name, path=os.pathsep.join([*debian, os.environ.get("PATH", os.defpath), "/usr/sbin"]))


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs PostgreSQL when the tests run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("no account but root to run PostgreSQL with")


@contextlib.contextmanager
def _running(
    command: list[str], folder: Path, environment: dict[str, str], stop: signal.Signals, owner: int | None
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, user=owner
        )
        try:
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "output.log").read_text(errors="replace"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False
