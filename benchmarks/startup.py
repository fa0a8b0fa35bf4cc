"""How long `import aisle` and `aisle --help` take: medians of 7 runs each, in turn, after one to warm up."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, Options, executable, timed

RUNS = 7
IMPORT_GOAL, HELP_GOAL = 0.3, 0.5


def run(options: Options) -> list[Figure]:
    del options
    commands: dict[str, Sequence[str | Path]] = {
        "interpreter": [sys.executable, "-c", "pass"],
        "import_aisle": [sys.executable, "-c", "import aisle"],
        "aisle_help": [executable(), "--help"],
    }
    with tempfile.TemporaryDirectory() as folder:
        rounds = [
            {name: timed(command, cwd=Path(folder)).seconds for name, command in commands.items()}
            for _ in range(1 + RUNS)
        ]
    seconds = {name: median(one[name] for one in rounds[1:]) for name in commands}
    goals = {"import_aisle": IMPORT_GOAL, "aisle_help": HELP_GOAL}
    return [
        Figure("interpreter_s", seconds["interpreter"]),
        *(Figure(f"{name}_s", seconds[name], at_most=goal) for name, goal in goals.items()),
        *(Figure(f"{name}_without_interpreter_s", seconds[name] - seconds["interpreter"]) for name in goals),
    ]
