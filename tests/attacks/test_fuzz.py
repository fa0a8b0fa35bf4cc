"""Any bytes are understood or refused by name, soon, by everything that reads what others send."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attacks.corpus import kept
from tests.attacks.targets import ALLOWED, SECONDS, TARGETS, Target

# The temporary file of a form that breaks off is closed by whoever collects it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SIGNED = ("bundle", "token")
"""Of these a good seed would have sums or a signature, and nothing that is changed in it would get past them."""


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with some bytes changed, taken out, put in or moved; or any bytes."""
    content = bytearray(draw(st.one_of(st.sampled_from(seeds), st.binary(max_size=200))))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.one_of(st.binary(max_size=8), st.just(bytes(content[at : at + 40]))))
        until = at + draw(st.sampled_from([0, 1, 4, len(piece)]))
        content[at:until] = piece
    return bytes(content)


def survives(target: Target, content: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(*ALLOWED):
        target.run(content)
    assert time.process_time() - started < SECONDS


def ask(name: str, examples: int) -> None:
    target = TARGETS[name]

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(damaged(target.seeds()))
    def fuzz(content: bytes) -> None:
        survives(target, content)

    fuzz()


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_is_understood(name: str) -> None:
    """Or there would be nothing to damage."""
    for seed in TARGETS[name].seeds():
        with contextlib.suppress(*ALLOWED) if name in SIGNED else contextlib.nullcontext():
            TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_has_found_to_be_of_its_own_is_understood_or_refused(name: str) -> None:
    for content in kept(name):
        survives(TARGETS[name], content)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_understood_or_refused(name: str) -> None:
    ask(name, 60)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_any_of_many_bytes_are_understood_or_refused(name: str) -> None:
    ask(name, 20_000)
