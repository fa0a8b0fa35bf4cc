"""Memory goes back to the system: a process that looked at one large image is soon as small as before."""

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
