"""What the evaluation report promises: right figures, a page that is safe to open, no input that breaks it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aisle.catalog import Product, ProductType, ProductTypes
from aisle.model.explain import Explanation, Word
from aisle.model.neighbours import Neighbour
from aisle.training.evaluate import Evaluation, measure
from aisle.training.report import HTML_FILE, JSON_FILE, _heat, write_evaluation_report
from aisle.training.terminal import format_table

TYPES = ProductTypes([ProductType("10", "Livres"), ProductType("60", "Consoles"), ProductType("2060", "Déco")])
HOSTILE = [
    "<script>alert('title')</script>",
    '"><img src=x onerror=alert(1)>',
    "</bdi></style><style>@import 'https://evil.example/x.css'</style>",
    "livre \u202eerbil\u202c \u2066x",
    "half a pair \ud83d",
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


def evaluation(
    true_codes: Sequence[str],
    guesses: Sequence[str],
    *,
    types: ProductTypes = TYPES,
    confidence: float = 0.7,
    products: Sequence[Product] | None = None,
    **figures: Any,
) -> Evaluation:
    """Each product gets its guess with `confidence`; the other types share the rest."""
    codes = tuple(types)
    rest = (1 - confidence) / max(len(codes) - 1, 1)
    probabilities = np.full((len(guesses), len(codes)), rest)
    for row, guess in enumerate(guesses):
        probabilities[row, codes.index(guess)] = confidence
    targets = np.array([codes.index(code) if code in codes else -1 for code in true_codes], dtype=np.intp)
    return Evaluation(
        figures={**(measure(probabilities, targets, codes) if len(targets) else {"rows": 0}), **figures},
        model_version="4f87a77479ab",
        probabilities=probabilities,
        targets=targets,
        true_codes=true_codes,
        codes=codes,
        types=types,
        keys=[f"key-{row}" for row in range(len(guesses))],
        products=products or [Product(f"titre {row}", f"texte {row}") for row in range(len(guesses))],
    )


def report(folder: Path, one: Evaluation, **options: Any) -> tuple[dict[str, Any], str]:
    write_evaluation_report(folder, one, **options)
    return json.loads((folder / JSON_FILE).read_text()), (folder / HTML_FILE).read_text()


def words(source: str) -> str:
    """The page's text with single spaces, one between any two cells too."""
    return " ".join(Page(source.replace("<", " <")).text.split())


def assert_loads_nothing(source: str) -> None:
    page = Page(source)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not page.handlers
    assert all(one.startswith(("#", "data:")) for one in page.loads)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 30, 30)).save(buffer, format="PNG")
    return buffer.getvalue()


EIGHT = evaluation(["10"] * 5 + ["60", "60", "2060"], ["10", "10", "10", "60", "60", "60", "10", "2060"])


def test_the_figures_are_those_of_a_count_by_hand(tmp_path: Path) -> None:
    written, _ = report(tmp_path, EIGHT)
    assert written["model_version"] == "4f87a77479ab"
    assert written["figures"] == EIGHT.figures
    assert written["figures"]["accuracy"] == 0.625
    assert written["confusion"] == {"codes": ["10", "60", "2060"], "counts": [[3, 2, 0], [1, 1, 0], [0, 0, 1]]}
    assert written["unknown_types"] == {}


def test_the_page_shows_every_figure_of_the_contract(tmp_path: Path) -> None:
    one = evaluation(EIGHT.true_codes, ["10"] * 8, latency_ms={"p50": 13.79, "p95": 20.4, "p99": 23.0}, left_out=2)
    text = words(report(tmp_path, one)[1])
    for name in ("Accuracy", "Weighted F1", "Macro F1", "Top 3", "Log-loss", "Calibration error", "Coverage"):
        assert name in text
    for promise in (95, 97, 98, 99):
        assert f"{promise} %" in text
    assert "p50 13.79 p95 20.40 p99 23.00" in text
    assert "2 more had nothing to look at" in text


def test_latency_is_left_out_where_it_was_not_measured(tmp_path: Path) -> None:
    assert "Latency" not in report(tmp_path, EIGHT)[1]


def test_confusions_and_mistakes_name_both_types(tmp_path: Path) -> None:
    text = words(report(tmp_path, EIGHT)[1])
    assert "10 Livres 60 Consoles 2 40.0 %" in text
    assert "titre 3 texte 3 True: 10 Livres Predicted: 60 Consoles , 70.0 % sure Key key-3" in text


def test_at_most_so_many_examples_are_shown(tmp_path: Path) -> None:
    text = words(report(tmp_path, EIGHT, examples=1)[1])
    assert text.count("sure Key") == 1


def test_the_surest_mistakes_come_first_and_missed_products_before_intruders(tmp_path: Path) -> None:
    one = evaluation(["10"] * 5 + ["60"], ["10", "10", "10", "60", "60", "10"])
    one.probabilities[4] = (0.05, 0.9, 0.05)
    one.probabilities[5] = (0.99, 0.005, 0.005)
    text = words(report(tmp_path, one)[1])
    assert text.index("Key key-4") < text.index("Key key-3") < text.index("Key key-5")


def test_types_with_few_products_have_no_examples(tmp_path: Path) -> None:
    text = words(report(tmp_path, evaluation(["10", "60"], ["60", "60"]))[1])
    assert "no type with at least 5 products has a mistake" in text


def test_an_image_is_shown_as_a_new_small_jpeg(tmp_path: Path) -> None:
    products = [Product("livre", "", picture())] * 5
    _, source = report(tmp_path, evaluation(["10"] * 5, ["60"] * 5, products=products))
    assert source.count('<img src="data:image/jpeg;base64,') == 3
    assert_loads_nothing(source)


def test_a_damaged_image_is_said_to_be_damaged(tmp_path: Path) -> None:
    products = [Product("livre", "", b"<svg onload=alert(1)>")] * 5
    text = words(report(tmp_path, evaluation(["10"] * 5, ["60"] * 5, products=products))[1])
    assert "image not shown (" in text


def test_types_that_the_model_does_not_know_are_named_so(tmp_path: Path) -> None:
    written, source = report(tmp_path, evaluation(["10", "9", "9", "60"], ["10", "60", "60", "60"]))
    assert written["confusion"]["counts"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert written["unknown_types"] == {"9": 2}
    text = words(source)
    assert "does not know 1 of the types here, so it is always wrong on their products: 9 (2)." in text
    assert "9 (unknown to the model) 60 Consoles 2 100.0 %" in text
    assert "Recall unknown to the model 0.0 % 2" in text


@pytest.mark.parametrize(
    ("true_codes", "guesses"),
    [
        (["10"], ["10"]),
        (["10"], ["60"]),
        (["9"], ["60"]),
        (["9"] * 6, ["60"] * 6),
        (["10"] * 8, ["10"] * 8),
    ],
    ids=["one right", "one wrong", "one unknown", "only unknown", "all right, one type"],
)
def test_small_and_odd_evaluations_give_a_page(true_codes: list[str], guesses: list[str], tmp_path: Path) -> None:
    _, source = report(tmp_path, evaluation(true_codes, guesses))
    assert source.rstrip().endswith("</html>")
    assert source.count("<svg ") == 3


def test_a_model_of_one_type_gives_a_page(tmp_path: Path) -> None:
    types = ProductTypes([ProductType("10", "Livres")])
    written, _ = report(tmp_path, evaluation(["10"] * 6, ["10"] * 6, types=types, confidence=1.0))
    assert written["confusion"]["counts"] == [[6]]


def test_a_model_of_many_types_gives_a_page(tmp_path: Path) -> None:
    codes = [str(code) for code in range(120)]
    _, source = report(tmp_path, evaluation(codes, codes, types=ProductTypes.from_codes(codes)))
    assert source.rstrip().endswith("</html>")


def test_no_rows_give_a_page_that_says_so(tmp_path: Path) -> None:
    written, source = report(tmp_path, evaluation([], []))
    assert written["figures"] == {"rows": 0}
    assert written["confusion"]["counts"] == [[0] * 3] * 3
    assert "Nothing was measured" in source


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_product_is_text(text: str, tmp_path: Path) -> None:
    products = [Product(text, text)] * 5
    _, source = report(tmp_path, evaluation(["10"] * 5, ["60"] * 5, products=products))
    assert_loads_nothing(source)
    for hidden in "\u202e\u202c\u2066\ud83d":
        assert hidden not in source
        text = text.replace(hidden, f"‹U+{ord(hidden):04X}›")
    assert Page(source).text.count(text) == 6


def test_hostile_codes_and_labels_are_text_in_tables_and_plots(tmp_path: Path) -> None:
    types = ProductTypes(
        [ProductType("<script>", HOSTILE[0]), ProductType("$x_{1}$", "数码 $y$"), ProductType("数\x1b[2J", "a")]
    )
    codes = list(types)
    _, source = report(tmp_path, evaluation(codes * 2, [codes[0]] * 6, types=types))
    assert_loads_nothing(source)
    assert HOSTILE[0] in Page(source).text
    plots = "".join(source.split("<svg ")[1:])
    assert "&lt;script&gt; (2)" in plots
    assert "$x_{1}$ (2)" in plots


def test_very_long_texts_are_cut(tmp_path: Path) -> None:
    products = [Product("é" * 20_000, "à" * 20_000)] * 5
    _, source = report(tmp_path, evaluation(["10"] * 5, ["60"] * 5, products=products))
    assert "é" * 160 + "…" in source
    assert "é" * 161 not in source
    assert "à" * 201 not in source


def test_the_page_names_no_other_host(tmp_path: Path) -> None:
    _, source = report(tmp_path, EIGHT)
    assert "://" not in source
    assert "url(http" not in source
    assert "default-src 'none'" in source
    assert_loads_nothing(source)


def test_no_identifier_stands_twice_in_the_page(tmp_path: Path) -> None:
    identifiers = [part.split('"')[0] for part in report(tmp_path, EIGHT)[1].split(' id="')[1:]]
    assert len(identifiers) == len(set(identifiers))


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    report(tmp_path / "one", EIGHT)
    report(tmp_path / "two", EIGHT)
    for name in (JSON_FILE, HTML_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_table_shows_figures_coverage_latency_and_types() -> None:
    table = format_table({**EIGHT.figures, "left_out": 1, "latency_ms": {"p50": 1.5}}, TYPES)
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "Products 8" in lines
    assert "Left out 1 nothing to look at" in lines
    assert "Accuracy 62.50 %" in lines
    assert "at 95 % 0.0 %" in lines
    assert "p50 1.50 ms" in lines
    assert lines[-3:] == [
        "60 2 33.3 50.0 40.0 Consoles",
        "10 5 75.0 60.0 66.7 Livres",
        "2060 1 100.0 100.0 100.0 Déco",
    ]


def test_the_table_does_without_labels_and_without_rows() -> None:
    assert "Livres" not in format_table(EIGHT.figures)
    assert format_table({"rows": 0}) == "No labelled product to measure on."


def test_no_label_moves_the_cursor_of_the_terminal() -> None:
    types = ProductTypes([ProductType("10", "\x1b[2Jx\r\n\u202e" + "y" * 100)])
    figures = evaluation(["10"], ["10"], types=types, confidence=1.0).figures
    line = format_table(figures, types).splitlines()[-1]
    assert "?[2Jx???yyy" in line
    assert len(line) < 110


def explanation(*_: Product, side: int = 2) -> Explanation:
    heat = np.zeros((side, side))
    heat[0, 0] = 2.0
    return Explanation(
        prediction=None,  # type: ignore[arg-type]  # the report has its own
        words={"title": (Word("moins", -1.0), Word(HOSTILE[0], 0.5), Word("plus", 2.0))},
        heat_map=heat,
        weights={"title": 3.0, "image": -1.0},
        neighbours=(Neighbour("n1", HOSTILE[1], "60", 0.9), Neighbour("n2", "autre", "9999", 0.8)),
    )


def test_a_mistake_says_why_it_was_made(tmp_path: Path) -> None:
    products = [Product("titre", "", picture())] * 5
    one = evaluation(["10"] * 5, ["10", "10", "10", "10", "60"], products=products)
    _, page = report(tmp_path, one, explain=explanation)
    assert_loads_nothing(page)
    text = words(page)
    assert f"Because of plus , {HOSTILE[0]} ; image 25 % , title 75 % of what was said" in text.replace("%,", "% ,")
    assert "autre ( 9999 )" in text
    assert page.count("spoke for the predicted type") == 1


def test_the_part_that_spoke_for_the_type_is_the_one_that_is_coloured() -> None:
    from base64 import b64decode

    shown = _heat(picture(), explanation(side=2).heat_map)  # type: ignore[arg-type]
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(shown.partition(",")[2]))), dtype=int)
    colour = pixels.max(axis=2) - pixels.min(axis=2)
    assert colour[40:50, 10:50].mean() > 5 * colour[60:100, 60:100].mean()


def test_an_image_of_which_no_part_matters_is_grey() -> None:
    from base64 import b64decode

    shown = _heat(picture(), np.full((3, 3), -1.0))
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(shown.partition(",")[2]))), dtype=int)
    assert (pixels.max(axis=2) - pixels.min(axis=2)).max() < 8
