"""The error tree: one exit code and one HTTP status each, one line of text."""

from __future__ import annotations

import pickle

import pytest

from aisle import errors
from aisle.errors import AisleError, ImageError, InputError


def every_error() -> list[type[AisleError]]:
    found = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, AisleError)]
    assert len(found) > 8
    return found


@pytest.mark.parametrize("kind", every_error())
def test_each_error_has_an_exit_code_and_a_status_and_stands_in_the_tree(kind: type[AisleError]) -> None:
    assert kind.exit_code in {1, 2, 3, 4, 5}
    assert 400 <= kind.http_status <= 503
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


def test_an_error_is_one_line_of_where_what_and_hint() -> None:
    error = InputError("is\nwrong", where="a.csv", hint="Do that.")
    assert str(error) == "a.csv: is wrong. Do that."


def test_an_image_error_has_a_reason_for_tables() -> None:
    assert ImageError("bad", reason="corrupt").reason == "corrupt"


@pytest.mark.parametrize("kind", every_error())
def test_an_error_of_another_process_says_the_same(kind: type[AisleError]) -> None:
    needed = {"reason": "corrupt"} if kind is ImageError else {}
    error = kind("is wrong", where="a.csv", hint="Do that.", **needed)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.args == error.args
