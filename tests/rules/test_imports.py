"""The architecture, as far as imports show it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.rules.documents import ROOT, read


@pytest.fixture(scope="module")
def contracts() -> list[dict[str, Any]]:
    contracts: list[dict[str, Any]] = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    return contracts


def test_import_contracts_hold() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache', '--no-logo'])"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_module_has_a_layer(contracts: list[dict[str, Any]]) -> None:
    layered = {module.strip() for layer in contracts[0]["layers"] for module in layer.split("|")}
    found = {
        f"promptreel.{path.stem}"
        for path in (ROOT / "src" / "promptreel").iterdir()
        if path.name[0] != "_" and ((path / "__init__.py").is_file() or path.suffix == ".py")
    }

    assert found == layered


def test_architecture_gives_a_reason_for_every_contract(contracts: list[dict[str, Any]]) -> None:
    page = read("ARCHITECTURE.md")

    assert [contract["name"] for contract in contracts if f"**{contract['name']}.** " not in page] == []


def test_command_line_api_and_gate_start_without_torch() -> None:
    code = "import promptreel.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    loaded = set(done.stdout.split())

    assert loaded >= {"promptreel.api.app", "promptreel.models.gate", "promptreel.models.wan.checkpoint"}
    assert loaded & {"torch", "diffusers", "transformers"} == set()
