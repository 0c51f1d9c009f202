"""Measures twenty LoRAs on one worker: do its memory and the model without LoRAs stay as they were?

`python -m bench.loras --jobs 200`. The LoRAs are random, and asked for in turn. Before and after, a clip is made without any.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch
from safetensors.torch import load_file, save_file

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.demo import post, start_service, stop_service, wait_until_ready
from promptreel.jobs.database import open_database
from promptreel.jobs.job import JobStatus
from promptreel.jobs.store import JobStore

LORAS = 20
RANK = 4
REQUEST: Mapping[str, str | int] = {
    "model_id": "cutout",
    "prompt": "a red ball rolling",
    "width": 96,
    "height": 96,
    "num_frames": 8,
    "num_inference_steps": 4,
    "seed": 7,
}


def main() -> None:
    options = _parse_options()
    with tempfile.TemporaryDirectory(prefix="promptreel-bench-") as folder:
        data_dir = Path(folder) / "data"
        for number in range(LORAS):
            add_model(draw_lora(Path(folder) / f"lora-{number}.safetensors", seed=number), data_dir)
        measure(data_dir, Path(folder) / "log", options.jobs)


def measure(data_dir: Path, log: Path, count: int) -> None:
    service = start_service(data_dir, log)
    try:
        url = wait_until_ready(service, log)
        store = JobStore(open_database(f"sqlite:///{data_dir / 'promptreel.db'}"))
        before = make(url, store, data_dir)
        worker = next(each for each in psutil.Process(service.pid).children() if "worker" in each.cmdline())
        done = store.count(JobStatus.SUCCEEDED)
        for number in range(count):
            post(f"{url}/api/v4/dreambooth/text2video", {**REQUEST, "lora_model": f"lora-{number % LORAS}"})
        for number in range(LORAS, count + 1, LORAS):
            wait_for(store, done + number)
            print(f"after {number:4} jobs the worker has {worker.memory_info().rss / 1e6:6.0f} MB")
        wait_for(store, done + count)
        after = make(url, store, data_dir)
    finally:
        stop_service(service)
    print(f"The clip without LoRAs has {'the same bytes' if before == after else 'OTHER bytes'} as before.")


def make(url: str, store: JobStore, data_dir: Path) -> str:
    """The hash of a clip without LoRAs."""
    done = store.count(JobStatus.SUCCEEDED)
    post(f"{url}/api/v4/dreambooth/text2video", dict(REQUEST))
    wait_for(store, done + 1)
    (job,) = store.list(limit=1)
    assert job.result is not None
    return hashlib.sha256((data_dir / "results" / job.result.key).read_bytes()).hexdigest()


def wait_for(store: JobStore, succeeded: int) -> None:
    while store.count(JobStatus.SUCCEEDED) < succeeded:
        if store.count(JobStatus.FAILED):
            raise RuntimeError("a job failed: see the log")
        time.sleep(0.1)


def draw_lora(path: Path, *, seed: int) -> Path:
    """A random LoRA on the built-in model's attention, in kohya's names."""
    torch.manual_seed(seed)
    tensors = {}
    for file in (BUILT_IN_MODELS / "cutout" / "unet").glob("*.safetensors"):
        for name, weight in load_file(file).items():
            if name.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
                layer = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
                tensors[f"{layer}.lora_down.weight"] = torch.randn(RANK, weight.shape[1])
                tensors[f"{layer}.lora_up.weight"] = torch.randn(weight.shape[0], RANK) / 100
    save_file(tensors, path)
    return path


def add_model(path: Path, data_dir: Path) -> None:
    command = [sys.executable, "-m", "promptreel.cli", "models", "add", str(path), "--data-dir", str(data_dir)]
    subprocess.run(command, check=True, capture_output=True)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.loras", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="number of requests (default: 200)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
