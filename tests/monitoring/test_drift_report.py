"""The drift report: what was seen, on a page that is safe to open."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.monitoring.conftest import TYPES, observations
from tests.training.test_report import HOSTILE, Page, assert_loads_nothing, words

from aisle.catalog import ImageTraits, ProductType, ProductTypes
from aisle.errors import ImageError
from aisle.model.reference import Observations, Reference
from aisle.monitoring.detection import detect
from aisle.monitoring.drift import Look
from aisle.monitoring.drift_report import HTML_FILE, JSON_FILE, NAMES, as_table, write_drift_report
from aisle.monitoring.labels import Interval, Labelled
from aisle.monitoring.window import Example, Window
from aisle.training.observe import Answered

N = 200
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
LABELS = ProductTypes(ProductType(code, f"Type {code}") for code in TYPES)
LABELLED = Labelled(
    labels={"accept": 12, "review": 88},
    predictions={"accept": 700, "review": 300},
    accuracy=Interval(0.875, 0.81, 0.92),
    weighted_f1=Interval(0.86, 0.8, 0.91),
    calibration_error=0.034,
)


def a_look(
    reference: Reference,
    rows: Observations,
    *,
    products: Sequence[Answered] | None = None,
    examples: Sequence[Example] | None = None,
    labelled: Labelled | None = None,
) -> Look:
    n = len(rows)
    return Look(
        version="4f87a77479ab",
        types=LABELS,
        reference=reference,
        window=Window(
            "the last products",
            products or [Answered(f"titre {row}", f"texte {row}", True, None, "10", 0.9) for row in range(n)],
            examples or [Example(f"key-{row}") for row in range(n)],
            NOW,
            NOW,
        ),
        observed=rows,
        drift=detect(reference, rows),
        labelled=labelled,
        estimate=Interval(0.9, 0.88, 0.92) if n else None,
        measured=0.912,
    )


def grey(n: int = N) -> Observations:
    return observations(n, seed=1, saturation=np.zeros(n, np.float32))


def report(folder: Path, one: Look, **options: Any) -> tuple[dict[str, Any], str]:
    write_drift_report(folder, one, **options)
    return json.loads((folder / JSON_FILE).read_text()), (folder / HTML_FILE).read_text()


def test_the_page_says_what_has_drifted_and_by_how_much(tmp_path: Path, reference: Reference) -> None:
    written, page = report(tmp_path, a_look(reference, grey()))
    text = words(page)
    assert written["alarms"] == ["image_saturation"]
    assert f"Drift in 1 of {len(written['features'])} features" in text
    one = next(one for one in written["features"] if one["name"] == "image_saturation")
    assert f"Saturation (image) drift {one['effect']:.3f} {one['adjusted_p_value']:.3f}" in text


def test_every_feature_has_its_plot(tmp_path: Path, reference: Reference) -> None:
    _, page = report(tmp_path, a_look(reference, grey()))
    for one in detect(reference, grey()).features:
        assert f"{one.name.replace('_', ' ').capitalize()} in the reference and in the window" in page, one.name
        assert NAMES[one.name] in page


def test_a_page_without_drift_says_so(tmp_path: Path, reference: Reference) -> None:
    assert "No drift" in words(report(tmp_path, a_look(reference, observations(N, seed=1)))[1])


def test_a_window_that_is_too_small_has_a_page_without_plots(tmp_path: Path, reference: Reference) -> None:
    _, page = report(tmp_path, a_look(reference, observations(40, seed=1)))
    assert "Not compared" in words(page)
    assert "the window has only 40 products" in words(page)
    assert "<svg" not in page


def test_an_empty_window_has_a_page(tmp_path: Path, reference: Reference) -> None:
    assert "0 products" in words(report(tmp_path, a_look(reference, observations(0, seed=1)))[1])


def test_what_people_said_is_shown_with_its_interval(tmp_path: Path, reference: Reference) -> None:
    text = words(report(tmp_path, a_look(reference, grey(), labelled=LABELLED))[1])
    assert "12 of 700 with the decision accept, 88 of 300 with the decision review" in text
    assert "87.5 % 81.0 % to 92.0 %" in text
    assert "0.034" in text


def test_without_labels_that_is_said(tmp_path: Path, reference: Reference) -> None:
    assert "Nobody gave one of these predictions a type yet" in words(report(tmp_path, a_look(reference, grey()))[1])


def test_what_merchants_wrote_is_shown_as_text(tmp_path: Path, reference: Reference) -> None:
    products = [Answered(f"{one} {row}", one, True, None, one, 0.9) for row, one in enumerate(HOSTILE * (N // 5))]
    one = a_look(reference, grey(), products=products, examples=[Example(one) for one in HOSTILE * (N // 5)])
    _, page = report(tmp_path, one, examples=40)
    assert_loads_nothing(page)
    assert "alert('title')" in Page(page).text


def test_hostile_words_and_types_in_a_plot_are_text(tmp_path: Path, reference: Reference) -> None:
    hostile = '</text></svg><script>alert("word")</script>'
    rows = observations(N, seed=1, predicted=[hostile] * N, title_language=[hostile] * N)
    _, page = report(tmp_path, a_look(reference, rows))
    assert_loads_nothing(page)


def test_the_most_unusual_products_come_first(tmp_path: Path, reference: Reference) -> None:
    strange = np.arange(N) % 20 == 0
    whole = observations(N, seed=1).names["title_language"]
    rows = observations(
        N, seed=1, title_language=["de" if one else name for one, name in zip(strange, whole, strict=True)]
    )
    _, page = report(tmp_path, a_look(reference, rows), examples=5)
    shown = [row for row in range(N) if f"titre {row}<" in page]
    assert len(shown) == 5
    assert strange[shown].all()


def test_products_that_read_the_same_are_shown_once(tmp_path: Path, reference: Reference) -> None:
    products = [Answered("un titre", "", True, None, "10", 0.9)] * N
    assert words(report(tmp_path, a_look(reference, grey(), products=products))[1]).count("un titre") == 1


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 30, 30)).save(buffer, format="PNG")
    return buffer.getvalue()


def gone() -> bytes:
    raise ImageError("there is no such image", reason="missing")


IMAGES = {
    "data:image/jpeg;base64,": (Example("a", picture), None, True),
    "image not shown (not_an_image)": (Example("b", lambda: b"no image"), None, True),
    "image not shown (missing)": (Example("c", gone), None, True),
    "image of 500 x 400, not kept": (Example("d"), ImageTraits(500, 400, 0.5, 0.2), True),
    "image not kept": (Example("e"), None, True),
    "no image": (Example("f"), None, False),
}


def test_an_image_is_shown_or_what_is_known_of_it(tmp_path: Path, reference: Reference) -> None:
    rows = (list(IMAGES.values()) * N)[:N]
    products = [Answered(f"titre {row}", "", one[2], one[1], "10", 0.9) for row, one in enumerate(rows)]
    one = a_look(reference, grey(), products=products, examples=[one[0] for one in rows])
    _, page = report(tmp_path, one, examples=60)
    shown = {kind for kind in IMAGES if f">{kind}<" in page or f'src="{kind}' in page}
    assert shown == set(IMAGES)


def test_the_same_look_gives_the_same_bytes(tmp_path: Path, reference: Reference) -> None:
    pages = [report(tmp_path / str(turn), a_look(reference, grey()))[1] for turn in (1, 2)]
    assert pages[0] == pages[1]


def test_the_terminal_shows_alarms_first_and_how_good_it_is(reference: Reference) -> None:
    lines = as_table(a_look(reference, grey(), labelled=LABELLED)).splitlines()
    assert lines[3].startswith("Saturation")
    assert lines[3].endswith("DRIFT")
    assert "drift in Saturation" in lines
    assert "accuracy by 100 labels: 87.5% (81.0% to 92.0%)" in lines


def test_the_terminal_says_why_nothing_was_compared(reference: Reference) -> None:
    assert "not compared: the window has only 3 products" in as_table(a_look(reference, observations(3, seed=1)))
