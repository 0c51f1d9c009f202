"""`promptreel` as a process of its own, without the seconds that importing everything anew takes each time.

A server process has imported the program, and done nothing else, when it forks into the one that runs a command.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from promptreel.cli import main

# Besides this module, what commands import late.
PRELOADED = [__name__, "promptreel.client", "promptreel.commands.generate"]


def run_promptreel(*arguments: object, seconds: float = 240, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, with these settings in its environment."""
    environment = os.environ | {f"PROMPTREEL_{name.upper()}": value for name, value in settings.items()}
    words = ["promptreel", *map(str, arguments)]
    servers = multiprocessing.get_context("forkserver")
    servers.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        process = servers.Process(target=_run, args=(words, environment, Path.cwd(), output, errors))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, seconds)
        return subprocess.CompletedProcess(words, process.exitcode, output.read_text(), errors.read_text())


def _run(words: list[str], environment: dict[str, str], folder: Path, output: Path, errors: Path) -> None:
    gc.freeze()  # what the server imported stays
    for path, number in ((output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    main()
