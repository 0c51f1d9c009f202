"""`make install` when there is something in .venv already."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rules.documents import ROOT

NOTES_ARGUMENTS = '#!/bin/sh\necho "$@" > arguments\nexit 1\n'  # make goes no further
IS_311, IS_OTHER = "#!/bin/sh\nexit 0\n", "#!/bin/sh\nexit 1\n"


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("python", "completed", "expected"),
    [
        (None, False, "-m venv --clear .venv"),
        (IS_311, True, "-m venv .venv"),
        (IS_OTHER, True, "-m venv --clear .venv"),
        (IS_311, False, "-m venv --clear .venv"),
        (IS_OTHER, False, "-m venv --clear .venv"),
    ],
)
def test_environment_of_another_python_or_half_an_installation_is_made_anew(
    tmp_path: Path, python: str | None, completed: bool, expected: str
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    if python is not None:
        write_program(tmp_path / ".venv" / "bin" / "python", python)
    if completed:
        (tmp_path / ".venv" / "installed").touch()
        os.utime(tmp_path / ".venv" / "installed", (0, 0))  # older than what is to be installed
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    write_program(tmp_path / "python3.11", NOTES_ARGUMENTS)

    subprocess.run(["make", "install", "PYTHON=./python3.11"], cwd=tmp_path, check=False, capture_output=True)

    assert (tmp_path / "arguments").read_text().strip() == expected
