"""The dashboards: what Grafana has to find in them, and that each of their questions has an answer.

Grafana is in no package of Debian or Python: what it does with the files is not tried here. A real Prometheus answers
every query, from services and verbs that really ran.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.deploy_tools import REPOSITORY
from tests.servers import alertmanager, find_program, node_exporter, prometheus, pushgateway
from tests.service.processes import AISLE, PASSWORD, Shop, sign_in, wait_for

from aisle.data.prepare import Prepared
from aisle.data.raw import IMAGES_ZIP
from aisle.settings import Settings
from aisle.training.recipes import light
from aisle.training.train import train

GRAFANA = REPOSITORY / "deploy" / "grafana"
RULES = sorted((REPOSITORY / "deploy" / "prometheus" / "rules").glob("*.yaml"))
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
COLUMNS = 24
OURS = {name.upper() for name in Settings.model_fields}
OF_OTHERS = re.compile(r"(node|prometheus|alertmanager|scrape)_\w+|up|ALERTS")  # theirs to name


@dataclass(frozen=True)
class Query:
    """A question to Prometheus, and where it is asked."""

    file: str
    panel: str
    expr: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.file}: {self.panel}: {self.expr}"


def dashboard(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def queries() -> Iterator[Query]:
    for file in FILES:
        content = dashboard(file)
        for panel in content["panels"]:
            for target in panel.get("targets", []):
                yield Query(file.stem, panel["title"], target["expr"], target.get("instant", False))
        for annotation in content["annotations"]["list"]:
            yield Query(file.stem, annotation["name"], annotation["target"]["expr"], False)


def substituted(expr: str) -> str:
    """The expression as Grafana asks it when everything is chosen, of a short time."""
    for name, value in {"$__rate_interval": "1m", "$__range": "1h"}.items():
        expr = expr.replace(name, value)
    return re.sub(r"\$[a-z]+", ".*", expr)


def metrics_in(expr: str) -> set[str]:
    """The names of the metrics that an expression asks for."""
    expr = re.sub(r'"[^"]*"', "", expr)
    expr = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", expr)
    expr = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", expr)
    names = re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()", expr)
    return set(names) - {"and", "or", "unless", "bool", "offset", "m", "h", "d"}


def of_our_code() -> set[str]:
    """Every metric that the code defines, under the names that Prometheus gives its series."""
    rooms = (REPOSITORY / "src" / "aisle" / room for room in ("auth", "cli", "loop", "monitoring", "service", "web"))
    sources = "\n".join(file.read_text() for room in rooms for file in room.rglob("*.py"))
    names = set(re.findall(r'"(aisle_[a-z0-9_]+)"', sources))
    return {f"{name}{end}" for name in names for end in ("", "_total", "_bucket", "_sum", "_count")}


def recorded() -> set[str]:
    """What the recording rules make."""
    groups = itertools.chain.from_iterable(yaml.safe_load(file.read_text())["groups"] for file in RULES)
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def test_grafana_reads_the_dashboards_from_the_folder_that_compose_gives_it() -> None:
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/aisle.yaml").read_text())["providers"]
    assert provider["folder"] == "aisle"
    compose = yaml.safe_load((REPOSITORY / "deploy/compose/monitoring.yaml").read_text())
    assert (
        f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]
    )


def test_there_is_a_dashboard_for_service_model_pipeline_and_machine() -> None:
    assert {dashboard(file)["uid"] for file in FILES} == {f"aisle-{file.stem}" for file in FILES}
    assert {file.stem for file in FILES} == {"service", "model", "pipeline", "machine"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
class TestDashboard:
    def test_each_panel_has_a_number_of_its_own_and_asks_a_question_that_it_explains(self, file: Path) -> None:
        panels = dashboard(file)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        titles = [panel["title"] for panel in panels]
        assert len(set(titles)) == len(titles)
        for panel in panels:
            if panel["type"] != "row":
                assert panel["title"].endswith("?"), panel["title"]
                assert panel["description"].endswith("."), panel["title"]
                assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] in {
                    "table", "heatmap", "state-timeline",
                }, panel["title"]  # fmt: skip

    def test_no_panel_lies_on_another_or_sticks_out(self, file: Path) -> None:
        taken: dict[tuple[int, int], str] = {}
        for panel in dashboard(file)["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= COLUMNS
            for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
                assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
                taken[cell] = panel["title"]

    def test_all_is_asked_of_the_source_that_grafana_is_given(self, file: Path) -> None:
        [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
        content = dashboard(file)
        asking = [panel for panel in content["panels"] if panel["type"] != "row"]
        for one in [*asking, *content["templating"]["list"], *content["annotations"]["list"]]:
            assert one["datasource"] == {"type": source["type"], "uid": source["uid"]}

    def test_each_variable_is_used_and_each_that_is_used_is_there(self, file: Path) -> None:
        content = dashboard(file)
        there = {variable["name"] for variable in content["templating"]["list"]}
        used = set(re.findall(r"\$([a-z_]+)", json.dumps([content["panels"], content["annotations"]])))
        assert used - {"__rate_interval", "__range"} == there

    def test_what_to_do_is_a_section_of_the_operations_page(self, file: Path) -> None:
        page = (REPOSITORY / "docs/operations.md").read_text()
        sections = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", page, re.M)
        }
        assert set(re.findall(r"docs/operations\.md#([\w-]+)", file.read_text())) <= sections


def test_a_panel_that_the_operations_page_sends_people_to_is_there() -> None:
    page = " ".join((REPOSITORY / "docs/operations.md").read_text().split())
    titles = {content["title"]: {panel["title"] for panel in content["panels"]} for content in map(dashboard, FILES)}
    named = re.findall(r"dashboard \*([^*]+)\*(?:, \"([^\"]+)\")?", page)
    assert named
    for of, panel in named:
        assert not panel or panel in titles[of], panel
    assert {of for of, _ in named} <= set(titles)


def test_each_metric_that_is_asked_for_is_one_that_somebody_tells() -> None:
    known = of_our_code() | recorded()
    for query in queries():
        unknown = {name for name in metrics_in(query.expr) - known if not OF_OTHERS.fullmatch(name)}
        assert not unknown, query


def test_each_metric_that_we_tell_is_on_a_dashboard() -> None:
    rules = [
        rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]
    ]
    asked = set().union(*(metrics_in(query.expr) for query in queries()))
    asked |= set().union(*(metrics_in(rule["expr"]) for rule in rules if rule.get("record") in asked))
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in of_our_code()} <= shown


@pytest.mark.slow
def test_promtool_understands_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": substituted(one.expr)} for number, one in enumerate(queries())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    command = [find_program("promtool", "prometheus"), "check", "rules", str(tmp_path / "rules.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def config_for(targets: dict[str, str], rules: Path) -> str:
    """The repository's configuration, asking elsewhere and more often; `targets`: the address of each job."""
    config = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    assert {job["job_name"] for job in config["scrape_configs"]} == {*targets, "prometheus"}  # which asks itself
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        if job["job_name"] in targets:
            job["static_configs"] = [{"targets": [targets[job["job_name"]].removeprefix("http://")]}]
    alertmanagers = [targets["alertmanager"].removeprefix("http://")]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": alertmanagers}]}]
    rules.mkdir(parents=True)
    for file in RULES:
        (rules / file.name).write_text(re.sub(r"(?m)^ +interval: .*\n", "", file.read_text()))
    config["rule_files"] = [f"{rules}/*.yaml"]
    return yaml.safe_dump(config)


@dataclass(frozen=True)
class Watched:
    """A shop whose services and verbs ran, and the Prometheus that asked them."""

    prometheus: str

    def answer(self, query: Query) -> list[dict[str, Any]]:
        """The series that Grafana would draw, without those that have no value at all."""
        expr, now = substituted(query.expr), time.time()
        if query.instant:
            found = self._ask("query", query=expr, time=now)
        else:
            found = self._ask("query_range", query=expr, start=now - 120, end=now, step=5)
        return [
            one
            for one in found
            if any(math.isfinite(float(value)) for _, value in one.get("values", [one.get("value")]))
        ]

    def _ask(self, what: str, **params: Any) -> list[dict[str, Any]]:
        said = httpx.get(f"{self.prometheus}/api/v1/{what}", params=params, timeout=30).json()
        assert said["status"] == "success", said
        result: list[dict[str, Any]] = said["data"]["result"]
        return result


def run(shop: Shop, *words: str, code: int = 0) -> str:
    """What a verb says."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    ran = subprocess.run(
        [*AISLE, *words], cwd=shop.folder, env={**environment, **shop.settings}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == code, ran.stderr
    return ran.stdout


def put_a_catalogue_through_its_stages(shop: Shop) -> None:
    """Every verb from import to predict; one of them fails, and later does not."""
    run(shop, "import", "--source", "sample", "--rows", "2000")
    run(shop, "validate", "--max-bad", "0", code=3)
    (shop.folder / "data" / "raw" / IMAGES_ZIP).unlink()  # a training takes seconds without
    for words in (["validate"], ["prepare"], ["train"], ["evaluate", "--data", "data/raw"]):
        run(shop, *words)
    run(shop, "predict", "data/raw/X_test_update.csv", "--output", "predicted.csv")


def add_challenger(shop: Shop) -> str:
    """Another model of the same catalogue in the store; its version."""
    data = shop.folder / "data"
    recipe, prepared = dataclasses.replace(light(), seed=1), Prepared.open(data / "preprocessed")
    bundle = train(recipe, prepared, shop.folder / "other", cache=data / "cache", threads=2)
    run(shop, "registry", "register", str(bundle.path))
    return bundle.version


class Customers:
    """People who list products, say which types were right, sign in, and get things wrong, until the end."""

    def __init__(self, url: str, table: Path) -> None:
        self._url, self._headers = url, sign_in(url)
        with table.open(encoding="utf-8") as file:
            self._products = [(one["designation"], one["description"]) for one in csv.DictReader(file)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go)
        self.listed = 0

    def __enter__(self) -> Customers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def list_more(self, count: int) -> None:
        """Wait until so many more were listed."""
        enough = self.listed + count
        wait_for(lambda: self.listed >= enough)

    def see_agreement(self) -> bool:
        """Has the shadow said the same as the champion of a product?"""
        lines = httpx.get(f"{self._url}/metrics").text.splitlines()
        return any(
            one.startswith('aisle_shadow_agreement_total{agrees="yes"}') and float(one.split()[-1]) > 0
            for one in lines
        )

    def _go(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as http:
            for number, (title, description) in enumerate(itertools.cycle(self._products)):
                if self._stop.is_set():
                    return
                body = {"product_identifier": str(number), "designation": title, "description": description}
                said = http.post("/predict", json=body, headers=self._headers).json()
                word = {"prediction_id": said["prediction_id"], "type": said["predicted"]}
                assert http.post("/feedback", json=word, headers=self._headers).status_code == 201
                if number % 50 == 0:
                    self._get_it_wrong(http)
                self.listed += 1

    def _get_it_wrong(self, http: httpx.Client) -> None:
        assert http.post("/predict", json={"designation": "piscine"}).status_code == 401
        assert http.post("/predict", json={}, headers=self._headers).status_code == 422
        assert http.get("/no-such-route").status_code == 404
        for password, status in ((PASSWORD, 200), ("wrong", 401)):
            answer = http.post("/token", data={"username": "admin", "password": password})
            assert answer.status_code == status


def experiment(shop: Shop, challenger: str, customers: Customers) -> None:
    """A shadow that is stopped by hand, and a canary that goes on."""
    run(shop, "experiment", "start", "shadow", "--challenger", challenger)
    wait_for(customers.see_agreement)  # it may start long after they go on, and drop what is too much
    customers.list_more(50)
    run(shop, "experiment", "stop")
    run(shop, "experiment", "start", "canary", "--challenger", challenger, "--share", "0.5")
    customers.list_more(50)


@contextlib.contextmanager
def running_shop(place: Path) -> Iterator[Watched]:
    """Everything that a shop runs, once each part of it has something to tell."""
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(pushgateway(place / "pushgateway"))
        shop = Shop.at(
            place,
            MLFLOW_TRACKING_URI="off",
            RETRAIN_MIN_CORRECTIONS="1000000",  # the verb looks, and says where it is
            PUSHGATEWAY_URL=gateway,
        )
        put_a_catalogue_through_its_stages(shop)
        challenger = add_challenger(shop)
        auth = stack.enter_context(shop.running("auth", DRAIN_SECONDS="0"))
        serve = stack.enter_context(shop.running("serve"))
        nobody = "{route: {receiver: nobody}, receivers: [{name: nobody}]}"
        targets = {
            "serve": serve.url,
            "auth": auth.url,
            "pushgateway": gateway,
            "node": stack.enter_context(node_exporter(place / "node", place / "no-textfiles")),
            "alertmanager": stack.enter_context(alertmanager(place / "alertmanager", nobody)),
        }
        url = stack.enter_context(prometheus(place / "prometheus", config_for(targets, place / "rules")))
        customers = stack.enter_context(Customers(serve.url, place / "data" / "raw" / "X_train_update.csv"))
        customers.list_more(400)
        run(shop, "drift")
        experiment(shop, challenger, customers)
        run(shop, "retrain", "--if-due")
        yield Watched(url)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_query_of_every_dashboard_returns_data(tmp_path: Path) -> None:
    with running_shop(tmp_path) as watched:
        waiting, deadline = set(queries()), time.monotonic() + 300
        while waiting and time.monotonic() < deadline:
            waiting = {query for query in waiting if not watched.answer(query)}
        assert not waiting, "\n".join(sorted(map(str, waiting)))
