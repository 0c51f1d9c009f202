from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from promptreel.generation.compute import ComputeThread, serial_arithmetic
from promptreel.generation.engine import Engine
from tests.generation.test_animatediff import PARAMS, go_on


def in_new_thread(work: object) -> object:
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()


def test_all_work_runs_in_one_thread_whoever_asks() -> None:
    compute = ComputeThread()

    idents = {compute.run(threading.get_ident), in_new_thread(lambda: compute.run(threading.get_ident))}

    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_work_may_ask_for_more() -> None:
    compute = ComputeThread()

    assert compute.run(lambda: compute.run(lambda: 3)) == 3


def test_error_of_the_work_reaches_who_asked() -> None:
    compute = ComputeThread()

    with pytest.raises(KeyError):
        compute.run(lambda: {}["absent"])
    assert compute.run(lambda: 3) == 3


def test_compute_thread_has_its_own_number_of_threads() -> None:
    compute = ComputeThread(3)

    assert compute.run(torch.get_num_threads) == 3
    assert torch.get_num_threads() == 1


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


def test_networks_of_all_jobs_run_in_one_thread(engine: Engine) -> None:
    checkpoint = engine.load("tiny")
    seen: set[int] = set()
    for network in (checkpoint.unet, checkpoint.vae.decoder, checkpoint.prompts.text_encoder):
        network.register_forward_pre_hook(lambda _network, _args: seen.add(threading.get_ident()))

    engine.generate(PARAMS, go_on)
    with ThreadPoolExecutor(2) as jobs:
        list(jobs.map(lambda seed: engine.generate(replace(PARAMS, seed=seed, prompt=f"cat {seed}"), go_on), [1, 2]))

    assert seen == {engine.compute.run(threading.get_ident)}


HELPERS = """
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

engine = Engine(ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=Path("none")), Device("cpu", torch.float32), threads=3)

def count_helpers():
    # Of the threads that there are, those that Python does not know.
    return len(os.listdir("/proc/self/task")) - threading.active_count()

checkpoint = engine.load("cutout")
with serial_arithmetic():
    checkpoint.decode(torch.zeros(checkpoint.latent_shape(12, 96, 96)))
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


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux lists them")
def test_only_the_compute_thread_has_helpers() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1"}
    counted = subprocess.run([sys.executable, "-c", HELPERS], env=environment, capture_output=True, text=True, check=True)

    assert counted.stdout.split() == ["True", "0"]
