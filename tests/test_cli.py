"""The shell of the command line: its verbs, its help, its weight, and where it reads the environment."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from aisle import cli
from aisle.settings import env_example

ROOT = Path(__file__).parents[1]
VERBS = ("run", "import", "validate", "prepare", "train", "evaluate", "predict", "registry", "serve")
HEAVY = {
    "numpy",
    "polars",
    "scipy",
    "sklearn",
    "onnxruntime",
    "onnx",
    "fastapi",
    "uvicorn",
    "PIL",
    "httpx",
    "matplotlib",
}


def commands(group: click.Group = cli.aisle, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every verb with the verbs below it, as the words of the command line."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aisle", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, *capsys.readouterr()

    return call


Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_lists_each_verb_with_what_it_does(call: Call, words: list[str]) -> None:
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    listed = {
        line.split()[0]: line.split()[1:] for line in out.partition("Commands:")[2].splitlines() if line.strip()
    }
    assert set(VERBS) <= listed.keys()
    assert all(listed[verb] for verb in VERBS)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_each_verb_explains_itself_and_each_of_its_options(call: Call, words: tuple[str, ...]) -> None:
    code, out, err = call(*words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: aisle {' '.join(words)}")
    command: click.Command = cli.aisle
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help
            assert option.opts[0] in out


@pytest.mark.parametrize("words", [(), *commands()], ids=" ".join)
def test_a_wrong_option_is_wrong_use_in_one_line(call: Call, words: tuple[str, ...]) -> None:
    code, out, err = call(*words, "--wrong")
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("aisle: No such option")
    assert "--help` shows how it is used." in line


def test_no_verb_at_all_shows_the_help_and_is_wrong_use(call: Call) -> None:
    code, out, err = call()
    assert code == 2
    assert "Commands:" in out + err


def test_the_version_is_that_of_the_package(call: Call) -> None:
    from aisle import __version__

    assert call("--version") == (0, f"aisle, version {__version__}\n", "")


@pytest.mark.parametrize(
    "program",
    ["import aisle", "import sys; sys.argv = ['aisle', '--help']; from aisle.cli import main; main()"],
    ids=["import aisle", "aisle --help"],
)
def test_what_is_asked_before_any_work_imports_nothing_heavy(program: str) -> None:
    at_the_end = "import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))"
    ran = subprocess.run(
        [sys.executable, "-c", f"{at_the_end}\n{program}"], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = set(ran.stderr.split())
    assert "aisle" in loaded
    assert loaded & HEAVY == set()


def test_the_example_of_the_environment_is_what_the_settings_generate() -> None:
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example()


def test_the_environment_is_read_in_the_settings_alone() -> None:
    readers = {
        path.relative_to(ROOT / "src" / "aisle").as_posix()
        for path in (ROOT / "src" / "aisle").rglob("*.py")
        if reads_environment(path.read_text(encoding="utf-8"))
    }
    assert readers <= {"settings.py"}


@pytest.mark.parametrize("line", ["os.environ['A']", "os.getenv('A')", "os.environb", "from os import environ as e"])
def test_a_line_that_reads_the_environment_is_found(line: str) -> None:
    assert reads_environment(line)


def reads_environment(source: str) -> bool:
    readers = {"environ", "environb", "getenv", "getenvb"}
    nodes = list(ast.walk(ast.parse(source)))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    imported = {
        name.name for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "os" for name in node.names
    }
    return bool(readers & (attributes | imported))


@pytest.mark.parametrize("verb", ["train", "run"])
def test_what_is_chosen_of_a_recipe_reaches_it(call: Call, verb: str) -> None:
    for option, value in (("weights", "none"), ("fine-tune", "2"), ("text-models", "a"), ("image-models", "b")):
        code, _, err = call(verb, "--recipe", "light", f"--{option}", value)
        assert code == 2
        assert f"the recipe light has no choice of {option}" in err
