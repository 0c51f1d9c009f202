"""Pages of the website that are written from the code: every command as it prints its help, every setting, every error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from typer.main import get_command

import promptreel.remote  # noqa: F401 - its errors are part of the tree
from promptreel.api.problems import STATUSES
from promptreel.cli import app
from promptreel.errors import PromptreelError
from promptreel.settings import PREFIX, Settings

KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "array": "a list, separated by commas"}


def commands() -> str:
    parts = ["# Commands, as they print their help", "", "What they are for is told in [Commands](../docs/cli.md).", ""]
    for name, text in _helps(get_command(app), "promptreel", None):
        parts += [f"## `{name}`", "", "```text", text, "```", ""]
    return "\n".join(parts)


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(command, info_name=name.rsplit(maxsplit=1)[-1], parent=parent, terminal_width=80)
    yield name, command.get_help(context)
    for child_name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _helps(child, f"{name} {child_name}", context)


def settings() -> str:
    schema = Settings.model_json_schema()["properties"]
    parts = [
        "# Settings, one by one",
        "",
        "The same in one table, and what is done with them: [Settings](../docs/settings.md).",
        "",
    ]
    for name, field in Settings.model_fields.items():
        told = {"is": _kind(schema[name]), "default": _default(field.default)}
        parts += [f"## `{PREFIX}{name.upper()}`", "", field.description or "", ""]
        parts += [f"- {what}: {value}" for what, value in told.items() if value] + [""]
    return "\n".join(parts)


def _kind(schema: Mapping[str, Any]) -> str:
    shape = next((part for part in schema.get("anyOf", []) if part.get("type") != "null"), schema)
    if "enum" in shape:
        return "one of " + ", ".join(f"`{value}`" for value in shape["enum"])
    limits = [f"{word} {shape[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in shape]
    kind = "a path" if shape.get("format") == "path" else KINDS.get(shape.get("type", ""), "text")
    return " ".join([kind, *limits])


def _default(value: object) -> str:
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def errors() -> str:
    parts = [
        "# Errors, as a tree",
        "",
        "An error is of the kind of those that it stands under. What helps: [Errors](../docs/errors.md).",
        "",
        *_errors(PromptreelError, 0),
    ]
    return "\n".join(parts) + "\n"


def _errors(kind: type[PromptreelError], depth: int) -> Iterator[str]:
    for below in sorted(kind.__subclasses__(), key=lambda each: each.code):
        status = next((STATUSES[each] for each in below.__mro__ if each in STATUSES), None)
        means = " ".join(inspect.getdoc(below).split("\n\n", maxsplit=1)[0].split()) if below.__doc__ else ""
        yield f"{'  ' * depth}- `{below.code}`{f' ({status})' if status else ''}: {means}"
        yield from _errors(below, depth + 1)


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands": commands,
    "reference/settings": settings,
    "reference/errors": errors,
}
