"""Classifying a product on a page: the answer of the API, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.console.conftest import Site, shown, start_site

from aisle.model.bundle import Bundle
from aisle.service.uploads import MAX_CHARACTERS
from aisle.store.engine import reading
from aisle.store.schema import feedback, predictions

HOSTILE = "<script>alert(1)</script> \u202egnp.exe & <img src=x onerror=alert(1)>"
PART = {"X-Part": "1"}
SHOWN = ("designation", "description")


def recorded(site: Site) -> int:
    assert site.app.state.parts.recorder.flush()
    with reading(site.engine) as connection:
        return connection.execute(select(func.count()).select_from(predictions)).scalar_one()


def test_without_a_script_one_form_gives_the_answer_and_the_reasons(site: Site, photo: bytes) -> None:
    browser, before = site.browser("carl"), recorded(site)
    form = {"designation": "Piscine gonflable ronde", "description": "3 m de diamètre"}
    answer = browser.post("/console/classify", form, files={"image": ("p.jpg", photo)})
    assert answer.status_code == 200
    assert answer.text.count('class="bar') > 5
    for what in ("Nearest products learnt from", "Where the model looked", "<mark class=", "data:image/jpeg;base64,"):
        assert what in answer.text
    assert recorded(site) == before + 1


def test_the_page_says_what_the_api_says(site: Site) -> None:
    title = "Console de jeux 4 manettes"
    told = site.predict(designation=title)
    page = shown(site.browser("carl").post("/console/classify", {"designation": title}).text)
    for one in told["predictions"][:5]:
        assert f"{one['prediction']} {one['label']}".replace("'", "&#39;") in page
        assert f"{100 * one['confidence']:.1f}\u00a0%" in page or f"{100 * one['confidence']:.1f} %" in page
    assert told["model"] in page


def test_a_preview_is_the_same_answer_and_leaves_no_record(site: Site) -> None:
    browser, before = site.browser("carl"), recorded(site)
    form = {"designation": "Jouet en bois"}
    preview = shown(browser.post("/console/classify/preview", form, headers=PART).text)
    assert recorded(site) == before
    real = shown(browser.post("/console/classify", form, headers=PART).text)
    assert preview.replace("preview, not recorded", "") in real.replace("recorded", "").replace("✓ ", "")
    assert recorded(site) == before + 1


@pytest.mark.parametrize("path", ["/console/classify", "/console/classify/preview", "/console/classify/why"])
def test_what_a_merchant_wrote_is_shown_as_text(site: Site, path: str) -> None:
    form = {"designation": HOSTILE, "description": HOSTILE * 300}
    html = site.browser("carl").post(path, form).text
    assert "<script>alert" not in html
    assert "<img src=x" not in html


@pytest.mark.parametrize(
    ("form", "image", "status"),
    [
        ({}, None, 422),
        ({"designation": "a" * 2001}, None, 422),
        ({"designation": "a"}, b"no image", 415),
        ({"designation": "a"}, b"", 422),
        ({"designation": "a", "image": "text"}, None, 422),
    ],
)
def test_a_mistake_is_told_in_words(site: Site, form: dict[str, str], image: bytes | None, status: int) -> None:
    files = None if image is None else {"image": ("p.jpg", image)}
    answer = site.browser("carl").post("/console/classify", form, files=files)
    assert answer.status_code == status
    assert "<html" in answer.text


@pytest.mark.parametrize(
    ("path", "form", "said"),
    [
        ("/classify", {}, "donnez un titre, une description ou une photo"),
        ("/classify/preview", {"description": "a" * 50_001}, "Description : plus de 50\u202f000 caractères"),
        ("/classify/correct", {"prediction_id": "0" * 32, "type": "10"}, "Ce produit n&#39;est plus là"),
        ("/bulk", {}, "Choisissez une table de produits"),
        ("/review/undo", {"id": "0" * 32}, "Votre rôle (client) ne le permet pas ; il faut celui-ci : relecteur"),
    ],
)
def test_a_script_is_refused_in_the_words_and_the_language_of_the_page(
    site: Site, path: str, form: dict[str, str], said: str
) -> None:
    browser = site.browser("carl", **{"Accept-Language": "fr"})
    answer = browser.post(f"/console{path}", form, headers=PART)
    assert answer.status_code >= 400
    assert said in answer.text


@pytest.mark.parametrize("character", ["a", "&", "é", "😀"])
@pytest.mark.parametrize("has_photo", [True, False])
def test_a_form_takes_as_much_text_as_the_api(site: Site, photo: bytes, character: str, has_photo: bool) -> None:
    files = {"image": ("p.jpg", photo)} if has_photo else None  # which is another way to encode a form
    browser = site.browser("carl")
    for more, status in ((0, 200), (1, 422)):
        form = {name: character * (limit + more) for name, limit in MAX_CHARACTERS.items() if name in SHOWN}
        answer = browser.post("/console/classify/preview", form, files=files, headers=PART)
        assert answer.status_code == status, answer.text


def test_without_a_script_a_mistake_stands_above_what_was_typed(site: Site) -> None:
    browser = site.browser("carl")
    nothing = browser.post("/console/classify", {}).text
    assert "give a title, a description or a photo" in nothing
    assert "designation`" not in nothing
    image = {"image": ("p.jpg", b"no image")}
    refused = browser.post("/console/classify", {"designation": "Livre <ancien>"}, files=image)
    assert refused.status_code == 415
    assert 'role="alert"' in refused.text
    assert ">Livre &lt;ancien&gt;</textarea>" in refused.text


def test_a_text_that_is_too_long_is_refused_in_words_and_not_shown_beyond_its_limit(site: Site) -> None:
    answer = site.browser("carl").post("/console/classify", {"designation": "x" * 150_000})
    assert answer.status_code == 422
    assert "Title: more than 2,000 characters" in answer.text
    assert len(answer.content) < 20_000


def test_the_limits_of_the_api_hold_on_the_page(bundle: Bundle, tmp_path: Path) -> None:
    limits = "predict=1/minute, explain=1/minute, preview=1/minute"
    with start_site(tmp_path, [bundle], rate_limits=limits) as site:
        browser = site.browser("carl")
        first = browser.post("/console/classify", {"designation": "a"})
        assert (first.status_code, "What counted" in first.text) == (200, True)
        refused = browser.post("/console/classify", {"designation": "a"})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert browser.post("/console/classify/why", {"designation": "a"}).status_code == 429
        assert [browser.post("/console/classify/preview", {"designation": "a"}).status_code for _ in "12"] == [
            200,
            429,
        ]


def test_while_the_queue_is_full_the_page_says_so(site: Site) -> None:
    browser = site.browser("carl")
    queue = site.app.state.parts.queue
    places = [queue.place() for _ in range(site.settings.queue_size)]
    for one in places:
        one.__enter__()
    refused = browser.post("/console/classify", {"designation": "a"})
    for one in places:
        one.__exit__(None, None, None)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"


def test_the_right_type_can_be_said_at_once(site: Site) -> None:
    browser = site.browser("carl")
    html = browser.post("/console/classify", {"designation": "Livre"}, headers=PART).text
    prediction_id = html.split('name="prediction_id" value="')[1][:32]
    answer = browser.post("/console/classify/correct", {"prediction_id": prediction_id, "type": "2583"})
    assert "2583 Piscine et accessoires" in shown(answer.text)
    with reading(site.engine) as connection:
        said = connection.execute(select(feedback.c.user_name, feedback.c.type_code).order_by(feedback.c.id.desc()))
        assert said.first() == ("carl", "2583")
