"""A load that remembers what it was promised: answers, corrections, batches. What else it was told is counted."""

from __future__ import annotations

import csv
import io
import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx
from tests.service.processes import PASSWORD

SECONDS = 15.0
"""How long a client waits for an answer."""
PAUSE_SECONDS = 0.2
CORRECTED = 0.3
"""The share of the answers that somebody has a word on, at once."""
HONEST = frozenset({401, 429, 502, 503, 504})
"""What may be said while something is broken: no, not now."""


@dataclass(frozen=True)
class Answer:
    """What was said of a title; `said` as code, label and confidence, the best first."""

    id: str
    title: str
    decision: str
    model: str
    said: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Correction:
    prediction_id: str
    code: str
    is_acknowledged: bool


@dataclass
class Job:
    """A table that was taken; `rows` is its result, once it was fetched."""

    id: str
    titles: Sequence[str]
    rows: list[dict[str, str]] | None = None


class Load:
    """Clients that ask one thing after another, in threads, until the end. `titles` are what they ask about."""

    def __init__(self, url: str, titles: Sequence[str], *, clients: int, table: int, seed: int) -> None:
        self._url, self._titles, self._table = url, titles, table
        self._stop = threading.Event()
        self._signing_in = threading.Lock()
        self._token = ""
        self.answers: list[Answer] = []
        self.corrections: list[Correction] = []
        self.jobs: list[Job] = []
        self.told: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._answered_at: list[float] = []
        work: Sequence[Callable[[httpx.Client, Random], None]] = [*[self._predict] * clients, self._predict_a_table]
        self._threads = [
            threading.Thread(target=self._go_on, args=(one, Random(f"{seed} {number}")), name=f"client {number}")
            for number, one in enumerate(work)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if failed:
            print(f"{len(self.answers)} answers, {self.told}, wrong: {self.wrong[:5]}")

    @property
    def longest_stall(self) -> float:
        """Seconds between two answers."""
        return max((after - before for before, after in itertools.pairwise(self._answered_at)), default=0.0)

    def _go_on(self, ask: Callable[[httpx.Client, Random], None], draw: Random) -> None:
        while not self._stop.is_set():
            with httpx.Client(base_url=self._url, timeout=SECONDS) as client:
                try:
                    while not self._stop.is_set():
                        ask(client, draw)
                except httpx.HTTPError as error:
                    self.told[type(error).__name__] += 1
            self._stop.wait(PAUSE_SECONDS)

    def _predict(self, client: httpx.Client, draw: Random) -> None:
        title = draw.choice(self._titles)
        answer = self._ask(client, "POST", "/predict", json={"designation": title})
        if answer is None:
            return
        self._answered_at.append(time.monotonic())
        body = answer.json()
        said = tuple((one["prediction"], one["label"], one["confidence"]) for one in body["predictions"])
        self.answers.append(Answer(body["prediction_id"], title, body["decision"], body["model"], said))
        if draw.random() < CORRECTED:
            self._correct(client, body["prediction_id"], draw.choice(said)[0])

    def _correct(self, client: httpx.Client, prediction_id: str, code: str) -> None:
        acknowledged = False
        try:
            form = {"prediction_id": prediction_id, "type": code}
            acknowledged = self._ask(client, "POST", "/feedback", json=form) is not None
        finally:
            self.corrections.append(Correction(prediction_id, code, acknowledged))

    def _predict_a_table(self, client: httpx.Client, draw: Random) -> None:
        titles = [draw.choice(self._titles) for _ in range(self._table)]
        written = io.StringIO()
        csv.writer(written).writerows([("index", "designation"), *enumerate(titles)])
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        table = {"table": ("table.csv", written.getvalue().encode())}
        sent = self._insist(client, "POST", "/batches", files=table, headers=headers)
        if sent is None:
            return
        job = Job(sent.json()["id"], titles)
        self.jobs.append(job)
        self._fetch(client, job)

    def _fetch(self, client: httpx.Client, job: Job) -> None:
        state = ""
        while state not in ("done", "failed"):
            found = self._insist(client, "GET", f"/batches/{job.id}")
            if found is None:
                return
            state = found.json()["state"]
            self._stop.wait(PAUSE_SECONDS)
            if state == "failed":
                self.wrong.append(f"batch failed: {found.json()['problem']}")
                return
        result = self._insist(client, "GET", f"/batches/{job.id}/results")
        if result is not None:
            job.rows = list(csv.DictReader(io.StringIO(result.text)))

    def finish(self, seconds: float) -> None:
        """After the load: fetch what was promised and not fetched yet."""
        self._stop.clear()
        timer = threading.Timer(seconds, self._stop.set)
        timer.start()
        with httpx.Client(base_url=self._url, timeout=SECONDS) as client:
            for job in [one for one in self.jobs if one.rows is None]:
                self._fetch(client, job)
        timer.cancel()

    def _insist(self, client: httpx.Client, method: str, path: str, **request: Any) -> httpx.Response | None:
        """Ask until there is an answer, or the load is over."""
        while not self._stop.is_set():
            try:
                answer = self._ask(client, method, path, **request)
            except httpx.HTTPError as error:
                self.told[type(error).__name__] += 1
                answer = None
            if answer is not None:
                return answer
            self._stop.wait(PAUSE_SECONDS)
        return None

    def _ask(self, client: httpx.Client, method: str, path: str, **request: Any) -> httpx.Response | None:
        """The answer, where it is one. Raises httpx.HTTPError."""
        if not self._token:
            self._sign_in(client)
            return None
        headers = {**request.pop("headers", {}), "Authorization": f"Bearer {self._token}"}
        answer = client.request(method, path, headers=headers, **request)
        self.told[f"{method} {path.split('/')[1]} {answer.status_code}"] += 1
        if answer.is_success:
            return answer
        if answer.status_code not in HONEST:
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        if answer.status_code == 401:
            self._sign_in(client)
        else:
            self._stop.wait(PAUSE_SECONDS)
        return None

    def _sign_in(self, client: httpx.Client) -> None:
        with self._signing_in:
            answer = client.post("/token", data={"username": "admin", "password": PASSWORD})
            self.told[f"POST token {answer.status_code}"] += 1
            if answer.is_success:
                self._token = answer.json()["access_token"]
            elif answer.status_code not in HONEST:
                self.wrong.append(f"POST /token: {answer.status_code} {answer.text[:300]}")
