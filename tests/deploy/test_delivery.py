"""The scripts that workflows call: the smoke test on real services, deployment into a cluster that is a folder."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.deploy_kubectl import kubectl
from tests.deploy_tools import REPOSITORY, tool
from tests.servers import free_port
from tests.service.processes import PASSWORD, Running, Shop, wait_for

from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore

DEPLOY = REPOSITORY / "deploy"
Done = subprocess.CompletedProcess[str]


def run(script: str, *words: str, environment: Mapping[str, str] | None = None, stdin: str = "") -> Done:
    """A script of `deploy/`, in the working directory of the test."""
    command, known = [str(DEPLOY / script), *words], os.environ | dict(environment or {})
    return subprocess.run(command, check=False, capture_output=True, text=True, input=stdin, env=known)


# --- The smoke test


@pytest.fixture(scope="module")
def services(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A prediction service, and a token service behind it."""
    with serving(bundle, tmp_path_factory.mktemp("shop")) as running:
        yield running


@contextlib.contextmanager
def serving(bundle: Bundle, folder: Path, **settings: str) -> Iterator[Running]:
    store = BundleStore(folder / "models")
    store.add(bundle)
    store.make_champion(bundle.version)
    known = {
        "PORT": "0",
        "AUTH_PORT": str(free_port()),
        "BOOTSTRAP_ADMIN_USER": "smoke",
        "BOOTSTRAP_ADMIN_PASSWORD": PASSWORD,
        "LOGIN_ATTEMPTS_PER_MINUTE": "1000",
        "LOGIN_FAILURES": "1000",
        "RATE_LIMITS": "predict=1000/minute",
        "DRAIN_SECONDS": "0",
        "LOGS_PATH": "logs",
    }
    shop = Shop(folder, {**known, **settings})
    with shop.running("auth"), shop.running("serve") as running:
        yield running


def smoke(url: str, password: str = PASSWORD) -> Done:
    for needed in ("curl", "jq"):
        tool(needed)
    asked = {"SMOKE_URL": url, "SMOKE_USER": "smoke", "SMOKE_PASSWORD": password, "SMOKE_WAIT_SECONDS": "1"}
    done = run("smoke-test.sh", environment=asked)
    assert password not in done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_service_that_works_passes(services: Running, bundle: Bundle) -> None:
    done = smoke(services.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"by model {bundle.version}")


@pytest.mark.slow
def test_a_wrong_password_fails_and_says_so(services: Running) -> None:
    done = smoke(services.url, password="not the password")
    assert done.returncode == 4
    assert "smoke test: /token: " in done.stderr
    assert "urn:aisle:problem:wrong-credentials" in done.stderr


@pytest.mark.slow
def test_a_service_that_is_not_ready_fails_though_it_still_answers(bundle: Bundle, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, DRAIN_SECONDS="5") as running:
        running.process.terminate()
        wait_for(lambda: not running.is_ready())
        assert httpx.get(f"{running.url}/livez").status_code == 200
        done = smoke(running.url)
    assert done.returncode == 4
    assert "smoke test: /readyz: " in done.stderr


@pytest.mark.slow
def test_a_service_that_cannot_hand_on_a_sign_in_fails(bundle: Bundle, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, AUTH_URL=f"http://127.0.0.1:{free_port()}") as running:
        done = smoke(running.url)
    assert done.returncode == 4
    assert "smoke test: /token: " in done.stderr


def test_nobody_there_fails() -> None:
    done = smoke(f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 4
    assert "smoke test: /readyz: " in done.stderr


def test_an_address_that_is_missing_is_named() -> None:
    done = run("smoke-test.sh")
    assert done.returncode != 0
    assert "SMOKE_URL: is the address" in done.stderr


# --- Deployment. GitHub, Sigstore and a cluster are not to be had here: the programs below stand for them, and a
# service that answers as the release does that the cluster runs.

GH = """
    # gh release download VERSION … --output FILE …
    place = sys.argv[sys.argv.index("--output") + 1]
    shutil.copy(world / "releases" / sys.argv[3], place)
"""
COSIGN = """
    # cosign verify IMAGE --certificate-identity WHO …
    who = sys.argv[sys.argv.index("--certificate-identity") + 1]
    sys.exit(f"{sys.argv[2]} {who}" not in (world / "signatures").read_text().splitlines())
"""
KUBECTL = """
    words = sys.argv[1:]
    namespace = ""
    if words[0] == "--namespace":
        _, namespace, *words = words
    record = world / f"record-{namespace}.json"

    def holds_one_of(manifests, faults):  # is an image of these among those that are to fail so?
        return any(digest in (world / manifests).read_text() for digest in (world / faults).read_text().split())

    match words:
        case ["kustomize", *_] | ["create", "configmap", *_]:  # nothing that needs a cluster
            os.execv(REAL, ["kubectl", *words])
        case ["get", "configmap", "aisle-release", *options]:
            key = options[-1].removeprefix("jsonpath={.data.").removesuffix("}")
            print(json.loads(record.read_text())[key] if record.exists() else "", end="")
        case ["apply", "--filename", "-"]:
            record.write_text(json.dumps(yaml.safe_load(sys.stdin)["data"]))
        case ["apply", "--filename", file]:
            shutil.copy(file, world / "applied.yaml")
        case ["apply", "--filename", file, "--selector", _]:
            shutil.copy(file, world / "migrating.yaml")
        case ["delete", "job", *_] | ["logs", *_]:
            pass
        case ["wait", "job", *_]:
            sys.exit(holds_one_of("migrating.yaml", "never-migrated"))
        case ["rollout", "status", *_]:
            sys.exit(holds_one_of("applied.yaml", "never-ready"))
        case _:
            sys.exit(f"kubectl: not expected: {words}")
"""


@dataclass
class World:
    """A repository with releases, a cluster, and what runs there."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def release(self, version: str, *, signed_on: str = "", registry: str = "ghcr.io/shop/aisle") -> str:
        """Publish a release; the digest of its images."""
        for words in (["commit", "--allow-empty", "--quiet", "--message", version], ["tag", version]):
            git(self.repository, *words)
        digest = "sha256:" + version.encode().hex().rjust(64, "0")
        images = [(target, f"{registry}/{target}@{digest}") for target in ("auth", "predict", "serve")]
        (self.folder / "releases" / version).write_text("".join(f"{target} {image}\n" for target, image in images))
        who = f"https://github.com/Shop/Aisle/.github/workflows/release.yml@refs/tags/{signed_on or version}"
        with (self.folder / "signatures").open("a") as file:
            file.writelines(f"{image} {who}\n" for _, image in images)
        return digest

    def deploy(self, version: str) -> Done:
        return run("deploy.sh", "staging", version, environment=self.environment)

    @property
    def record(self) -> dict[str, str]:
        content = json.loads((self.folder / "record-aisle-staging.json").read_text())
        assert isinstance(content, dict)
        return content

    @property
    def applied(self) -> str:
        path = self.folder / "applied.yaml"
        return path.read_text() if path.exists() else ""

    def fail(self, how: str, *digests: str) -> None:
        """Images of these releases are `never-migrated`, `never-ready`, or `unable` to predict."""
        (self.folder / how).write_text(" ".join(digests))


def git(folder: Path, *words: str) -> None:
    who = {"GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@example.com"}
    who |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
    subprocess.run(["git", *words], cwd=folder, check=True, env=os.environ | who)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    repository = tmp_path / "repository"
    shutil.copytree(DEPLOY / "kubernetes", repository / "deploy" / "kubernetes")
    monkeypatch.chdir(repository)
    git(repository, "init", "--quiet")
    git(repository, "add", ".")
    (tmp_path / "releases").mkdir()
    for name in ("signatures", "never-migrated", "never-ready", "unable"):
        (tmp_path / name).touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in (("gh", GH), ("cosign", COSIGN), ("kubectl", KUBECTL)):
        head = f"""
            #!{sys.executable}
            import json, os, pathlib, shutil, sys, yaml
            REAL = {kubectl()!r}
            world = pathlib.Path({str(tmp_path)!r})
        """
        (programs / name).write_text(textwrap.dedent(head).lstrip() + textwrap.dedent(body))
        (programs / name).chmod(0o755)
    with answering_for(tmp_path) as url:
        yield World(
            tmp_path,
            {
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "GITHUB_REPOSITORY": "Shop/Aisle",
                "SMOKE_URL": url,
                "SMOKE_USER": "smoke",
                "SMOKE_PASSWORD": PASSWORD,
                "SMOKE_WAIT_SECONDS": "0",
            },
        )


@contextlib.contextmanager
def answering_for(cluster: Path) -> Iterator[str]:
    """A service that is what the cluster runs: it predicts unless it is a release that is listed in `unable`."""
    answers = {
        "/readyz": {"status": "ready"},
        "/livez": {"status": "alive"},
        "/status": {"status": "L'API fonctionne correctement"},
        "/token": {"access_token": "abc"},
        "/predict": {"predicted": "2583", "model": "0123456789ab"},
    }

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            applied, unable = (cluster / "applied.yaml").read_text(), (cluster / "unable").read_text().split()
            fails = self.path == "/predict" and any(digest in applied for digest in unable)
            self.send_response(500 if fails else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answers[self.path]).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_release_is_rolled_out_by_digest_and_recorded(world: World) -> None:
    digest = world.release("v0.1.0")
    done = world.deploy("v0.1.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "staging: it runs v0.1.0"
    assert world.applied.count(f"image: ghcr.io/shop/aisle/serve@{digest}") == 1
    assert world.applied.count("image: ") == world.applied.count(f"@{digest}")
    assert world.record == {"version": "v0.1.0", "previous": ""}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["never-migrated", "never-ready", "unable"])
def test_a_release_that_fails_makes_way_for_the_one_before(world: World, fault: str) -> None:
    good = world.release("v0.1.0")
    world.deploy("v0.1.0")
    world.fail(fault, world.release("v0.2.0"))
    done = world.deploy("v0.2.0")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "staging: v0.2.0 failed; it runs v0.1.0 again"
    assert good in world.applied
    assert world.record == {"version": "v0.1.0", "previous": ""}


@pytest.mark.slow
def test_migrations_that_fail_leave_the_services_as_they_were(world: World) -> None:
    good = world.release("v0.1.0")
    world.deploy("v0.1.0")
    world.fail("never-migrated", world.release("v0.2.0"))
    done = run("roll-out.sh", "staging", "v0.2.0", environment=world.environment)
    assert done.returncode == 1
    assert "the services are as they were" in done.stderr
    assert good in world.applied


@pytest.mark.slow
def test_a_way_back_that_fails_too_is_told(world: World) -> None:
    good = world.release("v0.1.0")
    world.deploy("v0.1.0")
    world.fail("never-ready", good, world.release("v0.2.0"))
    done = world.deploy("v0.2.0")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].endswith("look at it now")


@pytest.mark.slow
def test_a_first_release_that_fails_has_nothing_to_go_back_to(world: World) -> None:
    world.fail("never-ready", world.release("v0.1.0"))
    done = world.deploy("v0.1.0")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "staging: v0.1.0 failed, and there is nothing else to go back to"


@pytest.mark.slow
def test_previous_is_what_ran_before(world: World) -> None:
    first = world.release("v0.1.0")
    world.release("v0.2.0")
    for version in ("v0.1.0", "v0.2.0", "previous"):
        done = world.deploy(version)
        assert done.returncode == 0, done.stderr
    assert first in world.applied
    assert world.record == {"version": "v0.1.0", "previous": "v0.2.0"}


@pytest.mark.slow
def test_the_manifests_are_those_of_the_release(world: World) -> None:
    settings = world.repository / "deploy" / "kubernetes" / "base" / "settings.env"
    world.release("v0.1.0")
    settings.write_text(settings.read_text() + "\nPREDICTIONS_KEEP_DAYS=7\n")
    git(world.repository, "add", ".")
    world.release("v0.2.0")
    world.deploy("v0.2.0")
    assert "PREDICTIONS_KEEP_DAYS" in world.applied
    world.deploy("v0.1.0")
    assert "PREDICTIONS_KEEP_DAYS" not in world.applied


@pytest.mark.slow
def test_images_that_the_release_workflow_did_not_sign_on_that_tag_stay_out(world: World) -> None:
    world.release("v0.1.0", signed_on="v0.0.9")
    done = world.deploy("v0.1.0")
    assert done.returncode == 4
    assert "is not signed by the release workflow" in done.stderr
    assert world.applied == ""


@pytest.mark.slow
def test_images_of_another_registry_stay_out(world: World) -> None:
    world.release("v0.1.0", registry="ghcr.io/somebody/else")
    done = world.deploy("v0.1.0")
    assert done.returncode == 4
    assert "is no image of ghcr.io/shop/aisle/" in done.stderr
    assert world.applied == ""


@pytest.mark.slow
def test_an_image_that_the_release_lacks_stays_out(world: World) -> None:
    world.release("v0.1.0")
    images = world.folder / "releases" / "v0.1.0"
    images.write_text("".join(line for line in images.read_text().splitlines(True) if not line.startswith("serve ")))
    done = world.deploy("v0.1.0")
    assert done.returncode == 4
    assert "these images have no digest in v0.1.0" in done.stderr
    assert world.applied == ""


# --- Notes and training

CHANGELOG = "# Changelog\n\n## Unreleased\n\n- c\n\n## 0.2.0 (2026-11-24)\n\n- b\n\n## 0.2.0rc1\n\n- a\n"


@pytest.mark.parametrize(("version", "notes"), [("v0.2.0", "- b"), ("v0.2.0rc1", "- a")])
def test_the_notes_of_a_release_are_its_part_of_the_changelog(version: str, notes: str) -> None:
    assert run("release-notes.sh", version, stdin=CHANGELOG).stdout.strip() == notes


def test_a_release_without_notes_is_refused() -> None:
    done = run("release-notes.sh", "v0.3.0", stdin=CHANGELOG)
    assert done.returncode == 4
    assert "CHANGELOG.md has nothing under ## 0.3.0" in done.stderr


@pytest.mark.slow
@pytest.mark.soak
def test_training_leaves_a_bundle_and_a_report_and_promotes_nothing(tmp_path: Path) -> None:
    aisle = str(Path(sys.executable).with_name("aisle"))
    environment = {"SOURCE": "sample", "RECIPE": "light", "ROWS": "540", "AISLE": aisle}
    done = run("train.sh", "trained", environment=environment)
    assert done.returncode == 0, done.stderr
    version = json.loads((tmp_path / "trained" / "bundle" / "manifest.json").read_text())["version"]
    report = (tmp_path / "trained" / "report.md").read_text()
    assert "`light` on `sample`" in report
    assert f"model {version}" in report
    assert (tmp_path / "trained" / "evaluation" / "evaluation.json").is_file()
    assert not (tmp_path / "models").exists()
