"""The pages of docs/reference, written from the code: verbs, settings, routes, metrics. Run by `make reference`.

    python deploy/reference.py docs/reference

A test says when a page is not what the code says (tests/test_docs.py).
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from aisle.auth.access import signed_in
from aisle.auth.app import create_app as create_token_service
from aisle.cli import aisle
from aisle.monitoring.stages import LAST
from aisle.service import metrics
from aisle.service.app import PUBLIC
from aisle.service.limits import RateLimits
from aisle.service.routes import alerts
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.users import Role
from aisle.web import metrics as shared
from aisle.web.answers import PROBLEM_JSON, answer_with_problems
from aisle.web.platform import answer_the_platform

ROOT = Path(__file__).parents[1]
WIDTH = 110
MADE = "<!-- Written by `make reference`: change the code, not this page. -->"
TELLERS = ("monitoring/drift.py", "monitoring/told.py", "monitoring/stages.py", "cli/retraining.py")
"""The modules in which verbs say what their figures mean."""

VERBS = f"""# The command line

{MADE}

`aisle VERB --help` says the same. With `--json` a verb prints its result for machines. Exit codes: 0 done,
2 wrong use, 3 bad input, 4 a check said no, 5 an outside service is missing, 1 anything else. An error is one line.
"""
SETTINGS = f"""# Settings

{MADE}

Environment variables, lines of `.env`, or files in `/run/secrets` that are named like the variable in small letters
(`database_url`). Unknown variables are ignored.
"""
ROUTES = f"""# Routes

{MADE}

From the OpenAPI documents of both services, which have the schemas, too: `/openapi.json`, and `/docs` for people.
[The prediction service](../api.md) tells what each route is for, and what each refusal means. `/console` is for
browsers ([the console](../console.md)) and in no document."""
OF_SERVICES = f"""# Metrics

{MADE}

## Of the services

Each service has them at `/metrics`, beside those of Python and the process.
"""
OF_VERBS = """
## Of the verbs

A verb tells them at its end: to a Pushgateway (`PUSHGATEWAY_URL`), or in a file of `DATA_PATH/metrics`. All are
gauges. [Operations](../operations.md) is about what becomes of them.
"""


def pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    made = {"cli.md": command_line(), "settings.md": settings(), "routes.md": routes(), "metrics.md": figures()}
    return {name: "\n".join([*lines, ""]) for name, lines in made.items()}


def command_line() -> list[str]:
    lines = [VERBS]
    for context in _verbs(click.Context(aisle, info_name="aisle", terminal_width=WIDTH, **aisle.context_settings)):
        shown = context.command.get_help(context).rstrip()
        lines += [f"## `{context.command_path}`", "", "```text", *shown.splitlines(), "```", ""]
    return lines[:-1]


def _verbs(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name, verb in sorted(context.command.commands.items()):
            yield from _verbs(click.Context(verb, context, name))


def settings() -> list[str]:
    lines = [SETTINGS, "| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory else str(field.default)
        shown = f"`{default}`" if default.strip("*") else ""
        lines.append(f"| `{name.upper()}` | {shown} | {_cell(str(field.description))} |")
    return lines


def routes() -> list[str]:
    lines = [ROUTES]
    for title, app in _services():
        lines += [f"\n## {title}"]
        document = app.openapi()
        for one in iter_route_contexts(app.routes):
            route = one.original_route
            if isinstance(route, APIRoute) and route.path in document["paths"]:
                lines += _route(route, document)
    return lines


def _services() -> Iterator[tuple[str, FastAPI]]:
    predictions = FastAPI()
    answer_with_problems(predictions)
    for router in (*PUBLIC, alerts.router):
        predictions.include_router(router)
    answer_the_platform(predictions)
    yield "The prediction service", predictions
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(f"sqlite:///{folder}/aisle.db")
        yield "The token service", create_token_service(engine, _defaults())
        engine.dispose()


def _route(route: APIRoute, document: dict[str, Any]) -> Iterator[str]:
    for method in sorted(route.methods):
        described = document["paths"][route.path][method.lower()]
        yield from ("", f"### `{method} {route.path}`", "")
        if "description" in described:
            yield from (_sentence(described["description"]), "")
        yield from (f"- **Who**: {_who(route)}", *_limit(route))
        for one in described.get("parameters", []):
            yield f"- **{one['in'].capitalize()}** `{one['name']}`: {_kind(one['schema'], document)}"
        for media, content in described.get("requestBody", {}).get("content", {}).items():
            yield f"- **Takes** `{media}`: {_fields(content.get('schema', {}), document)}"
        refused = []
        for status, answer in described["responses"].items():
            problems = answer.get("content", {}).get(PROBLEM_JSON, {}).get("examples", {})
            refused += [f"`{name.removesuffix(' (en)')}` {status}" for name in problems if name.endswith(" (en)")]
            if not problems and status != "422":
                yield f"- **Answers** {status}{_example(answer)}"
        if refused:
            yield f"- **Refuses**: {', '.join(refused)}"


def _who(route: APIRoute) -> str:
    calls = list(_dependencies(route.dependant))
    for call in calls:
        roles = _closed_over(call).get("roles")
        if roles:
            return " and ".join(role.value for role in roles)
    return "whoever is signed in" if signed_in in calls else "anybody"


def _limit(route: APIRoute) -> Iterator[str]:
    for call in _dependencies(route.dependant):
        name = _closed_over(call).get("route")
        limit = RateLimits(_defaults().rate_limits).of(name, Role.CLIENT) if name else None
        if limit:
            yield f"- **Limit**: {limit.count} in {limit.window.seconds} s for each user (`{name}` in `RATE_LIMITS`)"


def _dependencies(dependant: Any) -> Iterator[Callable[..., Any]]:
    for one in dependant.dependencies:
        yield one.call
        yield from _dependencies(one)


def _closed_over(call: Callable[..., Any]) -> Mapping[str, Any]:
    return inspect.getclosurevars(call).nonlocals if inspect.isfunction(call) else {}


def _fields(schema: dict[str, Any], document: dict[str, Any]) -> str:
    whole = _whole(schema, document)
    needed = set(whole.get("required", []))
    names = [f"`{name}`{' (needed)' if name in needed else ''}" for name in whole.get("properties", {})]
    return ", ".join(names) or "an object"


def _kind(schema: dict[str, Any], document: dict[str, Any]) -> str:
    whole = _whole(schema, document)
    options = [one for one in whole.get("anyOf", [whole]) if one.get("type") != "null"]
    first = _whole(options[0], document)
    values = ", ".join(f"`{value}`" for value in first.get("enum", []))
    default = f"; `{json.dumps(schema['default'])}` unless said" if schema.get("default") is not None else ""
    return (values or str(first.get("type", "text"))) + default


def _whole(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].rpartition("/")[2]
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def _example(answer: dict[str, Any]) -> str:
    contents = answer.get("content", {})
    found = [json.dumps(one["example"], ensure_ascii=False) for one in contents.values() if "example" in one]
    if found:
        return f": `{found[0]}`" if len(found[0]) < WIDTH else f": {_keys(found[0])}"
    return f": {answer['description']}" if answer.get("description") else ""


def _keys(text: str) -> str:
    whole = json.loads(text)
    return "an object of " + ", ".join(f"`{name}`" for name in whole) if isinstance(whole, dict) else "a text"


def figures() -> list[str]:
    lines = [OF_SERVICES, "| metric | kind | labels | |", "|---|---|---|---|"]
    lines += [_metric(one) for one in sorted(_registered(), key=lambda one: one._name)]
    lines += [OF_VERBS, "| metric | |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(meaning)} |" for name, meaning in sorted(_told().items())]
    return lines


def _registered() -> Iterable[MetricWrapperBase]:
    modules = (metrics, shared, sys.modules[create_token_service.__module__])
    everything = [one for module in modules for one in vars(module).values()]
    found = {id(one): one for one in everything if isinstance(one, MetricWrapperBase)}
    ours = {name for name in REGISTRY._names_to_collectors if name.startswith("aisle_")}
    missing = ours - {name for one in found.values() for name in REGISTRY._get_names(one)}
    if missing:
        raise SystemExit(f"deploy/reference.py does not know where these are: {', '.join(sorted(missing))}")
    return found.values()


def _metric(one: MetricWrapperBase) -> str:
    name = one._name + ("_total" if one._type == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in one._labelnames)
    return f"| `{name}` | {one._type} | {labels} | {_cell(one._documentation)} |"


def _told() -> dict[str, str]:
    """What the verbs tell, and what it means: the sentence that stands after the name, or else before it."""
    found = {name: f"When the stage last ended in {outcome}." for outcome, name in LAST.items()}
    for file in TELLERS:
        for function in ast.walk(ast.parse((ROOT / "src" / "aisle" / file).read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                found |= dict(_named(list(_texts(function))))
    return found


def _named(texts: list[str]) -> Iterator[tuple[str, str]]:
    for at, name in enumerate(texts):
        if re.fullmatch("aisle_[a-z_]+", name):
            near = [*texts[at + 1 : at + 2], *reversed(texts[:at])]
            yield name, next(one for one in near if one.endswith(".") and " " in one)


def _texts(function: ast.FunctionDef) -> Iterator[str]:
    constants = [one for one in ast.walk(function) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    for one in sorted(constants, key=lambda one: (one.lineno, one.col_offset)):
        yield str(one.value)


def _defaults() -> Settings:
    """The settings as they are without an environment: the page is the same on every machine."""
    return Settings.model_construct(
        **{name: field.get_default(call_default_factory=False) for name, field in Settings.model_fields.items()}
    )


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _sentence(text).replace("|", "\\|")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
