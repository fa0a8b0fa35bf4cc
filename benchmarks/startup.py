"""How long the command line takes to start: `import aisle`, `aisle --help`, and the verbs of the registry.

Medians of 7 runs each, in turn, after one to warm up. The registry has two bundles of a small generated catalogue;
MLflow is off, since mirroring is a process of its own, which would run beside the next verb that is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, Options, Workplace, executable, timed

RUNS = 7
IMPORT_GOAL, HELP_GOAL, REGISTRY_GOAL = 0.3, 0.5, 2.0
ROWS = (540, 600)


def run(options: Options) -> list[Figure]:
    del options
    with Workplace() as place:
        place.environment["MLFLOW_TRACKING_URI"] = "off"
        champion, challenger = (_trained(place, rows) for rows in ROWS)
        aisle = executable()
        commands: dict[str, Sequence[str | Path]] = {
            "interpreter": [sys.executable, "-c", "pass"],
            "import_aisle": [sys.executable, "-c", "import aisle"],
            "aisle_help": [aisle, "--help"],
            "registry_list": [aisle, "registry", "list"],
            "registry_register": [aisle, "registry", "register", challenger],
            "registry_promote_for_a_reason": [aisle, "registry", "promote", challenger, "--force", "measured"],
            "registry_rollback": [aisle, "registry", "rollback"],
        }
        rounds = [
            {
                name: timed(command, cwd=place.path, env=place.environment).seconds
                for name, command in commands.items()
            }
            for _ in range(1 + RUNS)
        ]
        assert place.aisle("registry", "list", "--json").json()["champion"] == champion
    seconds = {name: median(one[name] for one in rounds[1:]) for name in commands}
    goals = {"import_aisle": IMPORT_GOAL, "aisle_help": HELP_GOAL}
    goals |= {name: REGISTRY_GOAL for name in commands if name.startswith("registry_")}
    return [
        Figure("interpreter_s", seconds["interpreter"]),
        *(Figure(f"{name}_s", seconds[name], at_most=goal) for name, goal in goals.items()),
        *(Figure(f"{name}_without_interpreter_s", seconds[name] - seconds["interpreter"]) for name in goals),
    ]


def _trained(place: Workplace, rows: int) -> str:
    """The version of a bundle in the store, trained on so many generated products; the first one is the champion."""
    place.aisle("import", "--source", "sample", "--rows", str(rows))
    return str(place.aisle("train", "--json").json()["version"])
