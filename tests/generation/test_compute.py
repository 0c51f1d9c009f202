from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from promptreel.errors import JobCancelled
from promptreel.generation.compute import ComputeThreads, serial_arithmetic
from promptreel.generation.engine import Engine
from promptreel.models.registry import ModelRegistry
from tests.generation.conftest import CPU
from tests.generation.test_animatediff import PARAMS, go_on


def in_new_thread(work: object) -> object:
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()


def test_work_runs_in_row_threads_whoever_asks() -> None:
    compute = ComputeThreads(2)

    idents = {compute.run(threading.get_ident), in_new_thread(lambda: compute.run(threading.get_ident))}

    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_work_may_ask_for_more() -> None:
    compute = ComputeThreads()

    assert compute.run(lambda: compute.run(lambda: 3)) == 3
    assert compute.run(lambda: list(compute.run_each([lambda: 1, lambda: 2]))) == [1, 2]


def test_error_of_the_work_reaches_who_asked() -> None:
    compute = ComputeThreads()

    with pytest.raises(KeyError):
        compute.run(lambda: {}["absent"])
    assert compute.run(lambda: 3) == 3


@pytest.mark.parametrize(("threads", "row_threads", "of_each"), [(1, 1, 1), (2, 2, 1), (3, 2, 1), (8, 2, 4)])
def test_row_threads_share_the_threads_that_there_are(threads: int, row_threads: int, of_each: int) -> None:
    before = torch.get_num_threads()
    compute = ComputeThreads(threads, row_threads=2)

    assert compute.row_threads == row_threads
    assert compute.run(torch.get_num_threads) == of_each
    assert torch.get_num_threads() == before


def test_what_other_threads_set_does_not_change_a_row_threads_share() -> None:
    compute = ComputeThreads(4, row_threads=2)
    compute.run(lambda: None)
    in_new_thread(lambda: torch.set_num_threads(3))

    assert compute.run(torch.get_num_threads) == 2
    in_new_thread(lambda: torch.set_num_threads(1))


def test_parts_run_side_by_side_and_come_in_order() -> None:
    compute = ComputeThreads(2, row_threads=2)
    pair = threading.Barrier(2)

    def meet(number: int) -> int:
        pair.wait(60)
        return number

    assert list(compute.run_each(partial(meet, number) for number in range(6))) == list(range(6))


def test_parts_under_way_end_before_an_error_is_raised() -> None:
    compute = ComputeThreads(2, row_threads=2)
    both, raised, ended = threading.Barrier(2), threading.Event(), threading.Event()

    def fail() -> None:
        both.wait(60)
        raised.set()
        raise ValueError

    def go_on() -> None:
        both.wait(60)
        raised.wait(60)
        ended.set()

    with pytest.raises(ValueError):  # noqa: PT011 - only its kind matters
        list(compute.run_each([fail, go_on, lambda: pytest.fail("nobody asked for it any more")]))
    assert ended.is_set()


def test_serial_arithmetic_ends_with_its_block() -> None:
    def before_inside_and_after() -> list[int]:
        torch.set_num_threads(2)
        found = [torch.get_num_threads()]
        with serial_arithmetic():
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())
        torch.set_num_threads(1)
        return found

    assert in_new_thread(before_inside_and_after) == [2, 1, 2]


def test_models_of_all_jobs_run_in_the_row_threads(models: ModelRegistry) -> None:
    engine = Engine(models, CPU, threads=2)
    checkpoint = engine.load("tiny")
    seen: set[str] = set()
    for part in (checkpoint.unet, checkpoint.vae.decoder, checkpoint.prompts.text_encoder):
        part.register_forward_pre_hook(lambda _part, _args: seen.add(threading.current_thread().name))

    engine.generate(PARAMS, go_on)
    with ThreadPoolExecutor(2) as jobs:
        list(jobs.map(lambda seed: engine.generate(replace(PARAMS, seed=seed, prompt=f"cat {seed}"), go_on), [1, 2]))

    assert seen == {"row_0", "row_1"}


def test_job_that_is_stopped_between_two_parts_leaves_none_under_way(models: ModelRegistry) -> None:
    checkpoint = Engine(models, CPU, threads=2).load("tiny")
    pair, ended = threading.Barrier(2), []

    def meet(_decoder: object, _args: object) -> None:
        pair.wait(60)

    def stop() -> None:
        raise JobCancelled("enough")

    checkpoint.vae.decoder.register_forward_pre_hook(meet)
    checkpoint.vae.decoder.register_forward_hook(lambda _decoder, _args, _frames: ended.append(1) and None)
    with pytest.raises(JobCancelled):
        list(checkpoint.decode(torch.zeros(1, 4, 7, 3, 4), torch.Generator(), stop))

    assert ended == [1, 1]


def test_decoding_divides_a_clip_for_the_row_threads_alike_however_many_there_are(models: ModelRegistry) -> None:
    latents = torch.randn(1, 4, 7, 3, 4, generator=torch.Generator().manual_seed(3))
    alone, shared = (Engine(models, CPU, threads=threads).load("tiny") for threads in (1, 2))
    pair, parts = threading.Barrier(2), []

    def meet(_decoder: object, args: tuple[torch.Tensor, ...]) -> None:
        pair.wait(60)
        parts.append(len(args[0]))

    shared.vae.decoder.register_forward_pre_hook(meet)

    assert torch.equal(*(torch.cat(list(each.decode(latents, torch.Generator()))) for each in (shared, alone)))
    assert sorted(parts) == [3, 4]


IN_A_NEW_PROCESS = """
import gc
gc.disable()  # otherwise the imports take a fifth longer
import promptreel.worker.worker
import diffusers.utils.dynamic_modules_utils, huggingface_hub.constants
print(huggingface_hub.constants.HF_HUB_OFFLINE, diffusers.utils.constants.DIFFUSERS_DISABLE_REMOTE_CODE)
import os, threading, time, torch
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from promptreel.generation.compute import serial_arithmetic
from promptreel.generation.devices import Device
from promptreel.generation.engine import Engine
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelRegistry
from promptreel.bootstrap import BUILT_IN_MODELS
gc.enable()

engine = Engine(ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=Path("none")), Device("cpu", torch.float32), threads=4)

def count_helpers():
    # Of the threads that there are, those that Python does not know.
    return len(os.listdir("/proc/self/task")) - threading.active_count()

checkpoint = engine.load("cutout")
with serial_arithmetic():
    list(checkpoint.decode(torch.zeros(checkpoint.latent_shape(12, 96, 96)), torch.Generator()))  # in both row threads
checkpoint.encode_text("")  # the tokenizer has threads of its own
before = count_helpers()
engine.measure("cutout")
params = VideoParams(model_id="cutout", prompt="a red cat", width=96, height=96, num_frames=12, num_inference_steps=1)
with ThreadPoolExecutor(2) as jobs:
    list(jobs.map(lambda seed: engine.generate(replace(params, seed=seed), lambda stage, share: None), [1, 2]))
    for _ in range(100):  # a thread that has ended may be listed for a moment longer
        if count_helpers() == before:
            break
        time.sleep(0.1)
    print(before > 0, count_helpers() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux lists them")
def test_environment_is_set_before_torch_is_imported_and_only_the_row_threads_have_helpers() -> None:
    """Set is what torch and its libraries read on import, whichever module of ours imports them first, but for what somebody
    has set. tests/flows/test_one_service.py sees what OpenMP reads if nobody has.
    """
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose", "HF_HUB_OFFLINE": "0", "GOMP_SPINCOUNT": "77"}
    environment |= {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("OMP_WAIT_POLICY", None)
    command = [sys.executable, "-c", IN_A_NEW_PROCESS]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["True", "True", "True", "0"]
    assert "GOMP_SPINCOUNT = '77'" in ran.stderr
