"""The wall clock of a service's processes, which a test may set: a few lines of C that are loaded into them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
COMPILERS = {"cc": ["-fPIC"], "gcc": ["-fPIC"], "clang": ["-fPIC"], "tcc": []}


class WallClock:
    """Of the processes that are started with its environment. Without a C compiler it is everybody's, and cannot be set."""

    def __init__(self, folder: Path) -> None:
        self._moved_by = folder / "moved_by"
        library = folder / "wall_clock.so"
        compiler = next((name for name in COMPILERS if shutil.which(name)), None)
        self.can_be_set = compiler is not None
        self.environment: dict[str, str] = {}
        if compiler is not None:
            options = ["-shared", "-nostdlib", *COMPILERS[compiler]]
            subprocess.run([compiler, *options, "-o", library, SOURCE], check=True)
            self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(self._moved_by)}
        self.move(0)

    def move(self, seconds: int) -> None:
        """To so many seconds from the true time."""
        beside = self._moved_by.with_suffix(".new")
        beside.write_text(f"{seconds}\n")
        beside.replace(self._moved_by)
