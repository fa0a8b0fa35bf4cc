"""The closed loop on real processes: drift, alert, retraining, gate, shadow, canary, champion; and a bad challenger.

Services, Prometheus, Alertmanager and Pushgateway run as they do in a shop, with the repository's own rules and
routes; only addresses and waiting times differ. Traffic goes on all the while, and not one request may fail.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tests.servers import alertmanager, prometheus, pushgateway
from tests.service.processes import AISLE, PASSWORD, Shop, sign_in

from aisle.data.prepare import Prepared, PrepareOptions, prepare
from aisle.data.raw import IMAGES_ZIP, LABELS_FILE, TRAIN_FILE
from aisle.data.sample import write_sample
from aisle.data.split import Shares
from aisle.data.validate import validate
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.store import audit, experiments, retrainings
from aisle.store.engine import open_database, reading
from aisle.store.schema import retraining_requests
from aisle.training.recipes import light
from aisle.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DEPLOY = Path(__file__).parents[2] / "deploy"
WINDOW = 400
ROWS, GROWN_ROWS = 1500, 4500
"""The catalogue has grown since the champion was trained, so that a retraining gains far more than chance could take:
5 points of F1, where the limit of the gate is 1 lost. The corrections alone gain less than chance either way."""
PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Listing:
    """A product of the traffic, and the type that it really has."""

    title: str
    description: str
    code: str

    def drifted(self) -> Listing:
        """As another merchant lists it: in English, and without a description."""
        return Listing(f"brand new {self.title} fast shipping worldwide best quality guaranteed", "", self.code)


@dataclass
class Traffic:
    """Clients that list products for as long as it runs, and a reviewer who says of some which type was right."""

    url: str
    client: dict[str, str]
    reviewer: dict[str, str]
    listings: list[Listing]
    corrects_every: int = 0
    statuses: Counter[Any] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    fails: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._list) for _ in range(2)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def answered(self, count: int) -> None:
        """Wait until so many more were answered."""
        enough = self.statuses.total() + count
        until(lambda: self.statuses.total() >= enough, "traffic")

    def _list(self) -> None:
        with httpx.Client(timeout=30) as http:
            while not self._stop.wait(0.03):  # leaves the machine some room for all that runs beside
                number = next(self._numbers)
                one = self.listings[number % len(self.listings)]
                body = {"designation": one.title, "description": one.description}
                answer = self._ask(http, "predict", self.client, body | {"product_identifier": f"{number}"})
                if answer is None:
                    continue
                self.models[answer["model"]] += 1
                if self.corrects_every and number % self.corrects_every == 0:
                    word = {"prediction_id": answer["prediction_id"], "type": one.code}
                    self._ask(http, "feedback", self.reviewer, word)

    def _ask(self, http: httpx.Client, route: str, headers: dict[str, str], body: dict[str, str]) -> Any:
        try:
            answer = http.post(f"{self.url}/{route}", headers=headers, json=body)
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1
            return None
        self.statuses[answer.status_code] += 1
        if not answer.is_success:
            self.fails.append(answer.text)
            return None
        return answer.json()


@dataclass(frozen=True)
class Loop:
    """Everything that runs, for the tests to talk to."""

    shop: Shop
    url: str
    alertmanager: str
    listings: list[Listing]
    admin: dict[str, str]
    reviewer: dict[str, str]
    bad: Bundle

    @property
    def store(self) -> BundleStore:
        return BundleStore(self.shop.folder / "models")

    def traffic(self, listings: list[Listing], *, corrects_every: int = 0) -> Traffic:
        return Traffic(self.url, self.admin, self.reviewer, listings, corrects_every)

    def verb(self, *words: str) -> Any:
        """What a verb says, as JSON."""
        ran = aisle(self.shop, *words, "--json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def stages(self) -> list[str]:
        """Through which stages the retrainings went, by the audit trail."""
        with reading(open_database(self.shop.settings["DATABASE_URL"])) as connection:
            return [
                one.after["stage"] for one in audit.entries(connection) if one.what == "retrain.stage" and one.after
            ]

    def experiment(self) -> experiments.Experiment | None:
        with reading(open_database(self.shop.settings["DATABASE_URL"])) as connection:
            return experiments.current(connection)

    def alerts(self) -> set[str]:
        """The alerts that asked for a retraining, answered or not."""
        with reading(open_database(self.shop.settings["DATABASE_URL"])) as connection:
            return {
                reason.partition(":")[0] for (reason,) in connection.execute(select(retraining_requests.c.reason))
            }

    def last(self) -> retrainings.Retraining | None:
        with reading(open_database(self.shop.settings["DATABASE_URL"])) as connection:
            return next(iter(retrainings.latest(connection)), None)


def aisle(shop: Shop, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AISLE, *words], cwd=shop.folder, env={**_environment(), **shop.settings}, input=given, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def _environment() -> dict[str, str]:
    ours = {name.upper() for name in Settings.model_fields} - {"MLFLOW_TRACKING_URI"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited too long: {what}")
        time.sleep(0.1)


def listings_of(folder: Path) -> list[Listing]:
    with (folder / TRAIN_FILE).open(encoding="utf-8") as products, (folder / LABELS_FILE).open() as labels:
        pairs = zip(csv.DictReader(products), csv.DictReader(labels), strict=True)
        return [Listing(one["designation"], one["description"], of["prdtypecode"]) for one, of in pairs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a catalogue of texts."""
    place = tmp_path_factory.mktemp("shop")
    write_texts(place, ROWS)
    return place


def write_texts(shop: Path, rows: int) -> None:
    """The generated catalogue without images, so that a training takes seconds."""
    raw = shop / "data" / "raw"
    write_sample(raw, rows=rows, seed=0)
    (raw / IMAGES_ZIP).unlink()


@pytest.fixture(scope="module")
def shop(folder: Path) -> Shop:
    """With a champion, and a catalogue that has grown since."""
    found = Shop.at(
        folder,
        DATABASE_URL=f"sqlite:///{folder}/data/aisle.db",
        ACCESS_TOKEN_EXPIRE_MINUTES="60",
        MLFLOW_TRACKING_URI="off",
        DRIFT_WINDOW=str(WINDOW),
        RETRAIN_LEAST_LABELS="50",
        RETRAIN_MIN_CORRECTIONS="100000",  # the alert is to begin it
        RETRAIN_EVERY_DAYS="0",
        RETRAIN_PRODUCTS="150",
        RETRAIN_CANARY_SHARE="0.3",
        RETRAIN_POLL_SECONDS="0.5",
    )
    first = aisle(found, "train")
    assert first.returncode == 0, first.stderr
    write_texts(folder, GROWN_ROWS)
    return found


@pytest.fixture(scope="module")
def bad(folder: Path, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model that learnt from labels that are one product off: as well-formed as any, and nearly always wrong."""
    place = tmp_path_factory.mktemp("bad")
    raw = place / "raw"
    shutil.copytree(folder / "data" / "raw", raw)
    header, *labels = (raw / LABELS_FILE).read_text().splitlines()
    keys, codes = zip(*(line.split(",") for line in labels), strict=True)
    moved = [f"{key},{code}" for key, code in zip(keys, (*codes[1:], codes[0]), strict=True)]
    (raw / LABELS_FILE).write_text("\n".join([header, *moved]) + "\n")
    validate(raw, place / "validated")
    prepared: Prepared = prepare(place / "validated", place / "prepared", options=PrepareOptions(Shares(0.15, 0.1)))
    return train(light(), prepared, place / "bundle", cache=place / "cache", threads=2)


def prometheus_config(serve: str, auth: str, gateway: str, alerts: str, rules: Path) -> str:
    """The repository's, with the addresses of this test, and without the waiting."""
    rules.mkdir(parents=True)
    for path in (DEPLOY / "prometheus" / "rules").glob("*.yaml"):
        (rules / path.name).write_text(re.sub(r"(?m)^(\s+for:) \S+$", r"\1 0s", path.read_text()))
    jobs = {"serve": serve, "auth": auth, "pushgateway": gateway}
    scraped = "".join(
        f"  - job_name: {name}\n    honor_labels: {str(name == 'pushgateway').lower()}\n"
        f"    static_configs: [{{targets: ['{url.removeprefix('http://')}']}}]\n"
        for name, url in jobs.items()
    )
    return (
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{rules}/*.yaml]\n"
        f"alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alerts.removeprefix('http://')}']}}]}}]}}\n"
        f"scrape_configs:\n{scraped}"
    )


def alertmanager_config(serve: str, auth: str, key: Path) -> str:
    """The repository's, with the addresses of this test, and without the waiting."""
    text = (DEPLOY / "prometheus" / "alertmanager.yaml").read_text()
    for before, after in (
        ("http://serve:8000", serve),
        ("http://auth:8011", auth),
        ("/run/aisle/alertmanager_key", str(key)),
    ):
        assert before in text
        text = text.replace(before, after)
    return re.sub(r"group_(wait|interval): \S+", r"group_\1: 1s", text)


@pytest.fixture(scope="module")
def loop(shop: Shop, bad: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    place = tmp_path_factory.mktemp("watching")
    write_sample(place / "others", rows=2000, seed=7)
    with contextlib.ExitStack() as stack:
        auth = stack.enter_context(shop.running("auth", DRAIN_SECONDS="0"))
        serve = stack.enter_context(shop.running("serve"))
        key = place / "key"
        made = aisle(shop, "user", "add", "alertmanager", "--service", "--role", "reviewer", "--json")
        key.write_text(json.loads(made.stdout)["api_key"])
        added = aisle(shop, "user", "add", "anne", "--role", "reviewer", "--password-file", "-", given=PASSWORD)
        assert added.returncode == 0, added.stderr
        gateway = stack.enter_context(pushgateway(place / "pushgateway"))
        told = stack.enter_context(
            alertmanager(place / "alertmanager", alertmanager_config(serve.url, auth.url, key))
        )
        config = prometheus_config(serve.url, auth.url, gateway, told, place / "rules")
        stack.enter_context(prometheus(place / "prometheus", config))
        yield Loop(
            shop.with_settings(PUSHGATEWAY_URL=gateway),
            serve.url,
            told,
            listings_of(place / "others"),
            sign_in(auth.url),
            sign_in(auth.url, "anne"),
            bad,
        )


@contextlib.contextmanager
def watching(loop: Loop) -> Iterator[subprocess.Popen[str]]:
    """`aisle retrain --watch`, as the container runs it."""
    log = loop.shop.folder / "watch.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*AISLE, "retrain", "--watch"], cwd=loop.shop.folder, env={**_environment(), **loop.shop.settings},
            stdout=out, stderr=out, text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            code = process.wait(60)
        finally:
            process.kill()
    assert code == 0, log.read_text()


def test_drift_raises_an_alert_which_retrains_and_the_new_model_earns_its_place(loop: Loop) -> None:
    champion = loop.store.serving().champion
    with loop.traffic(loop.listings) as ordinary:
        ordinary.answered(WINDOW + 50)
    found = loop.verb("drift")
    assert not found["detected"], found
    with watching(loop), loop.traffic([one.drifted() for one in loop.listings], corrects_every=2) as traffic:
        traffic.answered(3 * WINDOW)
        assert loop.last() is None  # nothing has asked for a retraining yet
        assert loop.verb("drift")["detected"]
        until(lambda: "DriftDetected" in loop.alerts(), "the alert of drift")

        def new_champion() -> bool:
            now = loop.last()
            if now is not None and now.stage is retrainings.Stage.REVIEW:
                loop.verb("retrain", "approve")
            assert now is None or now.stage not in (retrainings.Stage.REFUSED, retrainings.Stage.FAILED), now
            return now is not None and now.stage is retrainings.Stage.DONE

        until(new_champion, "a new champion")
        new = loop.store.serving().champion
        assert new is not None
        until(lambda: traffic.models[new] > 100, "answers of the new champion")
    assert set(ordinary.statuses) == {200}, ordinary.fails[:3]
    assert set(traffic.statuses) <= {200, 201}, traffic.fails[:3]
    assert new != champion
    stages = [one for one in loop.stages() if one != "review"]
    assert stages == [
        "collect", "version", "train", "gate", "shadow", "canary", "promote", "changes", "done"
    ]  # fmt: skip
    last = loop.last()
    assert last is not None
    assert (last.cause.value, last.asked_by) == ("drift", "alertmanager")
    # The drift has cost accuracy too, of which there is another alert; either may be the first.
    assert last.detail["reason"].startswith(("DriftDetected: ", "AccuracyDown: "))
    assert (loop.shop.folder / "data" / "reports" / new / "changes.csv").is_file()


def test_a_bad_challenger_is_stopped_and_nothing_is_left_of_it(loop: Loop) -> None:
    champion = loop.store.serving().champion
    loop.verb("registry", "register", str(loop.bad.path))
    with loop.traffic(loop.listings, corrects_every=1) as traffic:
        begun = loop.verb("experiment", "start", "canary", "--challenger", loop.bad.version, "--share", "0.5")
        until(lambda: traffic.models[loop.bad.version] > 5, "answers of the challenger")
        until(lambda: loop.experiment() is None, "the end of the experiment")
        traffic.answered(50)
        before = traffic.models[loop.bad.version]
        traffic.answered(200)
        assert traffic.models[loop.bad.version] == before  # everything is the champion's again
    assert set(traffic.statuses) <= {200, 201}, traffic.fails[:3]
    ended = next(one for one in loop.verb("experiment", "list")["experiments"] if one["id"] == begun["id"])
    assert ended["outcome"] == "worse"
    assert "accuracy" in ended["reason"]
    assert loop.store.serving().champion == champion
