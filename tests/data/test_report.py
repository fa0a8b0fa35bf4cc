"""What the data report promises: right figures, a page that is safe to open, the same bytes for the same rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from aisle.catalog import ProductType, ProductTypes
from aisle.data.report import HTML_FILE, JSON_FILE, write_data_report

TYPES = ProductTypes([ProductType("10", "Livres"), ProductType("60", "Consoles"), ProductType("2060", "Déco")])
COLUMNS = {
    "key": pl.String,
    "title": pl.String,
    "description": pl.String,
    "product_id": pl.String,
    "image_id": pl.String,
    "type_code": pl.String,
    "weight": pl.String,
    "image_sha256": pl.String,
    "image_format": pl.String,
    "image_width": pl.Int32,
    "image_height": pl.Int32,
    "image_fingerprint": pl.String,
}
HOSTILE = [
    "<script>alert('title')</script>",
    '"><img src=x onerror=alert(1)>',
    "</bdi></table></style><style>@import 'https://evil.example/x.css'</style>",
    "<a href='https://evil.example'>{{ 7 * 7 }}{% raw %}</a>",
    "livre \u202eerbil\u202c \u2066x",
]


class Page(HTMLParser):
    """A page as a browser sees it: its tags, what it would load, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def product(key: str, title: str | None = "", type_code: str = "10", **others: Any) -> dict[str, Any]:
    blank = dict.fromkeys(COLUMNS)
    return {**blank, "key": key, "title": title, "type_code": type_code, "weight": "1", **others}


def image(sha256: str, look: str, width: int = 500, kind: str = "JPEG") -> dict[str, Any]:
    return {
        "image_sha256": sha256,
        "image_fingerprint": look,
        "image_format": kind,
        "image_width": width,
        "image_height": 500,
    }


def report(
    out: Path, products: Iterable[dict[str, Any]], /, *, types: ProductTypes = TYPES, **result: Any
) -> tuple[dict[str, Any], str]:
    accepted = pl.DataFrame(list(products), schema=COLUMNS)
    counts = {"rows": len(accepted), "accepted": len(accepted), "quarantined": 0}
    nothing = {"reasons": {}, "missing_types": [], "retired": 0, "type_changes": {}}
    contract = {"folder": "out", **counts, **nothing, **result}
    write_data_report(out, contract, accepted, types)
    return json.loads((out / JSON_FILE).read_text()), (out / HTML_FILE).read_text()


def assert_loads_nothing(page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not page.handlers
    assert all(one.startswith(("#", "data:")) for one in page.loads)


SEVEN = [
    product("a", "Un livre", description="Bon état", **image("f1", "look1")),
    product("b", "un LIVRE !", type_code="60", description="  ", **image("f1", "look1")),
    product("c", "Une console de salon", type_code="60", **image("f2", "look1", width=300)),
    product("d", "Un livré", description="abc", **image("f3", "look3", kind="PNG")),
    product("e", None, description="x" * 10, **image("f4", "look4")),
    product("f", "!", **image("f5", "look5")),
    product("g", "?", **image("f6", "look6")),
]


def test_the_missing_shares_are_counted_by_hand(tmp_path: Path) -> None:
    figures, _ = report(tmp_path, SEVEN)
    assert figures["missing"] == {"title": 0.142857, "description": 0.571429}
    assert figures["types"]["60"] == {
        "label": "Consoles",
        "rows": 2,
        "share": 0.285714,
        "missing_descriptions": 1.0,
        "agreement": 1.0,
    }
    assert figures["types"]["2060"]["rows"] == 0


def test_the_lengths_are_those_of_the_texts_that_are_there(tmp_path: Path) -> None:
    figures, _ = report(tmp_path, SEVEN)
    titles, descriptions = figures["lengths"]["title"], figures["lengths"]["description"]
    assert (titles["shortest"], titles["p50"], titles["longest"]) == (1, 8, 20)
    assert (descriptions["shortest"], descriptions["p50"], descriptions["longest"]) == (3, 8, 10)


def test_duplicates_are_counted_by_file_by_look_and_by_title(tmp_path: Path) -> None:
    duplicates = report(tmp_path, SEVEN)[0]["duplicates"]
    counts = {
        name: [found[key] for key in ("groups", "rows", "mixed_groups", "mixed_rows")]
        for name, found in duplicates.items()
    }
    assert counts == {"image_file": [1, 2, 1, 2], "image_look": [1, 3, 1, 3], "title": [1, 3, 1, 3]}
    assert duplicates["title"]["largest"] == [
        {"rows": 3, "title": "Un livre", "keys": ["a", "b", "d"], "types": {"10": 2, "60": 1}}
    ]


def test_only_the_ten_largest_groups_are_listed_the_largest_first(tmp_path: Path) -> None:
    rows = [product(f"{n}-{copy}", f"titre {n}") for n in range(12) for copy in range(2 + n)]
    found = report(tmp_path, rows)[0]["duplicates"]["title"]
    assert found["groups"] == 12
    assert [group["rows"] for group in found["largest"]] == list(range(13, 3, -1))
    assert found["largest"][0]["keys"] == [f"11-{copy}" for copy in range(5)]


def test_image_formats_and_sizes_are_counted(tmp_path: Path) -> None:
    images = report(tmp_path, SEVEN)[0]["images"]
    assert images["rows"] == 7
    assert images["files"] == 6
    assert images["formats"] == {"JPEG": 6, "PNG": 1}
    assert images["largest_sizes"][0] == {"width": 500, "height": 500, "rows": 6}
    assert images["width"] == {"smallest": 300, "median": 500, "largest": 500}


def test_a_catalogue_without_images_says_so(tmp_path: Path) -> None:
    figures, page = report(tmp_path, [product("a", "Un livre")])
    assert figures["images"] == {"rows": 0}
    assert "This catalogue has no images." in page


def test_label_agreement_is_shown_where_weights_differ(tmp_path: Path) -> None:
    weights = ["1", "1", "0.3", "0.05"]
    rows = [product(str(n), "Un livre", weight=weight) for n, weight in enumerate(weights)]
    figures, page = report(tmp_path, rows)
    agreement = figures["agreement"]
    assert (agreement["mean"], agreement["full"]) == (0.5875, 0.5)
    assert {position: count for position, count in enumerate(agreement["bins"]) if count} == {0: 1, 5: 1, 19: 2}
    assert "Label agreement" in page


def test_label_agreement_is_left_out_where_every_weight_is_one(tmp_path: Path) -> None:
    figures, page = report(tmp_path, SEVEN)
    assert figures["agreement"] == {}
    assert "Label agreement" not in page


def test_languages_are_estimated_from_the_titles(tmp_path: Path) -> None:
    french = [product(str(n), f"Le livre de la bibliothèque de mon père numéro {n}") for n in range(3)]
    german = product("x", "Das Buch über die Geschichte der deutschen Sprache")
    languages = report(tmp_path, [*french, german, product("y", None)])[0]["languages"]
    assert languages == {"sampled": 4, "shares": {"de": 0.25, "fr": 0.75}}


def test_at_most_two_thousand_titles_are_read_for_their_language(tmp_path: Path) -> None:
    rows = [product(str(n), "Un livre") for n in range(2_500)]
    assert report(tmp_path, rows)[0]["languages"]["sampled"] == 2_000


def test_the_contract_shows_reasons_and_types_without_a_row(tmp_path: Path) -> None:
    reasons = {"title_too_long": 1, "image_corrupt": 3}
    figures, page = report(
        tmp_path, SEVEN, rows=11, quarantined=4, reasons=reasons, missing_types=["2060", "strange"]
    )
    assert figures["contract"]["reasons"] == reasons
    assert page.index("image_corrupt") < page.index("title_too_long")
    text = " ".join(Page(page).text.split())
    assert "2060 Déco, strange" in text


def test_no_accepted_row_gives_a_page_that_says_so(tmp_path: Path) -> None:
    figures, page = report(tmp_path, [], rows=3, quarantined=3, reasons={"label_missing": 3})
    assert figures["rows"] == 0
    assert "No row passed the contract" in page
    assert "label_missing" in page


def test_one_product_is_enough(tmp_path: Path) -> None:
    figures, page = report(tmp_path, [product("a", "Un livre")])
    assert figures["lengths"]["title"]["p99"] == 8
    assert "All products are of one type." in page


def test_products_with_images_alone_are_described(tmp_path: Path) -> None:
    figures, page = report(
        tmp_path, [product("a", None, **image("f1", "l1")), product("b", " ", **image("f2", "l2"))]
    )
    assert figures["missing"]["title"] == 1
    assert figures["languages"] == {"sampled": 0, "shares": {}}
    assert "Lengths" not in page


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_title_is_text(title: str, tmp_path: Path) -> None:
    _, source = report(tmp_path, [product("a", title), product("b", title)])
    page = Page(source)
    assert_loads_nothing(page)
    for hidden in "\u202e\u202c\u2066":
        assert hidden not in source
        title = title.replace(hidden, f"‹U+{ord(hidden):04X}›")
    assert title in page.text


def test_hostile_keys_codes_and_labels_are_text(tmp_path: Path) -> None:
    types = ProductTypes(ProductType(f"{text}{n}", text) for n, text in enumerate(HOSTILE[:2]))
    rows = [product(code + key, "Un livre", type_code=code) for code in types for key in "ab"]
    _, source = report(tmp_path, rows, types=types)
    page = Page(source)
    assert_loads_nothing(page)
    for text in HOSTILE[:2]:
        assert page.text.count(text) > 2


def test_a_very_long_title_is_cut(tmp_path: Path) -> None:
    figures, source = report(tmp_path, [product("a", "é" * 20_000), product("b", "é" * 20_000)])
    assert figures["lengths"]["title"]["longest"] == 20_000
    assert "é" * 90 + "…" in source
    assert "é" * 91 not in source


def test_the_page_names_no_other_host(tmp_path: Path) -> None:
    _, source = report(tmp_path, SEVEN)
    assert "//" not in source.replace("data:,", "")
    assert "default-src 'none'" in source
    assert_loads_nothing(Page(source))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [{**row, "weight": f"0.{n + 1}"} for n, row in enumerate(SEVEN)]
    report(tmp_path / "one", rows, folder="here")
    report(tmp_path / "two", rows, folder="there")
    for name in (JSON_FILE, HTML_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
