"""Two models side by side: what is compared with what, which products would change, and who may start it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.console.conftest import Browser, Site, shown, start_site
from tests.console.test_health import HOSTILE, write_table

from aisle.console.comparing import folder_of, verdict_of
from aisle.console.listings import Row
from aisle.files import write_json
from aisle.model.bundle import Bundle

HERE = "/console/models/compare"
CHANGES = 90


@pytest.fixture(scope="module")
def both(bundle: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service with two versions, of which nothing was compared."""
    with start_site(tmp_path_factory.mktemp("both"), [bundle, other_bundle]) as site:
        yield site


@pytest.fixture(scope="module")
def rita(both: Site) -> Browser:
    return both.browser("rita")


@pytest.fixture
def compared(both: Site, bundle: Bundle, other_bundle: Bundle) -> Iterator[Path]:
    """The folder of a comparison that was made."""
    folder = folder_of(both.settings, bundle.version, other_bundle.version)
    write_table(folder / "changes.csv", [change(number) for number in range(CHANGES)])
    write_json(folder / "changes.json", summary())
    yield folder
    for path in folder.iterdir():
        path.unlink()


def change(number: int) -> dict[str, object]:
    label, side = [("10", "test"), ("2583", "train"), ("1280", "train"), ("", "")][number % 4]
    return {
        "key": f"row-{number:03d}", "designation": HOSTILE, "product_id": "1", "imageid": number, "old": "2583",
        "old_label": "Piscines", "old_confidence": 0.4, "new": "10", "new_label": "Livres", "new_confidence": 0.912,
        "decision": "accept", "reason": "model" if number else "types changed", "part": "train", "label": label,
        "label_name": "", "side": side,
    }  # fmt: skip


def figures(weighted_f1: float, of_pools: float) -> dict[str, Any]:
    per_type = {code: {"precision": 1, "recall": 1, "f1": f1, "rows": 9} for code, f1 in
                (("10", 0.5), ("2583", of_pools), ("1280", 0.75))}  # fmt: skip
    return {"rows": 27, "accuracy": 0.8, "weighted_f1": weighted_f1, "macro_f1": 0.7, "top_3": 0.9,
            "calibration_error": 0.05, "per_type": per_type}  # fmt: skip


def summary() -> dict[str, Any]:
    measured = {"data_hash": "c" * 64, "rows": 27, "added": {"2906": 4}, "before": figures(0.7, 0.9),
                "after": figures(0.75, 0.4), "gain": 5.0, "interval": [-1.25, 9.5],
                "types": {"10": "Livres", "2583": "Piscines", "1280": "Jouets"}}  # fmt: skip
    return {"products": 600, "count": CHANGES, "accepted": 12, "measured": measured}


def test_both_are_measured_on_the_same_products_and_the_page_says_on_which(rita: Browser, compared: Path) -> None:
    text = shown(rita.get(HERE).text)
    assert "on the same 27 products of catalogue cccccccccccc" in text
    assert "Without 4 products of types that the first one cannot know." in text
    assert "Weighted F1: +5.00 points (95%: −1.25 to +9.50)." in text
    assert "Weighted F1 70.0 % 75.0 % +5.0" in text
    assert f"{CHANGES} of 600 products, 12 of them sure enough" in text


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [
        ({"before": True, "after": False}, ("before learnt from another", "after learnt from this catalogue")),
        ({"before": None, "after": True}, ("which catalogue before learnt", "after learnt from another")),
        (None, ("which catalogue before learnt", "which catalogue after learnt")),
    ],
)
def test_the_page_says_of_each_model_whether_it_may_have_learnt_these_products(
    rita: Browser, compared: Path, bundle: Bundle, other_bundle: Bundle, elsewhere: object, said: tuple[str, str]
) -> None:
    made = summary()
    if elsewhere is not None:  # else it is of before this was asked
        made["measured"]["learnt_elsewhere"] = elsewhere
    write_json(compared / "changes.json", made)
    text = shown(rita.get(HERE).text).replace(bundle.version, "before").replace(other_bundle.version, "after")
    assert all(one in text for one in said)


def test_the_type_that_differs_most_comes_first(rita: Browser, compared: Path) -> None:
    html = rita.get(HERE).text
    table = html[html.index('<h2 id="types"') : html.index('<h2 id="products"')]
    assert re.findall(r'<span class="code">(\d+)</span>', table) == ["2583", "10", "1280"]
    assert "−50.0" in table


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 90),
        ("show=now_right", 22),
        ("show=now_wrong", 23),
        ("show=both_wrong", 22),
        ("show=no_label", 22),
        ("show=types_changed", 1),
        ("type=1280", 22),
        ("show=both_wrong&type=1280", 22),
        ("show=now_right&type=1280", 0),
        ("show=nothing", 0),
    ],
)
def test_each_product_that_a_filter_finds_is_on_one_page_and_in_the_file(
    rita: Browser, compared: Path, query: str, count: int
) -> None:
    following, found = f"{HERE}?{query}", []
    while following:
        html = rita.get(following).text
        found += re.findall(r"row-\d{3}", html)
        link = re.search(r'rel="next" href="([^"]+)"', html)
        following = link[1].replace("&amp;", "&") if link else ""
    assert len(found) == len(set(found)) == count
    answer = rita.get(f"{HERE}.csv?{query}")
    assert [row["key"] for row in csv.DictReader(io.StringIO(answer.text, newline=""))] == found


@pytest.mark.parametrize(
    ("old", "new", "label", "reason", "verdict"),
    [
        ("1", "2", "2", "model", "now_right"),
        ("1", "2", "1", "model", "now_wrong"),
        ("1", "2", "3", "model", "both_wrong"),
        ("1", "2", "", "model", "no_label"),
        ("40", "41", "41", "types changed", "types_changed"),
        ("", "2", "2", "model", "now_right"),
    ],
)
def test_what_a_change_would_be_is_told_by_the_catalogues_own_type(
    old: str, new: str, label: str, reason: str, verdict: str
) -> None:
    assert verdict_of(Row(old=old, new=new, label=label, reason=reason)) == verdict


def test_before_a_comparison_each_ones_own_figures_are_shown_as_that(
    both: Site, rita: Browser, bundle: Bundle, other_bundle: Bundle
) -> None:
    text = shown(rita.get(HERE).text)
    assert "Not compared yet" in text
    for one in (bundle, other_bundle):
        assert f"{100 * one.json('metrics.json')['all']['weighted_f1']:.1f}" in text
    assert "aisle changes --before" in text  # nobody but an administrator may start it here


def test_what_a_merchant_wrote_is_text(rita: Browser, compared: Path) -> None:
    html = rita.get(HERE).text
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert len(html.encode()) < 100_000


@pytest.mark.parametrize("content", ["", '{"measured": ', "{}", '{"measured": {"before": 1}}', "[]"])
def test_a_comparison_that_is_half_written_is_to_be_made_again(rita: Browser, compared: Path, content: str) -> None:
    (compared / "changes.json").write_text(content)
    answer = rita.get(HERE)
    assert answer.status_code == 200
    assert "The comparison is incomplete or cannot be read" in answer.text
    assert rita.get("/console/health").status_code == 200


@pytest.mark.parametrize("query", ["version=../../etc", "version=nothing", "before=..", "version=%00"])
def test_an_address_of_no_version_is_not_found(rita: Browser, query: str) -> None:
    assert rita.get(f"{HERE}?{query}").status_code == 404
    assert rita.get(f"{HERE}.csv?{query}").status_code == 404


def test_a_version_is_not_compared_with_itself(both: Site, rita: Browser, bundle: Bundle) -> None:
    assert rita.get(f"{HERE}?version={bundle.version}").status_code == 404


def test_a_single_model_has_nobody_to_be_compared_with(own_site: Site) -> None:
    anne = own_site.browser("anne")
    assert "It takes a second version" in anne.get(HERE).text
    assert anne.post(HERE, {"before": "", "version": ""}).status_code == 422


def test_only_an_administrator_starts_a_comparison_and_clients_see_none(
    both: Site, rita: Browser, other_bundle: Bundle
) -> None:
    assert rita.post(HERE, {"version": other_bundle.version}).status_code == 403
    assert both.browser("carl").get(HERE).status_code == 403


def test_what_a_promotion_would_change_is_on_the_page_of_the_catalogue(
    rita: Browser, compared: Path, other_bundle: Bundle
) -> None:
    text = shown(rita.get("/console/health").text)
    assert f"{other_bundle.version} would change the type of {CHANGES} of 600 products" in text
