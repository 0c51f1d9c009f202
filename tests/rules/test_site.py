"""What the website is made of is whole: every page, command, setting and error, and no link that leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from promptreel.cli import app
from promptreel.errors import PromptreelError
from promptreel.settings import PREFIX, Settings
from tests.rules.documents import ROOT, pages, without_code_blocks
from tests.rules.test_cli_page import visible_commands


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "pages"
    subprocess.run([sys.executable, ROOT / "docs/site/pages.py", folder], check=True)
    return folder


def test_every_document_is_a_page_that_is_listed(site: Path) -> None:
    listed = re.findall(r"^([\w./-]+)$", (site / "index.md").read_text().partition("```{toctree}")[2], re.MULTILINE)
    listed += [f"docs/adr/{path.stem}" for path in (site / "docs" / "adr").glob("0*.md")]
    documents = {path.relative_to(ROOT).with_suffix("").as_posix() for path in pages()} - {"README"}

    assert documents <= set(listed)
    assert len(listed) == len(set(listed))
    assert [name for name in listed if not (site / f"{name}.md").exists()] == []


def test_links_lead_to_pages_and_pictures_of_the_site(site: Path) -> None:
    for page in site.rglob("*.md"):
        for target in re.findall(
            r"\]\(([^)\s#]+)", without_code_blocks(re.sub("`{6}.*`{6}", "", page.read_text(), flags=re.S))
        ):
            assert "://" in target or target.startswith("mailto:") or (page.parent / target).exists(), (page, target)


def test_code_that_a_document_links_to_is_shown(site: Path) -> None:
    assert "[`media.py`](hostile/media.py.md)" in (site / "source/tests/hostile.md").read_text()
    assert (ROOT / "tests/hostile/media.py").read_text() in (site / "source/tests/hostile/media.py.md").read_text()


def test_reference_has_every_command_setting_and_error(site: Path) -> None:
    commands, settings, errors = ((site / f"reference/{name}.md").read_text() for name in ("commands", "settings", "errors"))
    for name, _ in visible_commands(typer.main.get_command(app)):
        assert f"## `{name}`\n" in commands
        assert f"Usage: {name} " in commands
    for name in Settings.model_fields:
        assert f"## `{PREFIX}{name.upper()}`\n" in settings
    for kind in PromptreelError.__subclasses__():
        assert f"- `{kind.code}`" in errors
