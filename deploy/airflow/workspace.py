"""The clone that the pipeline owns: brought up to date before a run, and each result recorded in it by DVC and git.

    python workspace.py prepare --source sample --rows 2700 --seed 0 --recipe light
    python workspace.py record "what it was" train evaluate
    python workspace.py update
    python workspace.py add "what it was" data/retraining catalogue corrections.csv

It runs in Airflow's environment (git and DVC are there, aisle is not). Nobody else works in the clone, so its branch
`pipeline` has the shop's code and, on top, one commit for each result.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import yaml

BRANCH = "pipeline"
IMAGE_USER = 10001
AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "aisle pipeline"), ("EMAIL", "pipeline@aisle.invalid"))
}


class Workspace:
    """The clone in `folder`, of `repository`, which may be a path or an address."""

    def __init__(self, folder: Path, repository: str) -> None:
        self.folder = folder
        self.repository = repository

    def prepare(self, source: str, rows: int, seed: int, recipe: str) -> None:
        """`update`; then write what this run is asked for into params.yaml."""
        self.update()
        self._write_parameters(
            {"import": {"source": source, "rows": rows, "seed": seed}, "train": {"recipe": recipe}}
        )

    def update(self) -> None:
        """Clone, or take over what is new."""
        if not (self.folder / ".git").is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            _call("git", "clone", "--quiet", self.repository, ".", cwd=self.folder)
            self._git("checkout", "--quiet", "-B", BRANCH)
        self._git("fetch", "--quiet", "origin", "HEAD")
        # Versions that the shop's repository has as well yield to the pipeline's own.
        self._git("merge", "--quiet", "--no-edit", "-X", "ours", "FETCH_HEAD")
        for name in ("data", "models", "logs"):
            place = self.folder / name
            place.mkdir(exist_ok=True)
            if os.geteuid() == 0:  # the tasks' containers run as somebody else
                os.chown(place, IMAGE_USER, IMAGE_USER)

    def record(self, message: str, stages: list[str]) -> str | None:
        """The commit that versions what these stages of dvc.yaml left; None where nothing changed.

        With a DVC remote it is pushed as well. A stage that left nothing is passed over.
        """
        recorded = [stage for stage in stages if self._is_complete(stage)]
        for stage in set(stages) - set(recorded):
            print(f"{stage} left nothing to record")
        if recorded:
            self._dvc("commit", "--force", *recorded)
        self._git("add", "--all", "--", "dvc.lock", "params.yaml")
        return self._commit(message, recorded)

    def add(self, message: str, folder: str, names: list[str]) -> str | None:
        """The commit that versions files and folders of `folder` that no stage of dvc.yaml makes; else as `record`.

        DVC's note of them is in the root: git does not see what is in `data/`.
        """
        if not all((self.folder / folder / name).exists() for name in names):
            print("there is nothing to add yet")
            return None
        note = f"{Path(folder).name}.dvc"
        if not (self.folder / note).is_file():
            outs = [{"path": name} for name in names]
            (self.folder / note).write_text(yaml.safe_dump({"wdir": folder, "outs": outs}))
        self._dvc("commit", "--force", note)
        self._git("add", "--", note)
        return self._commit(message, [note])

    def _commit(self, message: str, versioned: list[str]) -> str | None:
        if not self._git("diff", "--cached", "--name-only").strip():
            print("nothing changed")
            return None
        self._git("commit", "--quiet", "--message", message)
        if self._dvc("remote", "list").strip():
            self._dvc("push", *versioned)
        commit = self._git("rev-parse", "HEAD").strip()
        print(f"recorded in {commit}")
        return commit

    def _is_complete(self, stage: str) -> bool:
        outputs = yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"][stage]
        names = [next(iter(one)) if isinstance(one, dict) else one for one in outputs["outs"]]
        return all((self.folder / name).exists() for name in [*names, *outputs.get("metrics", [])])

    def _write_parameters(self, wanted: dict[str, dict[str, object]]) -> None:
        """Only what differs is touched, so that the comments stay."""
        path = self.folder / "params.yaml"
        lines, section = [], ""
        for line in path.read_text().splitlines():
            if line and not line[0].isspace() and line.rstrip().endswith(":"):
                section = line.rstrip().removesuffix(":")
            name = line.strip().partition(":")[0]
            if line[:1].isspace() and name in wanted.get(section, {}):
                value = yaml.safe_dump(wanted[section][name]).splitlines()[0]
                lines.append("".join([f"  {name}: {value}", *line.partition(" #")[1:]]))
            else:
                lines.append(line)
        path.write_text("\n".join(lines) + "\n")
        found = yaml.safe_load(path.read_text())
        for section, values in wanted.items():
            if {**found[section], **values} != found[section]:
                raise SystemExit(f"{path} has no {section}: {', '.join(values)}")

    def _git(self, *words: str) -> str:
        # The clone may belong to another user where Airflow runs as root.
        return _call("git", "-c", "safe.directory=*", *words, cwd=self.folder)

    def _dvc(self, *words: str) -> str:
        return _call(sys.executable, "-m", "dvc", *words, cwd=self.folder)


def _call(*command: str, cwd: Path) -> str:
    # DVC would keep notes in /var/tmp, which a container may not write.
    notes = {"DVC_NO_ANALYTICS": "true", "DVC_SITE_CACHE_DIR": str(cwd / ".dvc" / "tmp" / "site")}
    environment = {**os.environ, **AUTHOR, **notes}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed in {cwd}: {done.stdout.strip()} {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    prepare = verbs.add_parser("prepare")
    prepare.add_argument("--source", required=True)
    prepare.add_argument("--rows", type=int, default=2700)
    prepare.add_argument("--seed", type=int, default=0)
    prepare.add_argument("--recipe", required=True)
    record = verbs.add_parser("record")
    record.add_argument("message")
    record.add_argument("stages", nargs="+")
    verbs.add_parser("update")
    add = verbs.add_parser("add")
    add.add_argument("message")
    add.add_argument("folder")
    add.add_argument("names", nargs="+")
    asked = parser.parse_args()
    workspace = Workspace(Path(os.environ["AISLE_WORKSPACE"]), os.environ.get("AISLE_REPOSITORY", ""))
    workspace.folder.mkdir(parents=True, exist_ok=True)
    # Two DAGs work in the clone. The folder itself is locked: beside it, a container may write nothing.
    lock = os.open(workspace.folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if asked.verb == "prepare":
            workspace.prepare(asked.source, asked.rows, asked.seed, asked.recipe)
        elif asked.verb == "update":
            workspace.update()
        elif asked.verb == "add":
            workspace.add(asked.message, asked.folder, asked.names)
        else:
            workspace.record(asked.message, asked.stages)
    finally:
        os.close(lock)


if __name__ == "__main__":
    main()
