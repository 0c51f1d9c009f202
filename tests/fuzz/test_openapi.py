"""Schemathesis makes up requests from /openapi.json, fitting and unfitting ones, and holds every answer to it.

`make fuzz` runs it; it takes about a minute.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.service import running_api

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.fuzz
def test_every_answer_is_one_that_the_document_describes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    options = ["--checks=all", "--max-examples=5", "--suppress-health-check=all", "--seed=1", "--no-color"]
    options.append("--request-timeout=60")
    with running_api(tmp_path) as url:
        arguments = [*command, f"{url}/openapi.json", *options]
        done = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    (generated,) = re.findall(r"(\d+) generated, \1 passed", done.stdout)
    assert int(generated) >= 2000
