"""`make bench-rivals`: measure aisle's service and the others in turn, record it and write docs/performance.md.

With fewer rounds than a record has, what was found is only printed: it would take the place of what is better known.
Exit code 0: measured; 4: a goal was missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import PATHS, RESULTS, ROOT, Figure, Workplace, commit, record, shown, table
from benchmarks.page import PAGE
from benchmarks.rivals import page
from benchmarks.rivals.bundles import ROWS
from benchmarks.rivals.contenders import BARE, CONTENDERS, ORIGINAL, OURS, Contender, by_keras
from benchmarks.rivals.figures import SPEEDUPS, figures, quiet
from benchmarks.rivals.products import drawn
from benchmarks.rivals.rounds import Lengths, Round, bare_round, running, served_round, settle
from benchmarks.rivals.servers.model import BUNDLE
from benchmarks.service import DATABASE, add_model, token_service

SETTINGS = tuple(ROWS)
NAMES = (BARE, *(one.name for one in CONTENDERS))
MISSED = 4
PLACES = ("--environments", "--results", "--page", "--model")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{', '.join(SETTINGS)}; none: all of them")
    parser.add_argument("--only", default="", help=f"contenders, with commas between: {', '.join(NAMES)}")
    parser.add_argument(
        "--rounds", type=int, default=page.RECORD, help=f"that count, of each (default: {page.RECORD})"
    )
    parser.add_argument("--seconds", type=float, default=Lengths().closed, help="for each number of clients")
    parser.add_argument("--model", type=Path, help="a bundle, to train none")
    parser.add_argument("--environments", type=Path, default=ROOT, help="where the rivals' environments are")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="what is written (default: docs/performance.md)")
    parser.add_argument(
        "--page-only", action="store_true", help="measure nothing, write the page of the last results"
    )
    chosen = parser.parse_args(arguments)
    settings = chosen.settings or SETTINGS
    only = chosen.only.split(",") if chosen.only else NAMES
    if unknown := [one for one in (*settings, *only) if one not in (*SETTINGS, *NAMES)]:
        parser.error(f"there is no {', '.join(unknown)}")
    if (os.cpu_count() or 1) < 2:
        parser.error("the server and its load want a core each")
    met = True
    for setting in () if chosen.page_only else settings:
        begun = commit()
        rounds = _measure(setting, only, chosen)
        if chosen.rounds < page.RECORD:
            met = _told(setting, figures(quiet(rounds), setting)) and met
        else:
            met = _record(setting, rounds, chosen, shown(arguments, without=PLACES), begun) and met
    if chosen.page_only or chosen.rounds >= page.RECORD:
        page.write(chosen.page, chosen.results)
    return 0 if met else MISSED


def _record(setting: str, tried: Sequence[Round], chosen: argparse.Namespace, words: str, begun: str) -> bool:
    """Whether every goal was met by the rounds that count."""
    rounds, name = quiet(tried), page.entry_name(setting)
    found = figures(rounds, setting)
    details = {
        "seconds": chosen.seconds,
        "thrown_away": len(tried) - len(rounds),
        "counted": {who: sum(one.contender == who for one in rounds) for who in {one.contender: 0 for one in tried}},
    }
    command = f"python -m benchmarks.rivals {words}"
    record(name, found, command, begun, results=chosen.results, details=details)
    return _told(setting, found)


def _told(setting: str, found: Sequence[Figure]) -> bool:
    """Whether every goal was met."""
    print(table(page.entry_name(setting), [one for one in found if one.goal] or list(found)))
    return all(one.met for one in found)


def _measure(setting: str, only: Sequence[str], chosen: argparse.Namespace) -> list[Round]:
    """All rounds, those too that do not count."""
    lengths = Lengths(warm=0.8 * chosen.seconds, closed=chosen.seconds, open=3 * chosen.seconds)
    products = drawn()
    contenders = {one.name: _of_setting(one, setting) for one in _installed(chosen.environments) if one.name in only}
    with Workplace() as place, ExitStack() as stack:
        model = (chosen.model or _trained(place, setting)).resolve()
        place.aisle("registry", "list")  # makes the folder of the store
        add_model(place, model)
        token, auth_url = stack.enter_context(token_service(place)) if OURS in contenders else ("", "")

        probes: list[float] = []

        def one_round(name: str) -> Round:
            settle(probes)
            found = asked(name)
            probes.append(found.probe_ms)
            return found

        def asked(name: str) -> Round:
            if name == BARE:
                return bare_round({BUNDLE: str(model)}, lengths)
            contender = contenders[name]
            variables = _settings(place, auth_url) if name == OURS else {BUNDLE: str(model)}
            serving = running(contender, chosen.environments, place.path / name, variables, token)
            return served_round(contender, products, lengths, serving)

        return _in_turn([BARE] * (BARE in only) + [*contenders], one_round, chosen.rounds)


def _in_turn(names: list[str], one_round: Callable[[str], Round], count: int) -> list[Round]:
    """Until `count` rounds of each count, in twice as many turns at most, each beginning with another contender."""
    rounds: list[Round] = []
    for turn in range(2 * count):
        counted = [one.contender for one in quiet(rounds)]
        wanted = [name for name in names if counted.count(name) < count]
        first = turn % max(1, len(wanted))
        for name in wanted[first:] + wanted[:first]:
            try:
                rounds.append(one_round(name))
            except RuntimeError as error:
                print(f"  {name} is left out: {error}", file=sys.stderr, flush=True)
                names.remove(name)
            else:
                print(" ", turn + 1, _line(rounds[-1]), file=sys.stderr, flush=True)
    return rounds


def _installed(environments: Path) -> list[Contender]:
    for one in CONTENDERS:
        if not one.is_installed(environments):
            print(f"  {one.name} is left out: there is no {one.environment} (make bench-rivals)", file=sys.stderr)
    return [one for one in CONTENDERS if one.is_installed(environments)]


def _settings(place: Workplace, auth_url: str) -> dict[str, str]:
    """Of `aisle serve`: its own places, a core, and limits too high to reach."""
    return {
        **{name: place.environment[name] for name in PATHS},
        "DATABASE_URL": DATABASE.replace("///", f"///{place.path}/"),
        "AUTH_URL": auth_url,
        "THREADS": "1",
        "RATE_LIMITS": "predict=100000000/second",
        "PREDICT_TIMEOUT_SECONDS": "120",  # as long as the others may take
        "DRAIN_SECONDS": "0",
    }


def _of_setting(contender: Contender, setting: str) -> Contender:
    return by_keras(contender) if contender.name == ORIGINAL and setting in SPEEDUPS else contender


def _trained(place: Workplace, setting: str) -> Path:
    print(f"  training {setting}", file=sys.stderr, flush=True)
    out = place.path / "bundle"
    words = [sys.executable, "-m", "benchmarks.rivals.bundles", setting, str(out)]
    subprocess.run(words, env=place.environment, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return out


def _line(one: Round) -> str:
    windows = ", ".join(
        f"{at}: {window.per_s:.1f}/s {window.p99_ms:.0f} ms"
        for at, window in [*one.clients.items(), ("70 %", one.at_share)]
        if window is not None
    )
    return f"{one.contender} (probe {one.probe_ms:.0f} ms) ready {one.ready_s:.1f} s, {windows}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
