"""DVC, for real: what is unchanged is not done again, and the data and the model of any run come back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from aisle.data.images import open_images
from aisle.files import sha256_file
from aisle.model.bundle import Bundle
from aisle.settings import Settings

if find_spec("dvc") is None:
    pytest.skip("DVC is not installed", allow_module_level=True)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[1]
PIPELINE = ("dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore", ".gitignore")
STAGES = ("import", "validate", "prepare", "train", "evaluate", "predict")
SECRET = "a-key-that-nobody-may-read"


@dataclass
class Checkout:
    """A git repository with the project's pipeline."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __call__(self, *command: str) -> str:
        ours = {name.upper() for name in Settings.model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MLFLOW_TRACKING_URI": "off"}
        environment |= {f"GIT_{role}_{what}": "t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", **self.variables}
        ran = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=800
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def type(self, lines: list[str]) -> str:
        """What somebody types, line by line, in one terminal; the first that fails is the last."""
        return self("bash", "-e", "-c", "\n".join(lines))

    def choose(self, **values: int | str) -> None:
        text = (self.folder / "params.yaml").read_text()
        for name, value in values.items():
            text, count = re.subn(rf"(?m)^(  {name}: )\w+", rf"\g<1>{value}", text)
            assert count == 1
        (self.folder / "params.yaml").write_text(text)

    def commit(self, message: str) -> None:
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "-m", message)

    def facts(self) -> dict[str, object]:
        """Of the data and the model that are here now."""
        images = open_images(self.folder / "data" / "raw")
        return {
            "titles": sha256_file(self.folder / "data" / "raw" / "X_train_update.csv"),
            "images": len(images) if images is not None else 0,
            "rows": json.loads((self.folder / "data" / "validated" / "validated.json").read_text())["result"]["rows"],
            "version": Bundle.load(self.folder / "data" / "model").version,
            "predictions": sha256_file(self.folder / "data" / "predictions" / "X_test_update.csv"),
        }


def fresh_checkout(folder: Path) -> Checkout:
    for name in PIPELINE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    made = Checkout(folder)
    made("git", "init", "--quiet")
    return made


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """After two runs, each committed; the first catalogue has 270 products, the second 300."""
    made = fresh_checkout(tmp_path_factory.mktemp("versions") / "shop")
    made.choose(rows=270)
    made("dvc", "repro")
    made.commit("the first run")
    made.choose(rows=300)
    made("dvc", "repro")
    made.commit("the second run")
    return made


def test_what_is_unchanged_is_not_done_again(checkout: Checkout) -> None:
    said = checkout("dvc", "repro")
    assert [stage for stage in STAGES if f"Stage '{stage}' didn't change, skipping" in said] == list(STAGES)


def test_what_was_changed_is_done_again_and_nothing_before_it(checkout: Checkout) -> None:
    before = (checkout.folder / "src" / "aisle" / "batch" / "local.py").read_text()
    (checkout.folder / "src" / "aisle" / "batch" / "local.py").write_text(before + "# changed\n")
    said = checkout("dvc", "repro", "--dry")
    checkout("git", "checkout", "--quiet", "src")
    assert re.findall(r"Running stage '(\w+)'", said) == ["predict"]


def test_the_data_and_the_model_of_an_earlier_run_come_back(checkout: Checkout) -> None:
    now = checkout.facts()
    checkout("git", "checkout", "--quiet", "HEAD~1")
    checkout("dvc", "checkout")
    earlier = checkout.facts()
    checkout("git", "checkout", "--quiet", "-")
    checkout("dvc", "checkout")
    assert (earlier["rows"], now["rows"]) == (270, 300)
    assert all(earlier[name] != now[name] for name in earlier)
    assert checkout.facts() == now


def test_figures_of_two_runs_are_compared(checkout: Checkout) -> None:
    assert "weighted_f1" in checkout("dvc", "metrics", "diff", "HEAD~1")
    assert "import.rows" in checkout("dvc", "params", "diff", "HEAD~1")


def test_git_has_the_versions_and_no_data(checkout: Checkout) -> None:
    tracked = checkout("git", "ls-files").split()
    assert "dvc.lock" in tracked
    assert not [name for name in tracked if name.startswith(("data/", "models/"))]


def cloned(checkout: Checkout, folder: Path) -> Checkout:
    """A fresh clone with everything that was pushed, by the same remote."""
    checkout("git", "clone", "--quiet", str(checkout.folder), str(folder))
    shutil.copyfile(checkout.folder / ".dvc" / "config.local", folder / ".dvc" / "config.local")
    clone = Checkout(folder, checkout.variables)
    clone("dvc", "pull")
    return clone


def test_a_fresh_clone_pulls_data_images_and_model_from_a_folder(checkout: Checkout, tmp_path: Path) -> None:
    checkout("dvc", "remote", "add", "--local", "--force", "-d", "shelf", str(tmp_path / "shelf"))
    checkout("dvc", "push")
    clone = cloned(checkout, tmp_path / "clone")
    assert clone.facts() == checkout.facts()
    assert "Data and pipelines are up to date" in clone("dvc", "repro")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server with the empty bucket `shop`."""
    import boto3
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.post(f"http://{host}:{port}/moto-api/reset", timeout=30)  # what a server before it kept in this process
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="shop")
    yield f"http://{host}:{port}"
    server.stop()


def test_data_and_model_travel_by_s3_and_no_key_is_written_down(
    checkout: Checkout, bucket: str, tmp_path: Path
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    by_s3 = Checkout(checkout.folder, keys)
    by_s3("dvc", "remote", "add", "--local", "--force", "-d", "s3", "s3://shop/versions")
    by_s3("dvc", "remote", "modify", "--local", "s3", "endpointurl", bucket)
    by_s3("dvc", "push")
    clone = cloned(by_s3, tmp_path / "clone")
    assert clone.facts() == checkout.facts()
    for path in clone.folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def typed(page: str, heading: str = "", **placeholders: str) -> list[str]:
    """The lines with a `$` below a heading of a page, down to the next one; without a heading those about DVC."""
    found, here = [], ""
    for line in (ROOT / page).read_text().splitlines():
        here = line.lstrip("# ") if line.startswith("#") else here
        if line.startswith("$ ") and (here == heading or (not heading and "dvc" in line)):
            found.append(line[2:])
    for name, value in placeholders.items():
        assert any(name in line for line in found), name
        found = [line.replace(name, value) for line in found]
    assert found
    return found


def without_dvc_on_the_path(checkout: Checkout) -> Checkout:
    """As a terminal is when it is opened, but for the address of MLflow."""
    (checkout.folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    return Checkout(checkout.folder, {**checkout.variables, "PATH": os.defpath})


def test_what_the_pages_tell_to_type_works_as_it_is_typed(checkout: Checkout, bucket: str, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(checkout.folder, shop, symlinks=True, ignore=shutil.ignore_patterns("config.local"))
    terminal = without_dvc_on_the_path(Checkout(shop, {"AWS_DEFAULT_REGION": "us-east-1"}))
    terminal.choose(rows=285)
    assert "Running stage 'import'" in terminal.type(typed("README.md"))
    lines = typed(
        "docs/ledger.md",
        "DVC",
        SOME_COMMIT="HEAD~1",
        ENDPOINT=bucket,
        KEY_ID="somebody",
        SECRET_KEY=SECRET,
        **{"/mnt/versions": str(tmp_path / "shelf"), "s3://bucket/": "s3://shop/"},
    )
    said = terminal.type(lines)
    assert "weighted_f1" in said
    assert "files pushed" in said
    assert Checkout(shop).facts()["rows"] == 300


@pytest.mark.soak
def test_a_catalogue_without_a_test_part_that_changes_outside_takes_the_way_that_the_page_shows(
    sample: Path, tmp_path: Path
) -> None:
    source = tmp_path / "catalogue"
    shutil.copytree(sample, source, ignore=shutil.ignore_patterns("X_test_update.csv"))
    shop = fresh_checkout(tmp_path / "shop")
    shop.choose(source=str(source))
    shop("dvc", "remote", "add", "--local", "-d", "shelf", str(tmp_path / "shelf"))
    with_venv = ["source .venv/bin/activate"]
    terminal = without_dvc_on_the_path(shop)
    *here, elsewhere = typed("docs/ledger.md", "A catalogue without a test part")
    terminal.type(with_venv + here)
    shop.commit("the first run")
    shop("git", "clone", "--quiet", str(shop.folder), str(tmp_path / "clone"))
    shutil.copyfile(shop.folder / ".dvc" / "config.local", tmp_path / "clone" / ".dvc" / "config.local")
    clone = Checkout(tmp_path / "clone")
    clone.type([elsewhere])
    model = Bundle.load(shop.folder / "data" / "model")
    assert Bundle.load(clone.folder / "data" / "model").version == model.version

    table = source / "X_train_update.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*lines[:-1], lines[-1].replace(",", ",Neuf : ", 1)]))
    assert "Running stage" not in shop("dvc", "repro", "evaluate")
    again, _ = typed("docs/ledger.md", "When the source outside has changed")
    terminal.type([*with_venv, again, here[0]])
    assert Bundle.load(shop.folder / "data" / "model").version != model.version
