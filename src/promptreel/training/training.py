"""One training, from its order to its result. Top-level flow of the child."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import dataclass
from typing import Any

import torch

from promptreel.errors import DeviceLost, OutOfMemory, PromptreelError
from promptreel.generation.compute import ComputeThreads
from promptreel.generation.devices import Device
from promptreel.generation.failures import has_lost_device, is_out_of_memory
from promptreel.generation.peak_memory import MemoryWatch
from promptreel.generation.quiet import quiet_libraries
from promptreel.jobs.training_params import ExampleKind
from promptreel.models.composition import ModelSet
from promptreel.training.bases import choose_device, find_base, load_base
from promptreel.training.checkpoints import Checkpoints, Saved
from promptreel.training.clips import learn_clips
from promptreel.training.export import CHECKPOINT_FOLDER, LORA_FILE, hash_params, save_checkpoint, save_lora
from promptreel.training.latents import prepare_examples
from promptreel.training.loop import Loop, Plan, Stopped, Talk
from promptreel.training.noising import Noising
from promptreel.training.orders import Order
from promptreel.training.pictures import learn_pictures
from promptreel.training.task import Setup, Task
from promptreel.training.tensor_files import file_errors


def train(order: Order, talk: Talk) -> None:
    """Raises a PromptreelError for whatever fails."""
    try:
        _train(order, talk)
    except Stopped:
        return
    except PromptreelError:
        raise
    except Exception as error:
        if has_lost_device(error):
            raise DeviceLost("The device failed. The training goes on from its last checkpoint in a new process.") from error
        if is_out_of_memory(error):
            raise OutOfMemory(
                "There is too little memory to train this model: choose a smaller size, or fewer frames or examples."
            ) from error
        raise


def _train(order: Order, talk: Talk) -> None:
    quiet_libraries()
    torch.set_num_threads(1)  # the compute threads have all of them
    began, began_cpu = time.monotonic(), time.process_time()
    checkpoints = Checkpoints(order.path / "checkpoints")
    saved = None if order.resume is None else checkpoints.load(order.resume)
    models, device = find_base(order), choose_device(order)
    facts = _facts_of(order, saved)
    with MemoryWatch(device).watch() as peak:
        compute = _make_threads(facts["threads"], device)
        setup, facts["base_hash"] = _set_up(order, models, device, compute, talk)
        task = _make_task(order, setup)
        result = _Result(order, models, task, setup.unet, facts["base_hash"])
        loop = Loop(task, _make_plan(order, facts, compute, result), checkpoints, talk)
        if saved is not None and order.resume is not None:
            loop.restore(order.resume, saved)
        loop.run()
        file = result.write(CHECKPOINT_FOLDER if order.preset.is_whole else LORA_FILE)
    talk.say(
        "done",
        file=file,
        step=loop.step,
        facts={
            **facts,
            "loss": loop.loss,
            "preset": order.preset.name,
            "trained_numbers": sum(weight.numel() for weight in task.groups[0].weights.values()),
            "trained_layers": len(task.groups[0].weights),
            "motion_left_out": task.leaves_out_motion,
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - began_cpu, 1),
            "peak_memory_mb": peak.megabytes,
        },
    )


def _facts_of(order: Order, saved: Saved | None) -> dict[str, Any]:
    """What must be equal for equal bits. A training that goes on keeps the threads that it began with."""
    threads = order.threads if saved is None else saved.state.get("facts", {}).get("threads", order.threads)
    return {"params_hash": hash_params(order), "threads": threads}


def _make_threads(threads: int, device: Device) -> ComputeThreads:
    """On a CPU, rows are computed side by side, each by one thread: a thread that waits for no other computes several times as
    much while other processes use the cores (ADR 15)."""
    return ComputeThreads(threads, row_threads=1 if device.name.startswith("cuda") else threads)


def _set_up(order: Order, models: ModelSet, device: Device, compute: ComputeThreads, talk: Talk) -> tuple[Setup, str]:
    """Loads the base; computes the examples, after which the VAE and the text encoder leave. Returns the base's hash, too."""
    base = load_base(models, device, compute)
    noising = Noising(base.space, device.name)

    def tell(done: int, total: int) -> None:
        talk.say("caching", done=done, total=total)

    examples = prepare_examples(order, base, tell)
    unet = base.unet
    base_hash = base.model_hash
    del base
    gc.collect()
    if device.name.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        unet.enable_gradient_checkpointing()
    return Setup(unet=unet, noising=noising, examples=examples, device=device, compute=compute), base_hash


def _make_task(order: Order, setup: Setup) -> Task:
    torch.manual_seed(order.params.seed)  # a LoRA's first numbers
    return learn_clips(order, setup) if order.preset.examples is ExampleKind.CLIP else learn_pictures(order, setup)


def _make_plan(order: Order, facts: dict[str, Any], compute: ComputeThreads, result: _Result) -> Plan:
    is_shown = bool(order.params.sample_prompts)
    return Plan(
        steps=order.params.steps,
        parts=min(compute.row_threads, order.params.batch_size),
        seed=order.params.seed,
        checkpoint_seconds=order.checkpoint_seconds,
        facts=facts,
        export=result.write_sample if is_shown else None,
        forget=result.forget,
    )


@dataclass(frozen=True)
class _Result:
    """The trained weights as files in the job's folder."""

    order: Order
    models: ModelSet
    task: Task
    unet: Any
    base_hash: str

    def write(self, name: str) -> str:
        """Returns the name, which is a folder's for a whole checkpoint."""
        path = self.order.path / name
        with file_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
        if self.order.preset.is_whole:
            save_checkpoint(path, self.task.groups[0].weights, self.order, self.models)
        else:
            save_lora(path, self.unet, self.order, self.base_hash)
        return name

    def write_sample(self, step: int) -> str:
        return self.write(f"samples/{step:06d}" + ("" if self.order.preset.is_whole else ".safetensors"))

    def forget(self, name: str) -> None:
        path = self.order.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
