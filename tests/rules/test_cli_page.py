"""docs/cli.md is the command line in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from promptreel.cli import app
from tests.rules.documents import read, section, table_rows


def visible_commands(group: Any, path: str = "promptreel") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from visible_commands(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def default_of(parameter: Any) -> str:
    """The default as the page tells it: needed, a value, or what the help says stands in for one."""
    if parameter.required:
        return "needed"
    if parameter.default is not None:
        return f"`{parameter.default}`"
    return parameter.show_default if isinstance(parameter.show_default, str) else ""


def describe(parameter: Any) -> list[str]:
    """The row of docs/cli.md for an option or an argument."""
    names = ", ".join(f"`{name.upper() if parameter.param_type_name == 'argument' else name}`" for name in parameter.opts)
    return [names, default_of(parameter), parameter.help or ""]


def test_page_lists_every_command_and_no_other() -> None:
    headings = re.findall(r"^## `(promptreel .*)`$", read("docs/cli.md"), re.MULTILINE)

    assert headings == [name for name, _ in visible_commands(typer.main.get_command(app))]


def test_page_tells_what_each_command_and_option_does() -> None:
    page = read("docs/cli.md")

    for name, command in visible_commands(typer.main.get_command(app)):
        text = section(page, f"## `{name}`")
        shown = [parameter for parameter in command.params if not parameter.hidden]
        assert text.strip().startswith(command.help), name
        for row, parameter in zip(table_rows(text), shown, strict=True):
            expected = describe(parameter)
            assert row[:2] == expected[:2], name
            assert row[2] == expected[2], name
