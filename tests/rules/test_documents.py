"""What the documents say about the project is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from recipes.cutout.palette import COLOURS
from recipes.cutout.things import THINGS
from recipes.cutout.world import MOTIONS, PLACES
from tests.rules.documents import ROOT, code_blocks, pages, read, section, table_rows, without_code_blocks

_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_ENTRY = re.compile(r"^( *)([\w.-]+/?)( {2,}|$)")


def anchors(page: Path) -> set[str]:
    """Headings as links name them: lower case, dashes for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", without_code_blocks(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(without_code_blocks(page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_readme_stays_short() -> None:
    assert len(read("README.md").splitlines()) <= 150


def tree_in_architecture() -> set[str]:
    """The paths of the tree; folders end in a slash."""
    (tree,) = code_blocks(section(read("ARCHITECTURE.md"), "## Folders"), "text")
    found: set[str] = set()
    above: list[str] = []
    for line in tree.splitlines():
        entry = _ENTRY.match(line)
        assert entry, f"not an entry of the tree: {line!r}"
        depth = len(entry[1]) // 2
        above[depth:] = [entry[2]]
        found.add("".join(above))
    return found


def folders_with_code() -> set[str]:
    """All folders of code and documents; of tests/, those that mirror no part of the source."""
    mirrored = {path.name for path in (ROOT / "src" / "promptreel").iterdir()}
    files = [path for top in ("src", "recipes", "bench", "docs", "tests") for path in (ROOT / top).rglob("*.*")]
    code = {path.parent.relative_to(ROOT) for path in files if path.suffix in {".py", ".md"}}
    return {f"{path.as_posix()}/" for path in code if path.parts[0] != "tests" or path.name not in mirrored}


def test_tree_in_architecture_names_every_folder() -> None:
    assert sorted(folders_with_code() - tree_in_architecture()) == []


def test_tree_in_architecture_names_nothing_else() -> None:
    assert sorted(path for path in tree_in_architecture() if (ROOT / path).is_dir() != path.endswith("/")) == []
    assert sorted(path for path in tree_in_architecture() if not (ROOT / path).exists()) == []


def test_page_lists_the_world_of_the_built_in_model() -> None:
    rows = dict(table_rows(read("docs/cutout.md")))
    world = {"things": THINGS, "colors": COLOURS, "motions": MOTIONS, "places": PLACES}

    listed = {heading: words.split(", ") for heading, words in rows.items()}

    assert listed == {f"{len(words)} {kind}": list(words) for kind, words in world.items()}


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = {
        target
        for page in pages()
        for words in re.findall(r"(?:`|^)make ([a-z ]+)", page.read_text(), re.MULTILINE)
        for target in words.split()
    }

    assert named >= {"demo", "test", "check", "bench"}
    assert named <= targets


def defined_names(path: Path) -> set[str]:
    """Functions and classes of a module, methods as Class.method."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            members = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{each.name}" for each in members if isinstance(each, ast.FunctionDef)}
    return found


def test_steps_in_architecture_name_functions_that_exist() -> None:
    steps = list(table_rows(section(read("ARCHITECTURE.md"), "## From a request to an mp4")))

    assert len(steps) > 15
    for _, where, names, _ in steps:
        defined = defined_names(ROOT / "src" / "promptreel" / where.strip("`"))
        assert set(re.findall(r"`([\w.]+)`", names)) <= defined, where


def test_files_in_architecture_and_contributing_exist() -> None:
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md", "docs/queue.md", "docs/engine.md"):
        named = set(re.findall(r"`([\w./-]+/[\w.-]*\.(?:py|md|toml))`", read(page)))

        assert len(named) > 5
        assert [name for name in sorted(named) if not any((ROOT / top / name).exists() for top in ("", "src/promptreel"))] == []
