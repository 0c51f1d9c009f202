"""`make install` when there is something in .venv already."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rules.documents import ROOT

# A program that says which Python it is, and notes what else it is called with; make goes no further then.
PYTHON = """#!/bin/sh
case "$1" in
    -V) echo "Python {version}" ;;
    -c) {can_be_used} && echo "$0" ;;
    *) echo "$0 $@" > arguments; exit 1 ;;
esac
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def write_python(path: Path, version: str, *, can_be_used: bool = True) -> None:
    write_program(path, PYTHON.format(version=version, can_be_used=str(can_be_used).lower()))


def install(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make install` in a folder of a clone, where no other Python is found than those in it."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3", "python"):
        if not (folder / "bin" / name).exists():
            write_python(folder / "bin" / name, "3.9.0", can_be_used=False)
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        ["make", "install", *arguments], cwd=folder, env=environment, check=False, capture_output=True, text=True
    )


def make_environment(folder: Path, version: str, *, completed: bool, can_be_used: bool = True) -> None:
    write_python(folder / ".venv" / "bin" / "python", version, can_be_used=can_be_used)
    if completed:
        (folder / ".venv" / "installed").touch()
        os.utime(folder / ".venv" / "installed", (0, 0))  # older than what is to be installed


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@needs_make
@pytest.mark.parametrize(
    ("version", "completed", "expected"),
    [
        (None, False, "-m venv --clear .venv"),
        ("3.11.7", True, "-m venv .venv"),
        ("3.13.0", True, "-m venv --clear .venv"),
        ("3.11.7", False, "-m venv --clear .venv"),
        ("3.13.0", False, "-m venv --clear .venv"),
    ],
)
def test_environment_of_another_python_or_half_an_installation_is_made_anew(
    tmp_path: Path, version: str | None, completed: bool, expected: str
) -> None:
    if version is not None:
        make_environment(tmp_path, version, completed=completed)
    write_python(tmp_path / "python", "3.11.7")

    install(tmp_path, "PYTHON=./python")

    assert (tmp_path / "arguments").read_text().strip() == f"./python {expected}"


@needs_make
def test_environment_keeps_the_python_that_it_was_made_with(tmp_path: Path) -> None:
    write_python(tmp_path / "bin" / "python3.11", "3.11.7")
    make_environment(tmp_path, "3.13.0", completed=True)

    install(tmp_path)

    assert (tmp_path / "arguments").read_text().strip() == ".venv/bin/python -m venv .venv"


@needs_make
def test_environment_whose_python_is_gone_is_made_anew(tmp_path: Path) -> None:
    write_python(tmp_path / "bin" / "python3.12", "3.12.1")
    make_environment(tmp_path, "3.13.0", completed=True, can_be_used=False)

    install(tmp_path)

    assert (tmp_path / "arguments").read_text().strip() == f"{tmp_path}/bin/python3.12 -m venv --clear .venv"


@needs_make
def test_newest_python_is_taken_where_there_is_no_other_and_3_11_before_it(tmp_path: Path) -> None:
    write_python(tmp_path / "bin" / "python3.14", "3.14.0")
    install(tmp_path)
    only_new = (tmp_path / "arguments").read_text().split()[0]
    write_python(tmp_path / "bin" / "python3.11", "3.11.7")
    install(tmp_path)

    assert [only_new, (tmp_path / "arguments").read_text().split()[0]] == [
        f"{tmp_path}/bin/python3.14",
        f"{tmp_path}/bin/python3.11",
    ]


@needs_make
def test_machine_without_a_python_is_told_what_to_install(tmp_path: Path) -> None:
    ran = install(tmp_path)

    assert ran.returncode == 2
    assert "No Python 3.11 to 3.14 with venv was found: install one, or say where it is: make PYTHON=" in ran.stderr
