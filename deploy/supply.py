"""What the locks bring in: known holes in it (`audit`), and its licences (`licences`). Run by `make audit|licences`.

    python deploy/supply.py audit PIP-AUDIT LOCK…
    python deploy/supply.py licences PIP-LICENSES PYTHON

`requirements/answered.toml` has the findings that were looked at: each with a reason, and until when that holds.
`tool.aisle.licences` in `pyproject.toml` has the licences that may come in, and packages that were looked at by hand.

Exit codes are aisle's: 4, something was found that nobody has answered; 5, the database of holes was not reached.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ANSWERED = ROOT / "requirements" / "answered.toml"
FOUND, MISSING = 4, 5


def audit(program: str, locks: Sequence[str]) -> int:
    answers = tomllib.loads(ANSWERED.read_text(encoding="utf-8")).get("finding", [])
    today = datetime.datetime.now(datetime.UTC).date()
    code = 0
    for lock in locks:
        found = _asked(program, lock)
        skipped = [one["name"] for one in found if "skip_reason" in one]
        if skipped:
            print(f"{lock}: {len(skipped)} of {len(found)} packages could not be looked up ({skipped[0]}, …)")
            code = code or MISSING
        left = list(unanswered(found, answers, today))
        for line in left:
            print(f"{lock}: {line}")
        if left:
            code = FOUND
        elif not skipped:
            print(f"{lock}: {len(found)} packages, nothing unanswered")
    return code


def unanswered(
    found: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]], today: datetime.date
) -> Iterator[str]:
    """A line for each known hole that no answer holds for any more. An answer may name any of the hole's ids."""
    holding = {(one["package"], one["id"]) for one in answers if one["until"] >= today and one["reason"].strip()}
    for package in found:
        for hole in package.get("vulns", ()):
            ids = {hole["id"], *hole.get("aliases", ())}
            if not {(package["name"], one) for one in ids} & holding:
                fixed = ", ".join(hole["fix_versions"]) or "no version yet"
                yield f"{package['name']} {package['version']}: {hole['id']}, fixed in {fixed}"


def licences(program: str, python: str) -> int:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["aisle"]["licences"]
    asked = [program, "--python", python, "--format", "json", "--ignore-packages", "aisle"]
    found = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    left = [one for one in found if not may_come_in(one["Name"], one["License"], rules)]
    for one in found:
        answer = rules["looked-at"].get(canonical(one["Name"]), "")
        print(f"{one['Name']} {one['Version']}: {one['License']}" + (f" ({answer})" if answer else ""))
    for one in left:
        print(f"not on the list in pyproject.toml: {one['Name']} ({one['License']})", file=sys.stderr)
    return FOUND if left else 0


def may_come_in(name: str, licence: str, rules: Mapping[str, Any]) -> bool:
    """Every part of the expression has to be allowed; of alternatives one is enough."""
    if canonical(name) in rules["looked-at"]:
        return True
    allowed = {one.lower() for one in rules["allowed"]}
    if licence.lower() in allowed:
        return True
    parts = re.split(r"\s+AND\s+|;\s*", licence.replace("(", "").replace(")", ""))
    return all(any(one.strip().lower() in allowed for one in re.split(r"\s+OR\s+", part)) for part in parts)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _asked(program: str, lock: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "audit.json"
        options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        done = subprocess.run(  # noqa: S603
            [program, *options, "--requirement", lock, "--output", answer],
            check=False,
            capture_output=True,
            text=True,
        )
        if not answer.is_file():  # it ends with 1 for a finding as for a failure
            print(f"{lock}: pip-audit failed: {[*done.stderr.strip().splitlines(), ''][-1]}", file=sys.stderr)
            sys.exit(MISSING)
        found: list[dict[str, Any]] = json.loads(answer.read_text())["dependencies"]
        return found


if __name__ == "__main__":
    verb, tool, *rest = sys.argv[1:]
    sys.exit(audit(tool, rest) if verb == "audit" else licences(tool, *rest))
