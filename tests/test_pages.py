"""Plots that stand in a page."""

from __future__ import annotations

import subprocess
import sys


def test_nobody_is_warned_of_letters_that_only_the_browser_has_a_font_for() -> None:
    program = """
from aisle.pages import draw
draw("name", "words", (3, 2), lambda figure: figure.add_subplot().set_title("日本"))
"""
    run = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(run, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
