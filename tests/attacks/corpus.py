"""Inputs that fuzzing found to reach code of their own, kept for every run of the tests: the shortest of each target.

python -m tests.attacks.corpus TARGET FOLDER    # keep what lies in FOLDER, as `make corpus` does
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")
MOST, LONGEST = 60, 600
"""Inputs of each target, and bytes of each."""


def kept(target: str) -> list[bytes]:
    return [base64.b64decode(one) for one in json.loads((FOLDER / f"{target}.json").read_text())]


def keep(target: str, folder: Path) -> int:
    found = sorted({path.read_bytes() for path in folder.iterdir()}, key=lambda one: (len(one), one))
    chosen = [one for one in found if len(one) <= LONGEST][:MOST]
    FOLDER.mkdir(exist_ok=True)
    encoded = [base64.b64encode(one).decode() for one in chosen]
    (FOLDER / f"{target}.json").write_text(json.dumps(encoded, indent=0) + "\n")
    return len(chosen)


if __name__ == "__main__":
    print(f"{sys.argv[1]}: {keep(sys.argv[1], Path(sys.argv[2]))} inputs are kept")
