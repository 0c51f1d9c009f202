from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from promptreel.errors import CheckpointUnusable, InvalidParams, JobCancelled, ModelNotFound
from promptreel.generation.devices import choose_cuda_format, pick_device
from promptreel.generation.engine import Engine
from promptreel.jobs.job import JobStage
from promptreel.models.registry import ModelRegistry
from tests.generation.checkpoints import MAX_FRAMES, make_tiny_checkpoint
from tests.generation.conftest import CPU
from tests.generation.test_animatediff import PARAMS, go_on


def engine_on(root: Path) -> Engine:
    return Engine(ModelRegistry(built_in=root, models_dir=root / "none"), CPU)


def count_rows(engine: Engine, model_id: str = "tiny") -> list[int]:
    """Filled with the number of rows of each call to the model, as the model itself sees them."""
    rows: list[int] = []
    engine.load(model_id).unet.register_forward_pre_hook(lambda _unet, args: rows.append(len(args[0])))
    return rows


@pytest.mark.slow
def test_equal_seeds_give_equal_frames(engine: Engine) -> None:
    for scheduler in ("DDPMScheduler", "UniPCMultistepScheduler", "KDPM2AncestralDiscreteScheduler"):
        params = replace(PARAMS, scheduler=scheduler)
        frames = engine.generate(params, go_on).clip.frames

        assert np.array_equal(engine.generate(params, go_on).clip.frames, frames)
        assert not np.array_equal(engine.generate(replace(params, seed=12), go_on).clip.frames, frames)


def test_clip_does_not_depend_on_what_was_made_before(engine: Engine, models: ModelRegistry) -> None:
    frames = Engine(models, CPU).generate(PARAMS, go_on).clip.frames
    engine.generate(replace(PARAMS, prompt="a dog", seed=1), go_on)
    engine.generate(replace(PARAMS, model_id="tiny-v"), go_on)
    torch.manual_seed(5)

    assert np.array_equal(engine.generate(PARAMS, go_on).clip.frames, frames)


def test_prompt_negative_prompt_and_guidance_all_matter(engine: Engine) -> None:
    frames = engine.generate(PARAMS, go_on).clip.frames

    for changed in ({"prompt": "a blue dog"}, {"negative_prompt": "sharp"}, {"guidance_scale": 9.0}):
        assert not np.array_equal(engine.generate(replace(PARAMS, **changed), go_on).clip.frames, frames), changed


def test_guidance_doubles_the_rows_and_guidance_of_1_does_not(engine: Engine) -> None:
    rows = count_rows(engine)
    engine.generate(PARAMS, go_on)
    engine.generate(replace(PARAMS, guidance_scale=1.0), go_on)

    assert rows == [1] * 2 * 4 + [1] * 4


def test_guidance_of_1_leaves_the_negative_prompt_out(engine: Engine) -> None:
    one, other = (replace(PARAMS, guidance_scale=1.0, negative_prompt=text) for text in ("blurry", "sharp"))

    assert np.array_equal(engine.generate(one, go_on).clip.frames, engine.generate(other, go_on).clip.frames)


def test_progress_goes_through_the_stages_in_order(engine: Engine) -> None:
    told: list[tuple[JobStage, float]] = []
    engine.generate(PARAMS, lambda stage, share: told.append((stage, share)))

    denoising = [(JobStage.DENOISING, number / 4) for number in range(4)]
    assert [now for now, _again in groupby(told)] == [(JobStage.LOADING, 0.0), *denoising, (JobStage.DECODING, 0.0)]


def test_error_in_progress_stops_the_job_between_two_calls(engine: Engine) -> None:
    rows = count_rows(engine)

    def cancel_at_third_call(stage: JobStage, share: float) -> None:
        if stage is JobStage.DENOISING and share >= 2 / 4:
            raise JobCancelled("somebody asked")

    with pytest.raises(JobCancelled, match="somebody asked"):
        engine.generate(PARAMS, cancel_at_third_call)
    assert len(rows) == 2 * 2
    assert engine.generate(PARAMS, go_on).clip.num_frames == 6  # the engine is none the worse


def test_clip_has_the_models_native_size(engine: Engine) -> None:
    clip = engine.generate(replace(PARAMS, model_id="tiny-32", width=64, height=48), go_on).clip

    assert (clip.width, clip.height) == (32, 32)


def test_card_that_claims_more_frames_than_the_motion_modules_carry_fails_by_name(engine: Engine) -> None:
    with pytest.raises(
        CheckpointUnusable, match=f"says {MAX_FRAMES + 1} max_frames, but the motion adapter supports {MAX_FRAMES}"
    ):
        engine.generate(replace(PARAMS, model_id="tiny-wrong", num_frames=MAX_FRAMES + 1), go_on)


def test_unknown_model_is_not_found(engine: Engine) -> None:
    with pytest.raises(ModelNotFound):
        engine.generate(replace(PARAMS, model_id="midjourney"), go_on)


def test_unknown_family_is_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path / "tiny", family="ltx")

    with pytest.raises(CheckpointUnusable, match="is of family 'ltx'"):
        engine_on(tmp_path).load("tiny")


def test_checkpoint_without_motion_adapter_is_refused(tmp_path: Path) -> None:
    """diffusers would fill it with random motion modules, without a word."""
    shutil.rmtree(make_tiny_checkpoint(tmp_path / "tiny") / "motion_adapter")

    with pytest.raises(InvalidParams, match="no motion adapter, so nothing would move"):
        engine_on(tmp_path).load("tiny")


def test_checkpoint_is_kept_until_another_is_asked_for(engine: Engine) -> None:
    first = engine.load("tiny")

    assert engine.load("tiny") is first
    assert engine.load("tiny-32").card.model_id == "tiny-32"
    assert engine.load("tiny") is not first


def test_model_hash_tells_checkpoints_apart(engine: Engine) -> None:
    hashes = {engine.load(model_id).model_hash for model_id in ("tiny", "tiny-v", "tiny-32")}

    assert len(hashes) == 2  # tiny-32 differs from tiny in its card alone


def test_measured_rate_is_seconds_a_frame_and_row(engine: Engine) -> None:
    rows = count_rows(engine, "tiny-32")
    rate = engine.measure("tiny-32")

    assert 0 < rate < 1
    assert rows == [1] * 2 * 2  # the second call is measured


def test_device_is_the_cpu_where_it_is_asked_for() -> None:
    device = pick_device("cpu")

    assert device.name == "cpu"
    assert device.dtype in {torch.float32, torch.bfloat16}
    assert str(device) in {"cpu (float32)", "cpu (bfloat16)"}


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (7, 5)])
def test_cards_before_ampere_compute_in_fp16(capability: tuple[int, int]) -> None:
    """They only emulate bf16, though torch counts that as support."""
    assert choose_cuda_format(capability, is_amd=False) is torch.float16


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
def test_cards_from_ampere_on_compute_in_bf16(capability: tuple[int, int]) -> None:
    assert choose_cuda_format(capability, is_amd=False) is torch.bfloat16
