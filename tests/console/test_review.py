"""The review queue on a page: what a reviewer says, takes back, puts off, and what becomes of it."""

from __future__ import annotations

import base64
import csv
import io
import re
from dataclasses import replace

import pytest
from PIL import Image
from sqlalchemy import insert, select, update
from tests.console.conftest import Browser, Site, link_to, shown, walk

from aisle.catalog import Decision
from aisle.console.tables import PAGE
from aisle.store import photos, predictions, reviews, schema
from aisle.store.engine import reading, writing
from aisle.store.predictions import PredictionRecord, words_said
from aisle.store.reviews import HELD
from aisle.store.schema import feedback

HOSTILE = "<script>alert(1)</script> \u202egnp.exe"


@pytest.fixture
def queue(own_site: Site) -> Site:
    """Four products to look at, and one to accept."""
    told = own_site.predict(designation="Modèle")
    with reading(own_site.engine) as connection:
        like = predictions.find(connection, told["prediction_id"])
    assert like is not None
    products = [
        _product(like, 1, "Piscine ronde", ("2583", 0.50), ("1302", 0.49)),
        _product(like, 2, "Bassin rond", ("1302", 0.52), ("2583", 0.45)),
        _product(like, 3, HOSTILE, ("10", 0.40), ("2705", 0.35)),
        _product(like, 4, "Vase", ("2060", 0.6), ("1560", 0.1)),
        replace(_product(like, 5, "Sûr", ("2060", 0.99)), decision=Decision.ACCEPT),
    ]
    with writing(own_site.engine) as connection:
        reviews.looked_at(connection, like.id)
        predictions.add(connection, products)
        reviews.enqueue(connection, products)
    return own_site


def _product(like: PredictionRecord, number: int, title: str, *top: tuple[str, float]) -> PredictionRecord:
    return replace(
        like,
        id=f"{number:032x}",
        input_hash=f"{number:064x}",
        designation=title,
        description=title,
        predicted=top[0][0],
        confidence=top[0][1],
        top=[{"code": code, "label": f"Type {code}", "confidence": confidence} for code, confidence in top],
        decision=Decision.REVIEW,
    )


def product(html: str) -> str:
    found = re.search(r"data-focus>([^<]*)</h2>", html)
    return found[1] if found else ""


def asked_for(html: str) -> str:
    form = html[html.index('action="/console/review/say"') :]
    return str(re.findall(r'name="id" value="(\w+)"', form)[0])


def say(browser: Browser, html: str, **form: str) -> str:
    answer = browser.post("/console/review/say", {"id": asked_for(html), **form})
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_next_one_is_most_in_doubt_and_of_another_kind(queue: Site) -> None:
    rita = queue.browser("rita")
    html, found = rita.get("/console/review").text, []
    while name := product(html):
        found.append(name)
        if not re.search(r'action="/console/review/say"', html):
            break
        html = say(rita, html, type="2583")
    assert [found[0], *found[2:4]] == ["Piscine ronde", "Bassin rond", "Vase"]
    assert "alert(1)" in found[1]
    assert found[4] == "Nothing to review"


def test_a_correction_has_its_author_and_is_a_label_of_the_next_training(queue: Site) -> None:
    rita = queue.browser("rita")
    say(rita, rita.get("/console/review").text, type="1302")
    with reading(queue.engine) as connection:
        [word] = words_said(connection)
        [at] = connection.execute(select(feedback.c.created_at)).scalars()
    assert (word.designation, word.user_name, word.type_code) == ("Piscine ronde", "rita", "1302")
    assert at == queue.clock()


def test_a_type_may_be_sent_with_its_name(queue: Site) -> None:
    rita = queue.browser("rita")
    say(rita, rita.get("/console/review").text, type="2583 · Piscine et accessoires")
    with reading(queue.engine) as connection:
        assert [word.type_code for word in words_said(connection)] == ["2583"]


@pytest.mark.parametrize(
    ("form", "status"), [({"type": "no type"}, 422), ({}, 422), ({"id": "f" * 32, "type": "10"}, 404)]
)
def test_a_mistake_is_told_and_changes_nothing(queue: Site, form: dict[str, str], status: int) -> None:
    rita = queue.browser("rita")
    html = rita.get("/console/review").text
    assert rita.post("/console/review/say", {"id": asked_for(html), **form}).status_code == status
    assert product(rita.get("/console/review").text) == "Piscine ronde"


def test_what_was_said_can_be_taken_back_step_by_step(queue: Site) -> None:
    rita = queue.browser("rita")
    first = rita.get("/console/review").text
    second = say(rita, first, type="2583")
    third = say(rita, second, type="10")
    back = rita.post("/console/review/undo", {"id": asked_for(second)}).text
    assert product(back) == product(second)
    assert product(rita.post("/console/review/undo", {"id": asked_for(first)}).text) == product(first)
    with reading(queue.engine) as connection:
        assert not list(words_said(connection))
        assert reviews.count_waiting(connection) == 4
    assert product(third) == "Bassin rond"


def test_a_word_on_a_product_that_never_waited_is_taken_back_and_the_queue_goes_on(queue: Site) -> None:
    rita = queue.browser("rita")
    accepted = f"{5:032x}"
    assert rita.post("/console/classify/correct", {"prediction_id": accepted, "type": "2060"}).status_code == 200
    before = rita.get("/console/review").text
    assert product(rita.post("/console/review/undo", {"id": accepted, "shown": asked_for(before)}).text)
    with reading(queue.engine) as connection:
        assert not list(words_said(connection))


def test_nobody_takes_back_what_somebody_else_said(queue: Site) -> None:
    rita, anne = queue.browser("rita"), queue.browser("anne")
    html = rita.get("/console/review").text
    say(rita, html, type="2583")
    assert anne.post("/console/review/undo", {"id": asked_for(html)}).status_code == 404


def test_a_product_that_is_put_off_comes_again_after_the_others(queue: Site) -> None:
    rita = queue.browser("rita")
    first = rita.get("/console/review").text
    html, found = say(rita, first, skip="1"), []
    for _ in range(3):
        found.append(product(html))
        html = say(rita, html, type="2583")
    assert product(first) not in found
    assert product(html) == product(first)


def test_a_product_that_was_sent_twice_is_looked_at_once(queue: Site) -> None:
    with reading(queue.engine) as connection:
        like = predictions.find(connection, f"{1:032x}")
    assert like is not None
    again = [replace(like, id=f"{number:032x}") for number in (6, 7)]
    with writing(queue.engine) as connection:
        predictions.add(connection, again[:1])
        reviews.enqueue(connection, again[:1])
    rita = queue.browser("rita")
    html = say(rita, rita.get("/console/review").text, type="2583")
    with writing(queue.engine) as connection:  # and once more, after somebody has looked
        predictions.add(connection, again[1:])
        reviews.enqueue(connection, again[1:])
    seen = []
    while "/console/review/say" in html:
        seen.append(product(html))
        html = say(rita, html, type="2583")
    assert "Piscine ronde" not in seen
    assert len(seen) == 3


def test_feedback_by_the_api_takes_a_product_out_of_the_queue(queue: Site) -> None:
    told = queue.predict(designation="Quelque chose")
    before = int(re.findall(r"Waiting (\d+)", shown(queue.browser("rita").get("/console/review").text))[0])
    desk = queue.browser("carl")
    desk.post("/console/classify/correct", {"prediction_id": told["prediction_id"], "type": "10"})
    after = int(re.findall(r"Waiting (\d+)", shown(queue.browser("rita").get("/console/review").text))[0])
    assert (told["decision"], after) == ("review", before - 1)


def test_pace_and_agreement_are_the_reviewers_own(queue: Site) -> None:
    rita = queue.browser("rita")
    html = say(rita, rita.get("/console/review").text, type="2583")
    html = say(rita, html, type="50")
    page = shown(html)
    assert "Reviewed in an hour 2" in page
    assert "Agree with the model 50" in page
    queue.clock.advance(hours=2)
    assert "Reviewed in an hour 0" in shown(rita.get("/console/review").text)
    assert "Reviewed in an hour 0" in shown(queue.browser("anne").get("/console/review").text)


def test_what_a_merchant_wrote_is_shown_as_text(queue: Site) -> None:
    rita = queue.browser("rita")
    html = say(rita, rita.get("/console/review").text, type="2583")
    assert "&lt;script&gt;" in product(html)
    assert "‹U+202E›" in html
    listed = say(rita, html, type="10") + rita.get("/console/review/corrections").text
    assert "<script>alert" not in html + listed


def test_all_types_can_be_searched(queue: Site) -> None:
    types = queue.browser("rita").get("/console/review/types.json").json()
    assert ["2583", "Piscine et accessoires"] in types
    assert len(types) == 27


def test_the_corrections_are_a_list_and_a_file(queue: Site) -> None:
    rita, anne = queue.browser("rita"), queue.browser("anne")
    html = say(rita, rita.get("/console/review").text, type="1302")
    say(anne, html, type="10")
    listed = rita.get("/console/review/corrections").text
    assert "confirmed" in listed
    rows = list(csv.DictReader(rita.get("/console/review/corrections.csv?who=rita").text.splitlines()))
    assert [(row["reviewer"], row["type"], row["predicted"], row["agrees"]) for row in rows] == [
        ("rita", "1302", "2583", "0")
    ]
    assert len(list(csv.DictReader(rita.get("/console/review/corrections.csv").text.splitlines()))) == 2


def test_each_page_of_the_corrections_but_the_first_leads_back_to_the_one_before(queue: Site) -> None:
    said = {"prediction_id": f"{1:032x}", "created_at": queue.clock(), "type_code": "10"}
    with writing(queue.engine) as connection:
        names = ("rita", "anne") * (2 * PAGE)
        connection.execute(insert(feedback), [{**said, "user_name": name} for name in names])
    browser = queue.browser("rita")
    pages = walk(browser, "/console/review/corrections?who=anne")
    assert [one.count("<tr") for one in pages] == [PAGE + 1] * 2
    assert link_to(pages[1], "prev") == "/console/review/corrections?who=anne"


def test_a_formula_of_a_merchant_is_none_in_the_file(queue: Site) -> None:
    told = queue.predict(designation="=cmd|' /C calc'!A0")
    rita = queue.browser("rita")
    rita.post("/console/review/say", {"id": told["prediction_id"], "type": "10"})
    [row] = csv.DictReader(rita.get("/console/review/corrections.csv").text.splitlines())
    assert row["designation"].startswith("'=")


def test_clients_may_neither_look_nor_say(queue: Site) -> None:
    carl = queue.browser("carl")
    assert carl.post("/console/review/say", {"id": f"{1:032x}", "type": "10"}).status_code == 403
    assert carl.post("/console/review/undo", {"id": f"{1:032x}"}).status_code == 403
    assert carl.get("/console/review/types.json").status_code == 403
    assert carl.get("/console/review/corrections.csv").status_code == 403


def test_two_reviewers_look_at_different_products(queue: Site) -> None:
    rita, anne = queue.browser("rita"), queue.browser("anne")
    first, other = (one.get("/console/review").text for one in (rita, anne))
    assert product(first) == "Piscine ronde"
    assert product(other) not in ("", product(first))
    assert product(say(anne, other, type="2583")) != product(first)


def test_a_page_that_is_loaded_again_shows_the_same_product(queue: Site) -> None:
    rita = queue.browser("rita")
    assert {product(rita.get("/console/review").text) for _ in range(3)} == {"Piscine ronde"}


def test_a_second_page_goes_its_own_way(queue: Site) -> None:
    """It does not give away, or show, what its reviewer is at on the first one."""
    rita = queue.browser("rita")
    first = rita.get("/console/review").text
    again = rita.get("/console/review").text
    on_first = say(rita, first, type="2583")
    on_second = say(rita, again, type="2583")
    assert product(again) == product(first)
    assert product(on_second) not in (product(on_first), product(first), "")
    assert asked_for(on_first) not in say(rita, on_second, skip="1")


def test_what_a_reviewer_leaves_comes_to_another_after_some_minutes(queue: Site) -> None:
    left = product(queue.browser("rita").get("/console/review").text)
    queue.clock.advance(seconds=HELD.total_seconds())
    assert product(queue.browser("anne").get("/console/review").text) == left


def test_what_is_put_off_is_there_for_others(queue: Site) -> None:
    rita, anne = queue.browser("rita"), queue.browser("anne")
    first = rita.get("/console/review").text
    say(rita, first, skip="1")
    for _ in range(2):  # all but the one that rita has
        html = anne.get("/console/review").text
        assert product(html) != product(first)
        say(anne, html, type="10")
    assert product(anne.get("/console/review").text) == product(first)


def test_an_undo_gives_the_product_back_and_lets_go_of_the_next_one(queue: Site) -> None:
    rita, anne = queue.browser("rita"), queue.browser("anne")
    first = rita.get("/console/review").text
    second = say(rita, first, type="2583")
    back = rita.post("/console/review/undo", {"id": asked_for(first), "shown": asked_for(second)}).text
    assert product(back) == product(first)
    assert f'name="shown" value="{asked_for(second)}"' in second
    assert product(anne.get("/console/review").text) == product(second)
    assert product(rita.get("/console/review").text) == product(first)


def test_who_finds_everything_with_others_is_told_so(queue: Site) -> None:
    with writing(queue.engine) as connection:
        for number in (2, 3, 4):
            reviews.looked_at(connection, f"{number:032x}")
    queue.browser("rita").get("/console/review")
    page = shown(queue.browser("anne").get("/console/review").text)
    assert "Others look at the rest" in page
    assert "Nothing to review" not in page


@pytest.fixture
def photographed(own_site: Site) -> tuple[Site, str]:
    """A product with a photo that waits, and the address of that photo."""
    out = io.BytesIO()
    Image.effect_noise((640, 480), 30).convert("RGB").save(out, "PNG")
    told = own_site.predict(designation="Modèle", image=base64.b64encode(out.getvalue()).decode())
    assert told["decision"] == "review"
    return own_site, f"/console/review/image/{told['prediction_id']}"


def test_the_queue_shows_the_photo(photographed: tuple[Site, str]) -> None:
    site, address = photographed
    rita = site.browser("rita")
    html = rita.get("/console/review").text
    assert f'src="{address}"' in html
    assert "which is not kept" not in html
    answer = rita.get(address)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert Image.open(io.BytesIO(answer.content)).size == (375, 281)
    again = rita.get(address, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_reviewed_products_show_it_as_long_as_it_is_there(photographed: tuple[Site, str]) -> None:
    site, address = photographed
    rita = site.browser("rita")
    say(rita, rita.get("/console/review").text, type="10")
    assert f'src="{address}"' in rita.get("/console/review/corrections").text
    with writing(site.engine) as connection:
        photos.trim(connection, 0)
    assert address not in rita.get("/console/review/corrections").text
    assert rita.get(address, headers={"If-None-Match": "*"}).status_code == 404


def test_photos_are_for_reviewers(photographed: tuple[Site, str]) -> None:
    site, address = photographed
    assert site.browser("carl").get(address).status_code == 403
    assert site.browser().get(address).status_code == 303
    assert site.browser("anne").get(address).status_code == 200


@pytest.mark.parametrize("name", ["f" * 32, "x", "%00", "..%2F..%2Fsign-in"])
def test_what_is_no_photo_is_not_found(queue: Site, name: str) -> None:
    assert queue.browser("rita").get(f"/console/review/image/{name}").status_code == 404


def test_a_product_whose_photo_is_gone_says_so(photographed: tuple[Site, str]) -> None:
    site, address = photographed
    with writing(site.engine) as connection:
        photos.trim(connection, 0)
    html = site.browser("rita").get("/console/review").text
    assert address not in html
    assert "which is not kept" in html


def test_a_hostile_description_is_shown_piece_by_piece(queue: Site) -> None:
    """Each character of it takes twelve bytes of a page."""
    with writing(queue.engine) as connection:
        hostile = {"description": "\u202e" * 19_999 + "z", "designation": "\u202e" * 2000}
        connection.execute(update(schema.predictions).values(hostile))
    rita = queue.browser("rita")
    address, seen = "/console/review", 0
    while address:
        answer = rita.get(address)
        assert answer.status_code == 200
        assert len(answer.content) < 100_000
        seen += answer.text.split('class="description"')[1].count("U+202E")
        more = re.search(r'href="(/console/review/text/[^"]*)"', answer.text)
        address = more[1] if more else ""
    assert seen == 19_999
    assert "z</span>" in answer.text
