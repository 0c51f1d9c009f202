"""Reads the project's documents: pages, tables and code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text()


def code_blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in _FENCE.findall(page) if kind == language]


def without_code_blocks(page: str) -> str:
    return _FENCE.sub("", page)


def table_rows(page: str) -> Iterator[list[str]]:
    """The cells of each row of each table, headings left out."""
    lines = page.splitlines()
    for line, next_line in zip(lines, [*lines[1:], ""], strict=True):
        is_heading = next_line.startswith("|--")
        if line.startswith("| ") and not is_heading:
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next heading of its level or above."""
    level = heading.split(maxsplit=1)[0]
    _, _, rest = page.partition(f"\n{heading}\n")
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
