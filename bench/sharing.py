"""Measures requests that share forwards of the UNet.

Compares eight mixed requests at once with the same ones in sequence on stock diffusers components. Then compares, through the
service, a short request behind a long one with a short one alone.

`python -m bench.sharing --rounds 3 --threads 2`, a part of `make bench`. Prints to stdout and keeps nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
import transformers

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.demo import post, running_service
from promptreel.generation.compute import ComputeThreads
from promptreel.generation.devices import pick_device
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.generation.families.family import Rows
from promptreel.generation.families.guidance import classifier_free
from promptreel.jobs.job import JobStage
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelRegistry

POLL_SECONDS = 0.02
BASE = VideoParams(model_id="cutout", prompt="a red cat sitting on a bench", width=96, height=96, num_frames=16)
MIXED = (
    replace(BASE, seed=1),
    replace(BASE, seed=2, scheduler="EulerDiscreteScheduler", num_inference_steps=12),
    replace(BASE, seed=3, scheduler="DDIMScheduler", num_inference_steps=8, prompt="a blue rocket rising at night"),
    replace(BASE, seed=4, scheduler="DPMSolverMultistepScheduler", guidance_scale=3.0),
    replace(BASE, seed=5, scheduler="EulerAncestralDiscreteScheduler", num_inference_steps=16),
    replace(BASE, seed=6, scheduler="DDPMScheduler", num_inference_steps=30, guidance_scale=1.0),
    replace(BASE, seed=7, scheduler="DEISMultistepScheduler", num_inference_steps=10, negative_prompt="snow"),
    replace(BASE, seed=8, scheduler="UniPCMultistepScheduler", num_inference_steps=4),
)
SHORT = {"prompt": BASE.prompt, "model_id": "cutout", "width": 96, "height": 96, "seed": 1, "num_inference_steps": 4}
LONG = SHORT | {"num_inference_steps": 50}


@dataclass(frozen=True)
class Measured:
    """All requests together: seconds, forwards, and rows in these forwards."""

    seconds: float
    forwards: int
    rows: int


def main() -> None:
    options = _parse_options()
    torch.set_num_threads(options.threads)
    diffusers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    models = ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=Path("none"))
    engine = Engine(models, pick_device(), threads=options.threads)
    engine.measure("cutout")
    rows: list[int] = []
    checkpoint = engine.load("cutout")
    assert isinstance(checkpoint, LoadedCheckpoint)
    checkpoint.unet.register_forward_pre_hook(lambda _unet, args: rows.append(len(args[0])))
    together(engine, MIXED[:2])  # on a GPU, measures the row plan of this shape
    scripts = replace(checkpoint, compute=ComputeThreads(options.threads))
    measured: dict[str, list[Measured]] = {"at once, Promptreel": [], "one after another, stock": []}
    for _ in range(options.rounds):
        measured["at once, Promptreel"].append(measure(lambda: together(engine, MIXED), rows))
        alone = measure(lambda: scripts.compute.run(lambda: one_after_another(scripts, MIXED)), rows)
        measured["one after another, stock"].append(alone)
    print_mixed(measured)
    print_short(*measure_short(options.rounds, options.threads))


def measure(run: Any, rows: list[int]) -> Measured:
    rows.clear()
    started = time.monotonic()
    run()
    return Measured(time.monotonic() - started, len(rows), sum(rows))


def together(engine: Engine, requests: Sequence[VideoParams]) -> None:
    with ThreadPoolExecutor(len(requests)) as threads:
        for made in [threads.submit(engine.generate, params, _ignore) for params in requests]:
            made.result()


def _ignore(_stage: JobStage, _share: float) -> None:
    """Progress is not needed here."""


def one_after_another(checkpoint: LoadedCheckpoint, requests: Sequence[VideoParams]) -> None:
    """The fastest way for a script (ADR 9): one thread uses all cores, and both rows of a call share a forward."""
    for params in requests:
        stock(checkpoint, params)


@torch.inference_mode()
def stock(checkpoint: LoadedCheckpoint, params: VideoParams) -> None:
    """A diffusers pipeline's loop with its own scheduler, on the same models in the same dtype."""
    scheduler = getattr(diffusers, params.scheduler).from_config(dict(_scheduler_config(checkpoint)))
    scheduler.set_timesteps(params.num_inference_steps)
    generator = torch.Generator().manual_seed(params.seed)
    conditioning = checkpoint.prepare(params).conditioning
    count = len(conditioning)
    latents = torch.randn(checkpoint.latent_shape(params.num_frames, 96, 96), generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep).expand(count, -1, -1, -1, -1)
        rows = Rows(checkpoint, scaled, timestep.float().expand(count), conditioning, remaining=1)
        output = classifier_free(checkpoint.forward(rows), params.guidance_scale)
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
    list(checkpoint.decode(latents, generator))


def _scheduler_config(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    config: dict[str, Any] = diffusers.DDIMScheduler.load_config(checkpoint.card.path / "scheduler")
    return config


def measure_short(rounds: int, threads: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds from POST to success: the short request alone, the short one behind the long one, and that long one."""
    alone, behind, long = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="promptreel-bench-") as folder,
        running_service(Path(folder) / "data", Path(folder) / "service.log", threads=threads) as url,
    ):
        finish(*ask(url, SHORT))
        for _ in range(rounds):
            alone.append(finish(*ask(url, SHORT)))
            waiting = ask(url, LONG)
            time.sleep(1.0)  # the long one is denoising by then
            behind.append(finish(*ask(url, SHORT)))
            long.append(finish(*waiting))
    return alone, behind, long


def ask(url: str, request: dict[str, Any]) -> tuple[str, float]:
    """Submits a request. Returns its fetch URL and the start time."""
    started = time.monotonic()
    answer = post(f"{url}/api/v4/dreambooth/text2video", request)
    return str(answer["fetch_result"]), started


def finish(fetch_result: str, started: float) -> float:
    """Polls until success. Returns the seconds since `started`. Raises RuntimeError if the job fails."""
    while (answer := post(fetch_result, {}))["status"] == "processing":
        time.sleep(POLL_SECONDS)
    if answer["status"] != "success":
        raise RuntimeError(f"no video: {answer.get('message')}")
    return time.monotonic() - started


def print_mixed(measured: dict[str, list[Measured]]) -> None:
    print(f"{len(MIXED)} mixed requests of {BASE.num_frames} frames, without encoding; seconds")
    print(f"{'':28}{'min':>9}{'median':>9}{'max':>9}{'forwards':>10}{'rows':>7}")
    for name, runs in measured.items():
        seconds = [run.seconds for run in runs]
        print(f"{name:28}{min(seconds):9.2f}{median(seconds):9.2f}{max(seconds):9.2f}{runs[0].forwards:10}{runs[0].rows:7}")
    ours, theirs = measured.values()
    ratios = sorted(one.seconds / other.seconds for one, other in zip(ours, theirs, strict=True))
    print(f"{'wall time, ratio by round':28}{ratios[0]:9.2f}{median(ratios):9.2f}{ratios[-1]:9.2f}")
    print(f"{'forwards, ratio':28}{ours[0].forwards / theirs[0].forwards:9.2f}\n")


def print_short(alone: list[float], behind: list[float], long: list[float]) -> None:
    print("through the service, 40 frames; seconds from POST to success of a request of 4 steps and of one of 50 before it")
    rows = {"4 steps alone": alone, "4 steps behind 50": behind, "50 steps, passed once": long}
    for name, seconds in rows.items():
        print(f"{name:28}{min(seconds):9.2f}{median(seconds):9.2f}{max(seconds):9.2f}")
    ratios = sorted(one / other for one, other in zip(behind, alone, strict=True))
    print(f"{'behind / alone by round':28}{ratios[0]:9.2f}{median(ratios):9.2f}{ratios[-1]:9.2f}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sharing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the worker (default: 2)")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads are at least 1")
    return options


if __name__ == "__main__":
    main()
