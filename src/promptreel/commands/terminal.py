"""Shared by the commands: their common options, and the printing of tables, facts and JSON."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

DataDir = Annotated[Path | None, typer.Option(help="Directory with the queue, the videos and your own models.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

GAP = "  "
NARROWEST = 10
"""The least width of a table's last column, however narrow the terminal is."""


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints aligned columns. In a terminal, the last column is cut to the window's width."""
    lines = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
    left = shutil.get_terminal_size().columns - sum(widths) - len(widths) * len(GAP)
    for line in lines:
        last = shorten(line[-1], max(left, NARROWEST)) if sys.stdout.isatty() else line[-1]
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print(GAP.join([*cells, last]).rstrip())  # noqa: T201


def print_facts(facts: Mapping[str, object]) -> None:
    """Prints one line, name and value, for each fact that is not None."""
    texts = {name: spell(value) for name, value in facts.items() if value is not None}
    width = max(map(len, texts), default=0)
    for name, value in texts.items():
        print(f"{name.ljust(width)}{GAP}{printable(value)}")  # noqa: T201


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_to_json))  # noqa: T201


def tell(*notes: str | None) -> None:
    """Prints notes for the user to stderr; skips None."""
    for note in filter(None, notes):
        print(f"promptreel: {note}", file=sys.stderr)  # noqa: T201


@contextmanager
def bytes_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields a function that sets a bar's label, and the bytes done and in all. The bar appears at its first call."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=None)
    with bar:
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


@contextmanager
def progress_bar() -> Iterator[Callable[..., None]]:
    """Yields a function that sets the bar's label, percentage and note. The bar appears when it is first called."""
    columns = (
        TextColumn("{task.description:>11}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=100, note="")
    with ExitStack() as shown:

        def show(label: str, percent: float, note: str = "") -> None:
            if not bar.live.is_started:
                shown.enter_context(bar)
            bar.update(task, description=label, completed=percent, note=note)

        yield show


def spell(value: object) -> str:
    """A value as text. Times are in UTC."""
    match value:
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case Mapping():
            return ", ".join(f"{name} {spell(each)}" for name, each in value.items())
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def printable(text: str) -> str:
    """Escapes control characters: a client's prompt must not control the reader's terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _to_json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
