"""What the pages show is there: commands, options, files, make targets. And all of them are in the site."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from aisle.cli import aisle
from aisle.web.problems import Problem

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
WRITTEN = ROOT / "docs" / "reference"
SITE: dict[str, Any] = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
BLOCKS = tomllib.loads((ROOT / "tests" / "blocks.toml").read_text())
"""What becomes of the console blocks below a heading of a page: `typed`, `driven` or `needs`."""


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


def test_each_test_that_the_page_of_security_names_is_there() -> None:
    """As `tests/PATH.py::NAME`, or a file of tests as a whole."""
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::([A-Za-z_]+(?:::[a-z_0-9]+)?))?`", page)
    assert len(named) > 40
    for file, name in named:
        text = (ROOT / file).read_text()
        assert all(re.search(rf"(def|class) {one}\b", text) for one in name.split("::") if one), f"{file}::{name}"


def blocks() -> Iterator[tuple[str, str, str]]:
    """Every console block: (page, heading, what it shows)."""
    for page in PAGES:
        heading, is_shown, shown = "", False, ""
        for line in page.read_text().splitlines():
            if line.lstrip().startswith("```"):
                if is_shown:
                    yield str(page.relative_to(ROOT)), heading, shown
                is_shown, shown = line.strip() == "```console", ""
            elif is_shown:
                shown += f"{line.strip()}\n"
            elif line.startswith("#"):
                heading = line.lstrip("# ")


def test_each_block_of_commands_is_run_by_a_test_or_says_what_it_needs() -> None:
    here = {(page, heading) for page, heading, _ in blocks()}
    said = {(page, heading) for page, headings in BLOCKS.items() for heading in headings}
    assert here - said == set()  # tell in tests/blocks.toml what becomes of it
    assert said - here == set()


@pytest.mark.parametrize(("page", "heading"), [(page, one) for page, headings in BLOCKS.items() for one in headings])
def test_what_is_said_of_a_block_holds(page: str, heading: str) -> None:
    """A test that types it reads the page; one that drives its verbs names them."""
    said = BLOCKS[page][heading]
    [how] = said.keys() & {"typed", "driven", "needs"}
    if how == "needs":
        return
    tests = " ".join((ROOT / file).read_text() for file in said[how].split())
    if how == "typed":
        assert Path(page).name in tests
        return
    shown = "".join(text for *where, text in blocks() if where == [page, heading])
    verbs = set(re.findall(r"^\$ (?:\S*/)?aisle ([a-z]+)", shown, re.MULTILINE))
    assert verbs
    assert {verb for verb in verbs if not re.search(rf"\b{verb.rstrip('s')}", tests)} == set()


def in_navigation(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for found in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [found] if isinstance(found, str) else in_navigation(found)


def test_each_page_is_in_the_navigation_of_the_site_once() -> None:
    here = sorted(str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md"))
    assert sorted(in_navigation(SITE["nav"])) == here


def test_the_site_takes_nothing_from_another_host() -> None:
    """Fonts would be, and so would what draws Mermaid's and TeX's fences."""
    assert SITE["theme"]["font"] is False
    fetched = re.compile(r"```mermaid|!\[[^]]*\]\(http")
    assert [page.name for page in ROOT.glob("docs/**/*.md") if fetched.search(page.read_text())] == []


def test_the_reference_is_what_the_code_says(tmp_path: Path) -> None:
    """`make reference` writes it, in a process of its own: what other tests did to the verbs is not in it."""
    subprocess.run([sys.executable, ROOT / "deploy" / "reference.py", tmp_path], check=True)
    pages = {folder: {page.name: page.read_text() for page in folder.glob("*.md")} for folder in (WRITTEN, tmp_path)}
    assert pages[WRITTEN] == pages[tmp_path]
