"""The demo is the first thing that anybody runs: it must work, and say why when it does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from promptreel import demo
from tests.waiting import LONGEST_SECONDS


def test_demo_brings_a_video_back(tmp_path: Path) -> None:
    """In one of its twenty steps. tests/test_base_install.py runs `python -m promptreel.demo` itself."""
    asked = demo.REQUEST | {"num_inference_steps": "1"}
    command = [sys.executable, "-c", f"import sys; from promptreel import demo; sys.exit(demo.main({asked}))"]
    ran = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=2 * LONGEST_SECONDS)

    assert ran.returncode == 0, ran.stderr
    assert re.search(r"a-cat-sitting-on-a-bench\.mp4: 40 frames, 512x512, 8 fps, seed \d+, made in [\d.]+ s", ran.stdout)
    assert "processing, eta" in ran.stdout
    assert ran.stdout.rstrip().endswith("`promptreel serve --open` opens the page, http://127.0.0.1:8000/")
    assert demo.decode(tmp_path / "demo-out" / "a-cat-sitting-on-a-bench.mp4").frames == 40


def test_demo_says_why_the_service_did_not_start(tmp_path: Path) -> None:
    service = demo.start_service(tmp_path / "data", tmp_path / "service.log", threads=0)

    with pytest.raises(demo.DemoFailed, match="ended with code 2") as failed:
        demo.wait_until_ready(service, tmp_path / "service.log")
    assert "PROMPTREEL_THREADS" in str(failed.value)


def test_demo_says_what_keeps_it_from_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "demo-out").write_text("in the way")
    monkeypatch.chdir(tmp_path)

    assert demo.main() == 1
    assert capsys.readouterr().err.startswith("The demo failed: ")


def test_file_that_does_not_play_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"no video" * 100)

    with pytest.raises(demo.DemoFailed, match="cannot be played"):
        demo.decode(tmp_path / "video.mp4")
