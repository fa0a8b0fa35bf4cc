"""What `make bench-rivals` makes of its rounds, and that it measures a real server."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import pytest
from benchmarks.load import Connections, Outcome, arrive
from benchmarks.measure import ROOT, record, shown
from benchmarks.page import marks
from benchmarks.rivals import __main__ as rivals
from benchmarks.rivals import page
from benchmarks.rivals.__main__ import _in_turn, _measure
from benchmarks.rivals.contenders import BARE, Contender
from benchmarks.rivals.figures import figures, quiet
from benchmarks.rivals.products import as_msgpack, drawn, form
from benchmarks.rivals.rounds import CLIENTS, Lengths, Round, Server, Window, arrivals, running, served_round

from aisle.model.bundle import Bundle

needs_two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="the server and its load want a core each")
SHORT = Lengths(warm=0.1, closed=0.1, open=0.2)
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
TRIVIAL = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answered = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        sum(range(200_000))
        Handler.answered += 1
        self.send_response(500 if Handler.answered % 10 == 0 else 200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"2\\r\\nhi\\r\\n0\\r\\n\\r\\n")

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def window(per_s: float, *, p99_ms: float = 10, cpu_ms: float = 10) -> Window:
    return Window(100, 0, per_s, 5, 8, p99_ms, cpu_ms)


def round_of(name: str, per_s: float, *, probe_ms: float = 20, cpu_ms: float = 10, p99_ms: float = 10) -> Round:
    clients = dict.fromkeys((1,) if name == BARE else CLIENTS, window(per_s, cpu_ms=cpu_ms))
    return Round(name, probe_ms, 2.0, 200, 300, clients, None if name == BARE else window(per_s, p99_ms=p99_ms))


def ratios(setting: str, *rounds: Round) -> Mapping[str, float]:
    return {one.name: one.value for one in figures(rounds, setting)}


def test_a_round_counts_unless_the_probe_before_it_was_more_than_a_tenth_off() -> None:
    probes = (20.0, 20.0, 21.9, 18.1, 22.1, 17.9)
    assert [one.probe_ms for one in quiet([round_of("aisle", 1, probe_ms=ms) for ms in probes])] == [
        20,
        20,
        21.9,
        18.1,
    ]


def test_a_percentile_is_a_time_that_was_measured() -> None:
    outcome = Outcome([one / 1000 for one in range(100, 0, -1)], elapsed=2.0)
    outcome.statuses.update([200] * 100 + [503] * 3)
    assert Window.of(outcome, cpu=0.5) == Window(100, 3, 50, 51, 96, 100, 5)


def test_requests_come_at_random_at_the_rate_and_by_the_same_draw_for_all() -> None:
    slow, fast = arrivals(10, 60), arrivals(20, 60)
    assert sum(slow) == pytest.approx(60, rel=0.1)
    assert fast[: len(slow)] == pytest.approx([one / 2 for one in slow])


def test_in_the_open_loop_time_counts_from_when_a_request_was_due() -> None:
    class Instant(Connections):
        async def ask(self, request: bytes) -> int:
            return 200

    outcome = asyncio.run(arrive(Instant("", 0), [b""], [-10.0]))
    assert outcome.seconds[0] >= 10


def test_a_connection_that_its_server_has_closed_is_not_used_again() -> None:
    """Some close what was idle for five seconds: no error of theirs, where clients look before they ask."""

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def statuses() -> list[int]:
        async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
            connections = Connections(*server.sockets[0].getsockname())
            first = await connections.ask(REQUEST)
            await connections._idle[0][0].read()  # until it is closed
            found = [first, await connections.ask(REQUEST)]
            connections.close()
            return found

    assert asyncio.run(statuses()) == [200, 200]


def test_ratios_are_of_the_best_and_of_the_median_rival() -> None:
    found = ratios(
        "light",
        round_of(BARE, 60, cpu_ms=15),
        round_of("aisle", 57, cpu_ms=17, p99_ms=40),
        round_of("mosec", 50, cpu_ms=18, p99_ms=50),
        round_of("ray", 60, cpu_ms=19, p99_ms=20),
        round_of("bentoml", 40, cpu_ms=21, p99_ms=90),
    )
    assert found["throughput_over_best_rival_16"] == 57 / 60
    assert found["throughput_over_bare"] == 57 / 60
    assert found["cpu_added_ms"] == 2
    assert found["cpu_added_beyond_half_the_median_rival_ms"] == 2 - 4 / 2
    assert found["p99_over_best_rival"] == 40 / 20


def test_beside_rivals_that_add_less_than_nothing_a_goal_is_not_met_by_a_negative_ratio() -> None:
    found = figures(
        [round_of(BARE, 60, cpu_ms=15), round_of("aisle", 57, cpu_ms=16), round_of("mosec", 60, cpu_ms=14)], "light"
    )
    [judged] = [one for one in found if one.name == "cpu_added_beyond_half_the_median_rival_ms"]
    assert (judged.value, judged.met) == (1.5, False)


def test_a_ratio_says_how_sure_it_is() -> None:
    """By other sets of rounds: of rounds that are all alike there is one, of others what most of them say."""

    def spread(*rates: float) -> tuple[float, float] | None:
        rounds = [round_of("aisle", rate) for rate in rates] + [round_of("mosec", 50)] * len(rates)
        [ratio] = [one for one in figures(rounds, "light") if one.name == "throughput_over_best_rival_16"]
        return ratio.spread

    assert spread(50, 50, 50) == (1, 1)
    assert spread(40, 45, 50, 55, 60) == (0.8, 1.2)
    assert spread(10, *[50] * 20, 90) == (1, 1)


def test_errors_are_those_of_all_rounds() -> None:
    failing = replace(window(50), errors=3)
    rounds = [replace(round_of("aisle", 50), at_share=failing), round_of("aisle", 50), round_of("aisle", 50)]
    assert ratios("light", *rounds)["aisle_errors"] == 3


def test_a_slow_server_is_asked_until_there_are_enough_requests_for_a_99th_percentile(tmp_path: Path) -> None:
    class Slow:
        token = ""
        process = argparse.Namespace(pid=os.getpid())
        asked: ClassVar[list[int]] = []

        def wait_until_ready(self, _: bytes) -> float:
            return 1.0

        def ask(self, work: partial[object]) -> Window:
            self.asked.append(len(work.keywords.get("gaps", ())))
            return window(1.0)

    served_round(
        Contender("slow", "", "", lambda *_: []), drawn(1), Lengths(1, 1, 3), nullcontext(cast(Server, Slow()))
    )
    assert Slow.asked[-1] == 100


def test_fewer_rounds_than_a_record_has_are_printed_and_leave_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rivals, "_measure", lambda *_: [round_of("aisle", 50)])
    places = ["--results", str(tmp_path / "results"), "--page", str(tmp_path / "page.md")]
    assert rivals.main(["light", "--rounds", "1", *places]) == 0
    assert "peak_mb" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_round_that_does_not_count_is_measured_again_as_often_as_there_are_rounds() -> None:
    probes = iter([20.0, 20.0, 40.0, 20.0, 20.0, 20.0])
    rounds = _in_turn(["aisle", "mosec"], lambda name: round_of(name, 1, probe_ms=next(probes)), 2)
    assert [one.contender for one in rounds] == ["aisle", "mosec", "mosec", "aisle", "mosec"]
    assert len(_in_turn(["aisle"], lambda name: round_of(name, 1, probe_ms=len(name)), 2)) == 2


def test_a_contender_that_does_not_start_is_left_out_and_the_others_go_on() -> None:
    def one_round(name: str) -> Round:
        if name == "ray":
            raise RuntimeError("it does not serve")
        return round_of(name, 1)

    assert [one.contender for one in _in_turn(["ray", "aisle"], one_round, 1)] == ["aisle"]


def test_a_bundle_of_lstm_vgg16_is_compared_with_the_original_alone() -> None:
    found = ratios("lstm-vgg16-int8", round_of("aisle", 30), round_of("original", 5), round_of("mosec", 40))
    assert {name: found[name] for name in found if "over" in name} == {"throughput_over_original_16": 6}


def test_the_page_says_what_was_missed(tmp_path: Path) -> None:
    rounds = [round_of(BARE, 60, cpu_ms=15), round_of("aisle", 50, cpu_ms=16), round_of("mosec", 55, cpu_ms=20)]
    counted = {one.contender: 1 for one in rounds}
    details = {"thrown_away": 0, "seconds": 1.0, "counted": counted}
    found = figures(rounds, "light")
    record("rivals_light", found, "command", "0123456789ab", results=tmp_path / "results", details=details)
    file = tmp_path / "performance.md"
    begin, end = marks("rivals")
    file.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    page.write(file, tmp_path / "results")
    text = file.read_text()
    assert re.search(r"most answers a second, over the bare predictor's \| 0\.833 \| >= 0\.9 \| \*\*missed\*\*", text)
    assert re.search(r"processor time added over .* \| 1 \| <= 2 \| met", text)
    assert (text.startswith("before"), text.endswith("after\n"), "old" in text) == (True, True, False)
    assert (tmp_path / "performance" / "light.svg").read_text().startswith("<?xml")


def test_the_command_that_the_page_shows_names_no_folder_of_the_machine() -> None:
    words = ["light", "--model", "/home/ada/models/c57e", "--results", "/tmp/results", "--rounds", "5"]  # noqa: S108
    assert shown(words, without=("--results",)) == "light --model c57e --rounds 5"


def test_every_contender_is_sent_the_same_title_and_image() -> None:
    msgpack = pytest.importorskip("msgpack")
    [shown] = drawn(1)
    assert msgpack.unpackb(as_msgpack(shown)[1]) == {"designation": shown.title, "image": shown.image}
    assert shown.image in form(shown)[1]


def test_the_rivals_compute_with_the_libraries_of_aisle() -> None:
    def pins(lock: str) -> set[str]:
        text = (ROOT / lock).read_text()
        return set(re.findall(r"^(?:numpy|onnxruntime|simplejpeg|pillow|scipy)==[\d.]+", text, re.MULTILINE))

    for one in ("rivals", "rivals-mlserver", "bentoml"):
        assert pins(f"requirements/{one}.txt") <= pins("requirements.txt")


@needs_two_cores
def test_a_round_of_a_real_server_has_its_errors_its_time_and_its_memory(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(TRIVIAL)
    trivial = Contender(
        "trivial", "", "", lambda programs, port, _: [programs / "python", tmp_path / "server.py", str(port)]
    )
    serving = running(trivial, tmp_path, tmp_path / "place", {})
    found = served_round(trivial, drawn(5), SHORT, serving)
    assert set(found.clients) == set(CLIENTS)
    assert found.at_share is not None
    for one in (*found.clients.values(), found.at_share):
        assert one.answered > 0
        assert 0 < one.p50_ms <= one.p95_ms <= one.p99_ms
    assert any(one.errors for one in found.clients.values())
    assert sum(one.cpu_ms for one in found.clients.values()) > 0
    assert 1 < found.resident_mb <= found.peak_mb
    assert found.ready_s < 30


@needs_two_cores
def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    broken = Contender("broken", "", "", lambda programs, *_: [programs / "python", "-c", "raise SystemExit('no')"])
    with pytest.raises(RuntimeError, match="does not serve:\nno"):
        served_round(broken, drawn(1), SHORT, running(broken, tmp_path, tmp_path / "place", {}))


@pytest.mark.slow
@needs_two_cores
def test_aisle_and_another_serve_the_same_bundle_without_an_error(bundle: Bundle) -> None:
    chosen = argparse.Namespace(model=bundle.path, environments=ROOT, seconds=0.3, rounds=1)
    rounds = _measure("light", ["aisle", "original"], chosen)
    assert {one.contender for one in rounds} == {"aisle", "original"}
    for one in rounds:
        for window in (*one.clients.values(), one.at_share):
            assert window is not None
            assert (window.errors, window.answered > 0) == (0, True)
