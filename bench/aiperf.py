"""Runs `aiperf`, a public load tester that speaks `/v1/videos`, unmodified against a running service.

`make bench-aiperf` installs it into its own environment (`.aiperf`, 1.2 GB) and runs `python -m bench.aiperf`. aiperf prints
its own table. The exit code is 1 unless every request got its video.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.demo import running_service

MODEL_ID = "cutout"
PROMPTS = (
    "a red cat sitting on a bench",
    "a blue rocket rising at night",
    "a green turtle walking to the left, in a meadow",
    "a yellow ball bouncing on a beach",
)
SHAPE = {"size": "96x96", "num_frames": 16, "num_inference_steps": 8, "seed": 42}
LONGEST_SECONDS = 1800


def main() -> int:
    """Returns the exit code."""
    options = _parse_options()
    with tempfile.TemporaryDirectory(prefix="promptreel-bench-") as name:
        folder = Path(name)
        with running_service(folder / "data", folder / "service.log", threads=options.threads) as url:
            asked, environment = command(options, url, folder), dict(os.environ)
            environment.pop("HF_HUB_OFFLINE", None)  # with it, aiperf looks for the tokenizer's folder in the hub's cache
            subprocess.run(asked, check=True, cwd=folder, env=environment, timeout=LONGEST_SECONDS)
        measured = json.loads((folder / "artifacts" / "profile_export_aiperf.json").read_text())
    good, bad = count(measured, "request_count"), count(measured, "error_request_count")
    print(f"\n{good} of {options.requests} requests got their video, {bad} failed")
    return 0 if (good, bad) == (options.requests, 0) else 1


def command(options: argparse.Namespace, url: str, folder: Path) -> list[str]:
    """The aiperf command. Its tokenizer is the model's own folder, so nothing is downloaded."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"text": prompt}) + "\n" for prompt in PROMPTS))
    settings = {
        "--model": MODEL_ID,
        "--tokenizer": BUILT_IN_MODELS / MODEL_ID / "tokenizer",
        "--url": url,
        "--endpoint-type": "video_generation",
        "--input-file": prompts,
        "--custom-dataset-type": "single_turn",
        "--concurrency": options.concurrency,
        "--request-count": options.requests,
        "--artifact-dir": folder / "artifacts",
        "--ui": "none",
    }
    words = [word for name, value in settings.items() for word in (name, str(value))]
    extra = [word for name, value in SHAPE.items() for word in ("--extra-inputs", f"{name}:{value}")]
    return [str(options.program.absolute()), "profile", *words, *extra, "--download-video-content"]


def count(measured: dict[str, Any], name: str) -> int:
    """A count from aiperf's export, which omits counts of zero."""
    return int(measured.get(name, {}).get("avg", 0))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.aiperf", description=__doc__)
    parser.add_argument(
        "--program", type=Path, default=Path(".aiperf/bin/aiperf"), help="the aiperf program (default: .aiperf/bin/aiperf)"
    )
    parser.add_argument("--requests", type=int, default=20, help="number of requests (default: 20)")
    parser.add_argument("--concurrency", type=int, default=4, help="requests in flight at once (default: 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the worker (default: 2)")
    options = parser.parse_args()
    if not options.program.is_file():
        parser.error(f"{options.program} does not exist: run make bench-aiperf")
    return options


if __name__ == "__main__":
    sys.exit(main())
