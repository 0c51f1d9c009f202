"""Measures many models on one worker: four checkpoints of one architecture, asked for by Zipf's law, against one alone.

`python -m bench.models --jobs 200`. Also measures plain diffusers, which holds one pipeline and loads another as it goes, and
how long a switch takes: the wait of a job for its model, when the job before it used another one.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import quantiles

import torch
from diffusers import AutoencoderDC, MotionAdapter, UNet2DConditionModel, UNetMotionModel, UniPCMultistepScheduler
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.demo import post, start_service, stop_service, wait_until_ready
from promptreel.generation.devices import pick_device
from promptreel.generation.engine import Engine
from promptreel.generation.quiet import quiet_libraries
from promptreel.jobs.database import open_database
from promptreel.jobs.job import JobStatus
from promptreel.jobs.store import JobStore
from promptreel.models.registry import ModelRegistry

MODELS = ("style-1", "style-2", "style-3", "style-4")
REQUEST: dict[str, str | int] = {
    "prompt": "a red ball rolling",
    "width": 96,
    "height": 96,
    "num_frames": 8,
    "num_inference_steps": 4,
    "seed": 7,
}
ALL_FIT, TWO_FIT = 1000, 70
"""Megabytes for loaded models; each takes 25 to 55, by the number format."""
_LOADED = re.compile(r"(style-\d) was loaded in ([\d.]+) s")


@dataclass(frozen=True)
class Run:
    """Seconds for all jobs, and for each load of a model meanwhile. `switches`: jobs that began after one of another model."""

    seconds: float
    loads: Sequence[float]
    switches: int


def main() -> None:
    options = _parse_options()
    quiet_libraries()
    asked = draw_requests(options.jobs)
    print(f"{options.jobs} jobs of 8 frames, 4 steps; by model: {', '.join(f'{asked.count(each)}' for each in MODELS)}")
    with tempfile.TemporaryDirectory(prefix="promptreel-bench-") as folder:
        folders = make_models(Path(folder) / "data" / "models")
        alone = run_service(Path(folder), [MODELS[0]] * options.jobs, megabytes=ALL_FIT)
        print_run("one checkpoint", alone, alone)
        print_run("four, all fit", run_service(Path(folder), asked, megabytes=ALL_FIT), alone)
        print_run("four, two fit", run_service(Path(folder), asked, megabytes=TWO_FIT), alone)
        print_run("plain diffusers", run_plain(folders, asked, options.threads), alone)
        print("Seconds of a switch, in the order of the requests:")
        for name, megabytes in (("all fit", ALL_FIT), ("two fit", TWO_FIT)):
            print_spread(name, time_switches(folders[MODELS[0]].parent, asked, megabytes=megabytes))
        print_spread("plain diffusers", time_plain_switches(folders, asked))


def draw_requests(count: int) -> list[str]:
    """The model of each request, by Zipf's law: the second is asked for half as often as the first, and so on."""
    weights = [1 / rank for rank in range(1, len(MODELS) + 1)]
    return random.Random(0).choices(MODELS, weights, k=count)


def make_models(root: Path) -> dict[str, Path]:
    """Copies of the built-in model, whose weights differ a little."""
    folders = {}
    for number, name in enumerate(MODELS):
        folders[name] = Path(shutil.copytree(BUILT_IN_MODELS / "cutout", root / name))
        for path in (folders[name] / "unet").glob("*.safetensors"):
            weights = load_file(path)
            save_file({key: tensor * (1 + 1e-3 * number) for key, tensor in weights.items()}, path)
    return folders


def run_service(folder: Path, asked: Sequence[str], *, megabytes: int) -> Run:
    """All requests at once, to a new service on the same models."""
    data_dir = folder / "data"
    log = folder / f"{time.monotonic_ns()}.log"
    (data_dir / "promptreel.db").unlink(missing_ok=True)
    service = start_service(data_dir, log, model_memory_per_worker=megabytes)
    try:
        url = wait_until_ready(service, log)
        started = time.monotonic()
        for model_id in asked:
            post(f"{url}/api/v4/dreambooth/text2video", REQUEST | {"model_id": model_id})
        database = open_database(f"sqlite:///{data_dir / 'promptreel.db'}")
        store = JobStore(database)
        while (done := store.count(JobStatus.SUCCEEDED)) < len(asked):
            if store.count(JobStatus.FAILED):
                raise RuntimeError(f"a job failed after {done} jobs: see {log}")
            time.sleep(0.1)
        seconds = time.monotonic() - started
        begun = sorted(store.list(limit=len(asked)), key=lambda job: job.started_at or job.created_at)
        database.dispose()
    finally:
        stop_service(service)
    loads = [float(found[2]) for found in _LOADED.finditer(log.read_text())]
    return Run(seconds, loads, count_switches([job.params.model_id for job in begun]))


def count_switches(models: Sequence[str]) -> int:
    return sum(before != after for before, after in pairwise(models))


def time_switches(models_dir: Path, asked: Sequence[str], *, megabytes: int) -> list[float]:
    """Seconds until the engine has the model, for each request that follows one for another model."""
    registry = ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=models_dir)
    engine = Engine(registry, pick_device("cpu"), model_memory=megabytes * 1_000_000)
    engine.load(asked[0])
    return [measure(partial(engine.load, after)) for before, after in pairwise(asked) if before != after]


def time_plain_switches(folders: dict[str, Path], asked: Sequence[str]) -> list[float]:
    """The same for diffusers' own classes."""
    PlainModel(folders[asked[0]])
    return [measure(partial(PlainModel, folders[after])) for before, after in pairwise(asked) if before != after]


def measure(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@torch.inference_mode()
def run_plain(folders: dict[str, Path], asked: Sequence[str], threads: int) -> Run:
    """diffusers' own classes, one model at a time, one request after another, as a script would do it."""
    torch.set_num_threads(threads)
    loads = []
    held, model = "", None
    started = time.monotonic()
    for model_id in asked:
        if model is None or model_id != held:
            began = time.monotonic()
            model, held = PlainModel(folders[model_id]), model_id
            loads.append(time.monotonic() - began)
        model.generate()
    return Run(time.monotonic() - started, loads, count_switches(asked))


class PlainModel:
    """The parts of a checkpoint, loaded by diffusers and transformers."""

    def __init__(self, folder: Path) -> None:
        dtype = torch.bfloat16
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=dtype, local_files_only=True)
        adapter = MotionAdapter.from_pretrained(folder / "motion_adapter", dtype=dtype, local_files_only=True)
        self.unet = UNetMotionModel.from_unet2d(unet, adapter).to(dtype)
        self.vae = AutoencoderDC.from_pretrained(folder / "vae", dtype=dtype, local_files_only=True)
        self.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, local_files_only=True)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self.scheduler = UniPCMultistepScheduler.from_pretrained(folder / "scheduler", local_files_only=True)

    def generate(self) -> torch.Tensor:
        frames, side = int(REQUEST["num_frames"]), int(self.unet.config.sample_size)
        tokens = self.tokenizer(["", str(REQUEST["prompt"])], padding="max_length", truncation=True, return_tensors="pt")
        text = self.text_encoder(tokens.input_ids).last_hidden_state.repeat_interleave(frames, 0)
        latents = torch.randn((1, self.unet.config.in_channels, frames, side, side), generator=torch.Generator().manual_seed(7))
        self.scheduler.set_timesteps(int(REQUEST["num_inference_steps"]))
        for timestep in self.scheduler.timesteps:
            rows = latents.expand(2, -1, -1, -1, -1).bfloat16()
            negative, prompt = self.unet(rows, timestep, encoder_hidden_states=text).sample.float().chunk(2)
            latents = self.scheduler.step(negative + 7.5 * (prompt - negative), timestep, latents).prev_sample
        pictures: torch.Tensor = self.vae.decode(latents[0].transpose(0, 1).bfloat16() / self.vae.config.scaling_factor).sample
        return pictures


def print_run(name: str, run: Run, alone: Run) -> None:
    print(
        f"{name:18}{run.seconds:8.1f} s  {alone.seconds / run.seconds:5.2f} of the throughput of one  "
        f"{len(run.loads):3} loads  {run.switches:3} switches"
    )


def print_spread(name: str, seconds: Sequence[float]) -> None:
    parts = quantiles(seconds, n=20)
    print(
        f"{name:18}p50 {parts[9]:8.4f}  p95 {parts[18]:8.4f}  least {min(seconds):8.4f}  most {max(seconds):8.4f}  "
        f"({len(seconds)} switches)"
    )


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="number of requests (default: 200)")
    parser.add_argument("--threads", type=int, default=2, help="threads of plain diffusers (default: 2)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
