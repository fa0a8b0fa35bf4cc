"""What the pages show is there: commands, options, files, make targets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from aisle.cli import aisle
from aisle.web.problems import Problem

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]


def shown_commands(program: str) -> list[tuple[str, str]]:
    """Every line `$ … program …` of a console block: (page, command)."""
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            match = re.match(rf"\$ (?:\S*/)?({program}\b.*)", line)
            if match:
                found.append((page.name, match[1].split("#")[0].strip()))
    return found


@pytest.mark.parametrize(("page", "command"), shown_commands("aisle"))
def test_each_command_on_a_page_is_one_that_aisle_takes(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    verb: click.Command = aisle
    while isinstance(verb, click.Group):
        if verb.invoke_without_command and (not words or words[0].startswith("-")):
            break
        assert words[0] in verb.commands, f"{page}: {command}"
        verb = verb.commands[words.pop(0)]
    verb.make_context(verb.name, words)  # parses the options; a wrong one raises


@pytest.mark.parametrize(("page", "command"), shown_commands("make"))
def test_each_make_target_on_a_page_exists(page: str, command: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert command.split()[1] in targets, f"{page}: {command}"


@pytest.mark.parametrize("file", [ROOT / "dvc.yaml", ROOT / "params.yaml"], ids=lambda file: file.name)
def test_each_page_that_the_pipeline_names_exists(file: Path) -> None:
    for page in re.findall(r"docs/\S+?\.md", file.read_text()):
        assert (ROOT / page).is_file(), page


def test_there_are_commands_to_check() -> None:
    assert len(shown_commands("aisle")) > 8
    assert len(shown_commands("make")) > 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_each_file_that_the_way_of_a_product_names_exists() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    modules = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", page))
    tests = set(re.findall(r"`(tests/[a-z_/]+\.py)`", page))
    assert len(modules) > 25
    sources = {name for name in modules if not name.startswith("tests/")}
    assert not [name for name in sources if not (ROOT / "src" / "aisle" / name).exists()]
    assert not [name for name in tests if not (ROOT / name).exists()]


def test_the_way_of_a_product_meets_every_module() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    sources = (ROOT / "src" / "aisle").rglob("*.py")
    names = {str(path.relative_to(ROOT / "src" / "aisle")) for path in sources if not path.name.startswith("__")}
    assert not [name for name in sorted(names) if f"`{name}`" not in page]


def test_the_page_of_the_api_lists_every_refusal_with_its_status() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert [one.name for one in Problem if f"| `{one.uri.rpartition(':')[2]}` | {one.status} |" not in page] == []
