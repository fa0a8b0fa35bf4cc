"""Recipes by name, and which pretrained weights they begin with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

from aisle.errors import UsageError
from aisle.pipeline import choose_recipe
from aisle.settings import Settings
from aisle.training import vgg16
from aisle.training.recipes import LstmVgg16, Teaching, choices_in, recipe


def test_an_unknown_recipe_is_told_which_there_are() -> None:
    with pytest.raises(UsageError, match="there is light, lstm-vgg16, full"):
        recipe("heavy")


def test_a_choice_that_a_recipe_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="light has no choice of weights"):
        choose_recipe("light", Settings(), weights="imagenet")
    with pytest.raises(UsageError, match="light has no choice of fine-tune"):
        choose_recipe("light", Settings(), fine_tune=2)


def test_vgg16_is_tuned_for_as_many_epochs_as_are_chosen() -> None:
    chosen = {
        epochs: choose_recipe("lstm-vgg16", Settings(), weights="none", fine_tune=epochs) for epochs in (None, 3)
    }
    most = {epochs: one.image.fine_tuning.most for epochs, one in chosen.items() if isinstance(one, LstmVgg16)}
    assert most == {None: 0, 3: 3}


def test_weights_are_downloaded_where_they_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(httpx, "head", lambda *_, **__: httpx.Response(200))
    assert vgg16.choose_weights("auto", tmp_path) == "imagenet"


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.ConnectError("no network")])
def test_without_a_network_the_weights_are_random(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: httpx.Response | Exception
) -> None:
    def head(*_: object, **__: object) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(httpx, "head", head)
    assert vgg16.choose_weights("auto", tmp_path) == "none"


def test_weights_that_were_downloaded_before_need_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(httpx, "head", lambda *_, **__: pytest.fail("asked the network"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / vgg16.WEIGHTS_FILE).touch()
    chosen = choose_recipe("lstm-vgg16", Settings(keras_home=tmp_path))
    assert isinstance(chosen, LstmVgg16)
    assert chosen.image.weights == "imagenet"


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("light", {}),
        ("lstm-vgg16", {"weights": "none", "fine_tune": 3}),
        ("full", {"text_models": "camembert,/models/mine", "image_models": "dinov2", "fine_tune": 2}),
        ("full", {"text_models": "camembert"}),
    ],
)
def test_what_was_chosen_of_a_recipe_is_read_off_a_bundle_s_lineage(name: str, choices: dict[str, str | int]) -> None:
    chosen = recipe(name, **choices)
    lineage = json.loads(json.dumps(asdict(chosen), default=str))
    assert recipe(name, **choices_in(name, lineage)) == chosen


def test_a_model_that_lay_in_a_folder_is_not_looked_for_by_its_sum() -> None:
    lineage = json.loads(json.dumps(asdict(recipe("full", text_models="sha256:0123"))))
    with pytest.raises(UsageError, match="does not say where"):
        choices_in("full", lineage)


def test_a_teacher_is_read_off_by_its_version(tmp_path: Path) -> None:
    chosen = recipe("light", teacher=Teaching("4f87a77479ab", tmp_path))
    assert choices_in("light", json.loads(json.dumps(asdict(chosen), default=str))) == {"teacher": "4f87a77479ab"}
