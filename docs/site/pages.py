"""Lays out what the website is made of: `python docs/site/pages.py FOLDER`.

The same Markdown files that a forge shows, with the few links changed that mean something else there: the README is the first
page, a folder of decisions is a list of them, and a file of code is a page that shows it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from reference import PAGES as GENERATED

ROOT = Path(__file__).parents[2]
ADR = PurePosixPath("docs/adr")
CONTENTS = {
    "Begin": ["docs/install", "docs/first-video", "docs/playground", "docs/features", "docs/cutout", "docs/schedulers"],
    "Run it": ["docs/docker", "docs/models", "docs/training", "docs/keys", "docs/webhooks"],
    "Write programs": ["docs/client", "docs/events", "docs/api"],
    "Look up": ["docs/cli", "docs/settings", "docs/errors", *GENERATED],
    "How it works": ["ARCHITECTURE", "docs/queue", "docs/engine", "docs/glossary", "docs/adr/index", "docs/dependencies"],
    "The project": ["CONTRIBUTING", "SECURITY", "CHANGELOG"],
}
LANGUAGES = {".py": "python", ".c": "c", ".toml": "toml", ".yaml": "yaml", "Dockerfile": "docker"}
PICTURES = frozenset({".png", ".webp", ".svg", ".gif", ".jpg"})
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shown: set[PurePosixPath] = set()
    pages = [path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]]
    for page in map(PurePosixPath, pages):
        write(folder / place(page), rewrite((ROOT / page).read_text(), page, shown) + contents_of(page, pages))
    write(folder / ADR / "index.md", list_decisions())
    for name, make in GENERATED.items():
        write(folder / f"{name}.md", make())
    for path in (ROOT / "docs").iterdir():
        if path.suffix in PICTURES:
            shutil.copy(path, folder / "docs" / path.name)
    while shown:
        path = shown.pop()
        if (ROOT / path).is_dir():
            text = show_folder(path)
            shown |= {child for child in children(path) if not (folder / place(child)).exists()}
        else:
            text = rewrite((ROOT / path).read_text(), path, shown) if path.suffix == ".md" else show_file(path)
        write(folder / place(path), f"---\norphan: true\n---\n\n{text}")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def place(path: PurePosixPath) -> PurePosixPath:
    """Where a file or folder of the project is shown."""
    if path == ADR:
        return ADR / "index.md"
    if path == PurePosixPath("README.md"):
        return PurePosixPath("index.md")
    if is_page(path) or path.suffix in PICTURES:
        return path
    return PurePosixPath("source") / (path if path.suffix == ".md" else f"{path}.md")


def is_page(path: PurePosixPath) -> bool:
    return path.suffix == ".md" and path.parts[0] in {path.name, "docs"}


def rewrite(text: str, page: PurePosixPath, shown: set[PurePosixPath]) -> str:
    """With links to where their targets are shown; the targets that are no pages are added to `shown`."""

    def follow(link: re.Match[str]) -> str:
        words, (target, _, anchor) = link[1], link[2].partition("#")
        if not target or ":" in target:
            return link[0]
        path = PurePosixPath(os.path.normpath(page.parent / target))
        if not is_page(path) and path != ADR and path.suffix not in PICTURES:
            shown.add(path)
        if words in {target, str(path)} and place(path).parts[0] != "source":
            words = ""  # a file's name becomes its title
        return f"[{words}]({os.path.relpath(place(path), place(page).parent)}{f'#{anchor}' if anchor else ''})"

    parts = _FENCED.split(text)  # each other one is a block of code
    return "".join(part if number % 2 else _LINK.sub(follow, part) for number, part in enumerate(parts))


def contents_of(page: PurePosixPath, pages: list[Path]) -> str:
    """At the end of the first page: the list at the side, where a page that nobody sorted in stands last."""
    if place(page).name != "index.md":
        return ""
    sorted_in = {f"{name}.md" for names in CONTENTS.values() for name in names}
    rest = [str(path.with_suffix("")) for path in sorted(pages) if str(path) not in sorted_in | {"README.md"}]
    contents = CONTENTS | {"More": [name for name in rest if not name.startswith(str(ADR))]}
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"
        for caption, names in contents.items()
        if names
    )


def list_decisions() -> str:
    names = sorted(path.stem for path in (ROOT / ADR).glob("*.md"))
    return (
        "# Decisions\n\nWhat somebody will question in a year, and why it is so.\n\n```{toctree}\n:maxdepth: 1\n\n"
        + "\n".join(names)
        + "\n```\n"
    )


def children(folder: PurePosixPath) -> Iterator[PurePosixPath]:
    for path in sorted((ROOT / folder).iterdir()):
        if path.suffix in LANGUAGES and path.stem != "__init__":
            yield folder / path.name


def show_folder(folder: PurePosixPath) -> str:
    links = [f"- [`{path.name}`]({os.path.relpath(place(path), place(folder).parent)})" for path in children(folder)]
    return f"# `{folder}`\n\n" + "\n".join(links) + "\n"


def show_file(path: PurePosixPath) -> str:
    language = LANGUAGES.get(path.suffix) or LANGUAGES.get(path.name, "text")
    return f"# `{path}`\n\n``````{language}\n{(ROOT / path).read_text()}\n``````\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
