"""Fuzz what reads what others send, guided by coverage: `make fuzz TARGETS="image zip" SECONDS=300`.

    python -m tests.attacks.fuzz image -max_total_time=300

With atheris, in an environment of its own (requirements/fuzz.txt). What it finds lies in the folder where it runs, as
`crash-…`; given as an argument, it runs again. What reaches code of its own goes to a folder that is an argument.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import time
from pathlib import Path

import atheris
import structlog

with atheris.instrument_imports(
    include=["aisle", "PIL", "python_multipart", "starlette.formparsers", "jwt", "zipfile"]
):
    from tests.attacks.corpus import kept
    from tests.attacks.targets import ALLOWED, MEMORY_MIB, SECONDS, TARGETS


def main() -> None:
    name = sys.argv.pop(1)
    target = TARGETS[name]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    def once(content: bytes) -> None:
        started = time.process_time()
        with contextlib.suppress(*ALLOWED):
            target.run(content)
        assert time.process_time() - started < SECONDS, "it takes too long"

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate([*target.seeds(), *kept(name)]):
            (Path(corpus) / str(number)).write_bytes(seed)
        # The limit of time is libFuzzer's last resort: it counts what other processes take, too.
        options = [
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-timeout={10 * SECONDS}",
            "-max_len=20000",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:], *([] if _is_a_crash(sys.argv) else [corpus])], once)
        atheris.Fuzz()


def _is_a_crash(arguments: list[str]) -> bool:
    return any(Path(one).is_file() for one in arguments[1:])


if __name__ == "__main__":
    main()
