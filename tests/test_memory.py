"""Memory goes back to the system, and to look for what is not needed any more stops no service."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

KEPT = """
import resource, sys
from pathlib import Path
from aisle.processes import give_back_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

if sys.argv[1] == "give back":
    give_back_memory()
few, many = 1 << 20, 24 << 20
large = b"a" * many  # once it is free, glibc takes such a piece for one that is wanted again and again
del large
before = resident()
large, after_it = b"b" * many, [b"c" * few for _ in range(9)]
del large
print(resident() - before - 9 * few)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_a_large_piece_goes_back_when_it_is_free_whatever_came_after_it() -> None:
    kept = {what: _kept(what) for what in ("give back", "keep")}
    assert kept["give back"] < 4 << 20 < 16 << 20 < kept["keep"]  # the latter: or this test shows nothing


def _kept(what: str) -> int:
    done = subprocess.run([sys.executable, "-c", KEPT, what], check=True, capture_output=True, text=True)
    return int(done.stdout)


LOOKED_AT = """
import gc
from aisle.processes import pass_over_what_is_there

many = [[] for _ in range(200_000)]
pass_over_what_is_there()
print(len(gc.get_objects()), gc.get_freeze_count())
"""


def test_what_is_there_once_a_service_has_started_is_not_gone_through_again() -> None:
    done = subprocess.run([sys.executable, "-c", LOOKED_AT], check=True, capture_output=True, text=True)
    looked_at, passed_over = map(int, done.stdout.split())
    assert looked_at < 100
    assert passed_over > 200_000
