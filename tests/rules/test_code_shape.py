"""Files and functions stay short, and no request waits for another one."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from fastapi.routing import APIRoute

from promptreel.api.router import build_router
from tests.rules.documents import ROOT

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files() -> list[Path]:
    return sorted(path for folder in ("src", "recipes") for path in (ROOT / folder).rglob("*.py"))


def functions(source: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


def line_count(function: Function) -> int:
    """Lines from `def` to the end, without the docstring's."""
    first = function.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(function, clean=False) is not None else 0
    return function.end_lineno - function.lineno + 1 - docstring


def blocks_the_loop(source: str) -> bool:
    """Whether the outermost function is async and never awaits: it would hold up every other request while it runs."""
    (function,) = ast.parse(textwrap.dedent(source)).body
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    return isinstance(function, ast.AsyncFunctionDef) and not any(isinstance(node, waits) for node in ast.walk(function))


def test_files_are_short() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in source_files()}

    assert len(lengths) > 40
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": line_count(function)
        for path in source_files()
        for function in functions(path.read_text())
    }

    assert len(lengths) > 200
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_docstring_does_not_count_as_code() -> None:
    (function,) = functions('def f(a: int) -> int:\n    """One.\n\n    Two.\n    """\n    return a\n')

    assert line_count(function) == 2


def test_no_route_handler_blocks_the_loop() -> None:
    handlers = {route.endpoint for route in build_router().routes if isinstance(route, APIRoute)}

    assert len(handlers) >= 5
    assert [handler.__name__ for handler in handlers if blocks_the_loop(inspect.getsource(handler))] == []


def test_async_handler_without_await_is_noticed() -> None:
    assert blocks_the_loop("async def handler():\n    return 1\n")
    assert not blocks_the_loop("async def handler():\n    return await other()\n")
    assert not blocks_the_loop("def handler():\n    return 1\n")
