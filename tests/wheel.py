"""Builds the wheel that people install."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.rules.documents import ROOT

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")


def build_wheel(folder: Path) -> Path:
    """From a copy, so that nothing of an earlier build gets into it, and nothing is left in the clone."""
    copy = folder / "source"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True)
    (wheel,) = folder.glob("promptreel-*.whl")
    return wheel
