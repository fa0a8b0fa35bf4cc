"""What the benchmarks read off logs and files is what they say it is."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import check, decoding, measure, original_bulk, page, scale, sections, training
from benchmarks.__main__ import BENCHMARKS, ON_THE_PAGE, _benchmark
from benchmarks.measure import ROOT, Figure, Timed, record
from benchmarks.networks import fewer_images, passes_of, product_figures
from benchmarks.page import DOLLARS_A_CORE_HOUR, marks, number, write_between

from aisle.model.bundle import Bundle

LIGHT_FIRST: tuple[tuple[str, float, dict[str, object]], ...] = (
    ("encoding images", 0.0, {"cached": 0, "to_encode": 12_000}),  # of all sides, by another encoder
    ("encoding images", 30.0, {"done": 6_000, "total": 12_000}),
    ("fitting models", 60.0, {}),
    ("trained", 80.0, {}),
    ("fitting the text network", 90.0, {}),
    ("epoch", 100.0, {"of": "text"}),
    ("epoch", 110.0, {"of": "text"}),
    ("encoding images", 120.0, {"cached": 0, "to_encode": 11_400}),
    ("encoding images", 620.0, {"done": 5_700, "total": 11_400}),  # how far it is
    ("fitting the image head", 1120.0, {}),
    ("epoch", 1125.0, {"of": "image"}),
    ("epoch", 1127.0, {"of": "image"}),
    ("epoch", 1129.0, {"of": "image"}),
    ("measuring VGG16 with 8-bit integers", 1130.0, {}),
    ("encoding images", 1140.0, {"cached": 0, "to_encode": 600}),
    ("trained", 1300.0, {}),
)


def log(**changed: object) -> str:
    """The log of a training of `light` and one of `lstm-vgg16`; `changed` is said of VGG16's first pass."""
    lines = []
    for event, second, said in LIGHT_FIRST:
        timestamp = (datetime(2026, 11, 24, tzinfo=UTC) + timedelta(seconds=second)).isoformat()
        more = said | changed if said.get("to_encode") == 11_400 else said
        lines.append(json.dumps({"event": event, "timestamp": timestamp, **more}))
    return "\n".join(lines)


def test_the_first_pass_is_that_of_vgg16_whatever_was_encoded_before_and_after() -> None:
    passes = passes_of(log())
    assert (passes.images, passes.first, passes.epoch) == (11_400, 1000.0, 2.0)


def test_a_pass_over_cached_images_is_not_taken_for_a_first_one() -> None:
    with pytest.raises(ValueError, match="256 images were in the cache"):
        passes_of(log(cached=256))


@pytest.mark.parametrize("kept", ["fp32", "int8"])
def test_the_goal_for_one_product_belongs_to_the_graph_that_serves(kept: str) -> None:
    figures = product_figures({"fp32": 0.9, "int8": 0.2}, kept=kept)
    assert {one.name.split("_")[1]: bool(one.goal) for one in figures} == {
        name: name == kept for name in ("fp32", "int8")
    }
    assert all(one.met for one in figures) == (kept == "int8")


def test_of_a_catalogue_with_fewer_images_every_title_stays(sample: Path, tmp_path: Path) -> None:
    folder = fewer_images(sample, tmp_path / "fewer", 30)
    tables = []
    for source in (sample, folder):
        with (source / "X_train_update.csv").open(newline="") as stream:
            tables.append(list(csv.DictReader(stream)))
    before, after = tables
    assert [row["designation"] for row in before] == [row["designation"] for row in after]
    assert sum(bool(row["imageid"]) for row in after) == 30
    assert (folder / "images.zip").samefile(sample / "images.zip")


@pytest.mark.parametrize(("found", "are_slower"), [(1.0, []), (1.24, []), (1.26, ["titles"]), (0.1, [])])
def test_slower_is_what_costs_a_quarter_more_than_was_accepted(found: float, are_slower: list[str]) -> None:
    assert check.slower({"titles": found}, {"titles": 1.0}) == are_slower
    assert ("SLOWER" in check.report({"titles": found}, {"titles": 1.0})) == bool(are_slower)


def test_what_nobody_has_accepted_is_told() -> None:
    assert check.slower({"titles": 0.5}, {}) == ["titles"]
    assert "NOT ACCEPTED YET" in check.report({"titles": 0.5}, {})


def test_a_ratio_is_the_median_of_the_rounds_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    ours, theirs = iter((90, 2, 9, 3)), iter((1, 1, 3, 1))

    def spent(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr(check, "cpu", lambda: clock)
    pair = check.Pair("loops", lambda: spent(next(ours)), lambda: spent(next(theirs)))
    assert check.ratio(pair) == 3
    assert (list(ours), list(theirs)) == ([], [])


def test_what_takes_little_time_has_more_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, check.SECONDS / 20)  # each way takes that long
    monkeypatch.setattr(check, "cpu", lambda: next(clock))
    begun: list[str] = []
    check.ratio(check.Pair("loops", lambda: begun.append("ours"), lambda: begun.append("theirs")))
    assert len(begun) == pytest.approx(20, abs=2)


def test_the_processor_s_time_is_that_of_processes_too() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    before, itself = check.cpu(), time.process_time()
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert check.cpu() - before - (time.process_time() - itself) >= 0.25


@pytest.mark.parametrize(("each_time", "counts"), [((1.2,), 1.2), ((2.0, 1.1), 1.1), ((2.0, 1.9, 2.1), 1.9)])
def test_what_seems_slower_is_measured_again_and_what_is_slower_stays_so(
    each_time: tuple[float, ...], counts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter(each_time)
    monkeypatch.setattr(check, "ratio", lambda _: next(measured))
    assert check.ratios([check.Pair("loops", list, list)], {"loops": 1.0}) == {"loops": counts}
    assert list(measured) == []


@pytest.mark.slow
def test_nothing_is_slower_than_what_was_accepted(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """`make bench-check`, which says what to do where something is meant to cost more."""
    code = check.main(["--model", str(bundle.path)])
    assert code == 0, capsys.readouterr().out


def test_the_shares_of_a_training_are_those_of_what_was_told_last() -> None:
    told = ("encoding images", "encoding images", "fitting models", "epoch", "trained")
    events = zip(told, (0, 30, 40, 60, 100), strict=True)
    start = datetime(2026, 11, 24, tzinfo=UTC)
    lines = [{"event": event, "timestamp": (start + timedelta(seconds=at)).isoformat()} for event, at in events]
    later = [{**lines[0], "timestamp": (start + timedelta(hours=1)).isoformat()}]  # of another training
    found = training.shares_of("\n".join(map(json.dumps, lines + later)))
    assert found == pytest.approx({"images": 0.4, "models": 0.2, "transformer": 0.4})


def test_the_first_products_are_a_catalogue(sample: Path, tmp_path: Path) -> None:
    fewer = training.first_products(sample, tmp_path / "fewer", 100)
    for name in training.TABLES[:2]:
        with (fewer / name).open(newline="") as stream:
            assert len(list(csv.reader(stream))) == 101
    assert (fewer / "images.zip").is_symlink()


def recorded(results: Path, name: str, *figures: Figure) -> None:
    record(name, figures, f"python -m benchmarks {name}", "0123456789ab", results=results)


@pytest.mark.parametrize(("value", "said"), [(4302.04, "4,300"), (771.2, "771"), (0.9349, "0.935"), (-1.396, "-1.4")])
def test_a_figure_on_the_page_has_three_digits_and_no_power_of_ten(value: float, said: str) -> None:
    assert number(value) == said


def test_the_page_says_how_time_grows_and_which_goal_was_missed(tmp_path: Path) -> None:
    sizes = scale.ROWS
    seconds = [{verb: Timed(rows / 1000, 100, "") for verb in scale.VERBS} for rows in sizes]
    each = [Figure(f"{verb}_{rows}_s", rows / 1000) for verb in scale.VERBS for rows in sizes]
    recorded(tmp_path, "scale", *each, *scale.exponents(sizes, seconds))
    for name, kind, power in (("training", "real", 1.22), ("training_generated", "generated", 1.01)):
        trained = [Figure(f"{kind}_1000_{one}", 20) for one in ("cold_s", "cached_s", "cold_peak_mb", "images_share")]
        last = (training.GENERATED if kind == "generated" else training.SIZES)[-1]
        trained.append(Figure(f"{kind}_{last}_cold_s", 20 * (last / 1000) ** 0.5))
        recorded(tmp_path, name, *trained, Figure(f"{kind}_cold_exponent", power))
    page = tmp_path / "performance.md"
    page.write_text("\n".join(marks("growth")))
    sections.write(page, tmp_path)
    text = page.read_text()
    assert "| import | 1.00 | met | 1.00 |" in text
    assert "| train `light`, cold, real | 1.22 | **missed** | 0.50 |" in text
    assert "| train `light`, cold, generated | 1.01 | met | 0.50 |" in text
    assert "100,000 rows" in text
    assert (tmp_path / "performance" / "rows.svg").read_text().startswith("<?xml")


def test_the_page_has_bulk_prediction_beside_the_original_s_way(tmp_path: Path) -> None:
    units = {name.replace("-", "_"): name for name in sections.WAYS}
    rates = [Figure(f"{unit}_per_s", 0.5) for unit in units]  # 1,000 in 2,000 s
    ratios = [Figure(f"{unit}_ratio", 30.5) for unit, name in units.items() if name != original_bulk.THEIRS]
    recorded(tmp_path, "original_bulk", *rates, *ratios)
    page = tmp_path / "performance.md"
    page.write_text("\n".join(marks("bulk")))
    sections.write(page, tmp_path)
    price = (os.cpu_count() or 1) * DOLLARS_A_CORE_HOUR * 2000 / 3600
    assert f"| `aisle predict`, `light` of 1,350 products | 0.5 | 30.5 | {price:.5f} |" in page.read_text()
    assert "`python -m benchmarks original_bulk`" in page.read_text()


def test_the_page_has_the_image_branch_and_the_image_models(tmp_path: Path) -> None:
    epochs = {"images": 1427, "first_pass_s": 789.2, "epoch_cached_s": 0.18}
    theirs = {"epoch_keras_own_way_s": 922.6, "epoch_keras_own_way_times_cached": 5125.5}
    recorded(tmp_path, "networks", *(Figure(name, value) for name, value in (epochs | theirs).items()))
    models = [
        Figure(f"{one}_{said}", 0.696) for _, one, _ in sections.IMAGE_MODELS for said in ("weighted_f1", "log_loss")
    ]
    ends = [Figure(f"both_dense_weighted_f1_{end}", 0.7) for end in ("low", "high")]
    models = [replace(one, at_least=0.72) if one.name == "both_dense_weighted_f1" else one for one in models]
    recorded(tmp_path, "image_models", *models, *ends, Figure("learnt_from", 9), Figure("measured_on", 9))
    page = tmp_path / "performance.md"
    page.write_text("\n".join((*marks("image branch"), *marks("image models"))))
    sections.write(page, tmp_path)
    assert "5,126 times as long" in page.read_text()
    assert "| the same, 8 bits in ONNX Runtime | 0.6960 |" in page.read_text()
    assert "| 0.6960 | >= 0.72: **missed** |" in page.read_text()


def test_the_page_has_each_way_from_a_jpeg_to_pixels_with_its_spread_and_its_goal(tmp_path: Path) -> None:
    figures = []
    for side in decoding.SIDES:
        figures += [Figure.of_rounds(f"{way}_{side}_ms", [2.0, 3.0, 9.0]) for way in sections.DECODERS]
        figures += [Figure(f"ours_{side}_{one}_difference", 9) for one in ("largest", "mean")]
        for way in set(sections.DECODERS) - {decoding.OURS}:
            figures.append(Figure(f"{way}_{side}_ratio", 0.9 if way == "cv2" else 2.5, at_least=1))
    recorded(tmp_path, "decoding", *figures)
    page = tmp_path / "performance.md"
    page.write_text("\n".join(marks("decoding")))
    sections.write(page, tmp_path)
    assert "| OpenCV | 3 [2, 9]; 0.9 times (goal 1: **missed**) |" in page.read_text()
    assert "| Pillow | 3 [2, 9]; 2.5 times (goal 1: met) |" in page.read_text()


def test_the_page_has_each_network_in_each_engine_that_has_it(tmp_path: Path) -> None:
    figures = []
    for network in sections.NETWORKS:
        for engine in sections.ENGINES:
            if (network == "vgg16") >= (engine == "keras_fp32"):
                figures += [Figure(f"{network}_{engine}_{one}", 0.9234) for one in ("ms", "of_fp32", "agreement")]
    recorded(tmp_path, "engines", *figures)
    page = tmp_path / "performance.md"
    page.write_text("\n".join(marks("engines")))
    sections.write(page, tmp_path)
    other = "0.923; 0.923, cosine 0.9234"
    assert f"| VGG16 | 0.923 |{f' {other} |' * 4}" in page.read_text()
    assert f"| EfficientNet-Lite0 | 0.923 |{f' {other} |' * 3}  |" in page.read_text()


def test_ways_take_turns_and_each_round_begins_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    begun: list[str] = []
    taken = measure.in_turn({name: partial(begun.append, name) for name in "abc"}, rounds=2)
    assert "".join(begun) == "abcbcacab"
    assert taken == {"a": [1, 1], "b": [1, 1], "c": [1, 1]}


def test_a_result_has_the_commit_that_was_there_when_measuring_began(tmp_path: Path) -> None:
    entry = record("bulk", [Figure.of_rounds("s", [1, 5, 2])], "python", "before", results=tmp_path)
    assert (entry["commit"], entry["figures"], entry["details"]) == ("before", {"s": 2}, {"spread": {"s": [1, 5]}})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("flags : fpu avx avx2 fma", "AVX2"),
        ("flags : avx2 avx512f avx_vnni avx512_vnni", "AVX-512, VNNI"),
        ("flags : avx2 avx512f amx_int8", "AMX, AVX-512"),
        ("", ""),
    ],
)
def test_a_result_names_the_widest_arithmetic_of_the_processor(flags: str, said: str) -> None:
    assert measure.arithmetic(flags) == said


def test_a_result_has_the_arithmetic_of_this_processor(tmp_path: Path) -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    entry = record("x", [Figure("s", 1)], "x", "c", results=tmp_path)
    assert entry["machine"]["arithmetic"] == measure.arithmetic(flags)


@pytest.mark.parametrize(("arithmetic", "said"), [("AVX2", "2 cores of a CPU (AVX2), Python"), ("", "a CPU, Python")])
def test_the_page_names_the_arithmetic_where_a_result_has_it(arithmetic: str, said: str) -> None:
    machine = {"cpu": "a CPU", "cores": 2, "python": "3.11", "arithmetic": arithmetic}
    assert said in page.measured_by({"date": "2026-11-30", "commit": "c", "machine": machine, "command": "x"})


def test_a_page_without_a_place_for_what_was_measured_is_said(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("by hand\n")
    with pytest.raises(ValueError, match="no place for bulk"):
        write_between(page, "bulk", ["measured"])
    assert page.read_text() == "by hand\n"


@pytest.mark.parametrize("name", ["real_catalogue", "scale", "training", "training_generated"])
def test_whoever_measures_memory_has_little_itself(name: str) -> None:
    """Linux counts the memory of the process that starts a command into the peak of the command."""
    code = f"import sys; from benchmarks.__main__ import _benchmark; _benchmark({name!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not {"numpy", "polars", "aisle.settings", "matplotlib"} & set(loaded.stdout.split())


def test_every_name_has_its_benchmark() -> None:
    assert all(callable(_benchmark(name)) for name in BENCHMARKS)
    assert set(BENCHMARKS) >= ON_THE_PAGE


def test_time_that_grows_as_rows_do_has_the_exponent_one() -> None:
    assert training.exponent({1000: 2.0, 10_000: 20.0, 100_000: 200.0}) == pytest.approx(1)
