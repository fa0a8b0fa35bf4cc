"""What the console says, it says in both languages."""

from __future__ import annotations

import re
from string import Formatter

import pytest

from aisle.console import comparing, work
from aisle.console.health import TABLES
from aisle.console.rendering import HERE, Speech, words
from aisle.experiments.judge import Verdict
from aisle.store.batches import BatchState
from aisle.store.experiments import Kind
from aisle.store.users import Role
from aisle.web.problems import LANGUAGES, Problem

MADE_UP = {
    *(f"role.{one}" for one in Role),
    *(f"experiment.{one}" for one in Kind),
    *(f"experiment.{one.replace(' ', '_')}" for one in Verdict),
    *(f"criterion.{one}" for one in ("errors", "latency", "accuracy", "agreement")),
    *(f"language.{one}" for one in LANGUAGES),
    *(f"nav.{one}" for one in ("classify", "bulk", "review", "health", "models", "audit")),
    *(f"decision.{one}" for one in ("accept", "review", "none")),
    *(f"state.{one}" for one in BatchState),
    *(f"error.{one}" for one in ("with", "without")),
    *(f"input.{one}" for one in ("title", "description", "text", "image")),
    *(f"place.{one}" for one in ("champion", "challenger", "before", "rolled_back")),
    *(f"metric.{one}" for one in (*comparing.FIGURES, "top_3")),
    *("sign_in.wrong", "sign_in.wait", "classify.kept"),
    *(key for one in Problem if (key := f"refused.{one.name.lower()}") in words()),
    *(f"health.{one}" for one in TABLES),
    *(f"health.about_{one}" for one in TABLES),
    *(f"work.{one}" for one in (work.AUDIT, work.COMPARE, work.PROMOTE, f"{work.PROMOTE}.forced")),
    *(f"work.failed.{one}" for one in (work.AUDIT, work.COMPARE, work.PROMOTE)),
    *(f"verdict.{one}" for one in comparing.VERDICTS),
    *(f"compare.learnt_{one}" for one in ("here", "elsewhere", "unknown")),
    *(one for one in words() if one.startswith(("reason.", "kind.", "change."))),
    *("yes", "no"),
}
"""Keys that a template puts together, or a page says by itself."""


@pytest.mark.parametrize("key", words())
def test_each_thing_is_said_in_both_languages_and_with_the_same_values(key: str) -> None:
    said = words()[key]
    assert set(said) == set(LANGUAGES)
    values = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in said.values()]
    assert values[0] == values[1]
    assert all(text.strip() for text in said.values())


def test_what_the_templates_say_is_there_and_nothing_else() -> None:
    asked = {
        key
        for template in HERE.rglob("*.html")
        for key in re.findall(r"""\bt\(["']([a-z0-9_.]+)["'](?! ~)""", template.read_text())
    }
    assert len(asked) > 50
    assert asked | MADE_UP == set(words())


@pytest.mark.parametrize("problem", [one for one in Problem if f"refused.{one.name.lower()}" in words()])
def test_a_refusal_of_the_pages_fills_what_the_api_gives_it_and_names_nothing_of_the_api(problem: Problem) -> None:
    said = words()[f"refused.{problem.name.lower()}"]
    needed, given = (
        {name for _, name, _, _ in Formatter().parse(text) if name} for text in (said["en"], problem.english)
    )
    assert needed <= given
    assert not any(re.search("`|GET|POST", text) for text in said.values())


def test_each_kind_of_entry_in_the_audit_trail_has_words() -> None:
    """Those that the sources name, and those of the work that pages ask for."""
    named = {
        kind
        for path in HERE.parent.rglob("*.py")
        for line in re.findall(r"what=(.*)", path.read_text())
        for kind in re.findall(r'"([a-z]+\.[a-z]+)"', line)
    }
    asked = {f"{kind}{end}" for kind in (work.AUDIT, work.COMPARE, work.PROMOTE) for end in ("", ".ask", ".fail")}
    assert len(named) > 15
    assert named | asked | {f"{work.PROMOTE}.refuse"} == {one[5:] for one in words() if one.startswith("kind.")}


def test_values_are_escaped() -> None:
    assert str(Speech("en")("request", id="<b>")) == "Request &lt;b&gt;"


def test_numbers_are_written_as_the_language_writes_them() -> None:
    french, english = Speech("fr"), Speech("en")
    assert (french.percent(0.9731), english.percent(0.9731)) == ("97,3\u00a0%", "97.3\u00a0%")
    assert (french.number(12014), english.number(12014)) == ("12\u202f014", "12,014")
