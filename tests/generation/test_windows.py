"""Clips longer than the motion modules carry: which windows there are, how they are blended, and what comes of it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import promptreel
from promptreel.errors import JobCancelled
from promptreel.generation.batching import StepBatcher
from promptreel.generation.devices import pick_device
from promptreel.generation.engine import Engine
from promptreel.generation.families.family import Conditioning, Rows
from promptreel.generation.families.windows import draw_noise, plan_windows, predict_in_windows
from promptreel.generation.row_plan import RowPlan
from promptreel.jobs.job import JobStage
from promptreel.jobs.params import VideoParams
from promptreel.jobs.window_counts import SPREAD_SHARE, frames_computed
from promptreel.models.registry import ModelRegistry
from tests.generation.checkpoints import MAX_FRAMES
from tests.generation.test_animatediff import PARAMS, go_on
from tests.generation.test_batching import meet_before_the_first_step

BUILT_IN_MODELS = Path(promptreel.__file__).parent / "models" / "built_in"
LENGTHS = [(41, 40), (88, 40), (120, 40), (240, 40), (240, 16), (239, 7), (3, 2), (240, 1)]
LONG = 40  # frames: two and a half times what the tiny model carries


def make_rows(engine: Engine, latents: Tensor, timestep: float) -> Rows:
    return Rows(
        engine.load("tiny"),
        latents,
        torch.full((len(latents),), timestep),
        Conditioning({"text": torch.zeros(len(latents), 77, 16)}),
        remaining=3,
    )


def number_frames(count: int) -> Tensor:
    """Latents [1, 4, T, 2, 2] that say which frame they are."""
    return torch.arange(float(count)).view(1, 1, count, 1, 1).expand(1, 4, count, 2, 2)


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize(("num_frames", "max_frames"), LENGTHS)
def test_every_frame_is_seen_and_its_weights_add_up_to_one(num_frames: int, max_frames: int, spread: bool) -> None:
    windows = plan_windows(num_frames, max_frames, spread=spread)

    total = torch.zeros(num_frames)
    for window in windows:
        assert len(window.frames) == max_frames
        assert (window.frames.diff() > 0).all()
        total[window.frames] += window.weights
    assert torch.allclose(total, torch.ones(num_frames))


@pytest.mark.parametrize(("num_frames", "max_frames"), LENGTHS)
def test_estimates_count_the_frames_that_are_planned(num_frames: int, max_frames: int) -> None:
    spread, runs = (len(plan_windows(num_frames, max_frames, spread=kind)) * max_frames for kind in (True, False))

    assert frames_computed(num_frames, max_frames) == pytest.approx(SPREAD_SHARE * spread + (1 - SPREAD_SHARE) * runs)
    assert frames_computed(max_frames, max_frames) == max_frames


@pytest.mark.parametrize(("num_frames", "max_frames"), LENGTHS)
def test_spread_windows_reach_from_end_to_end_in_even_steps(num_frames: int, max_frames: int) -> None:
    step = num_frames / max_frames
    for window in plan_windows(num_frames, max_frames, spread=True):
        places = (torch.arange(max_frames) + 0.5) * step
        assert (window.frames + 0.5 - places).abs().max() <= step / 2 + 0.5


@pytest.mark.parametrize(("num_frames", "max_frames"), LENGTHS)
def test_no_run_takes_over_from_its_neighbour_at_once(num_frames: int, max_frames: int) -> None:
    windows = plan_windows(num_frames, max_frames, spread=False)
    for window, following in pairwise(windows):
        assert len(set(window.frames.tolist()) & set(following.frames.tolist())) >= max_frames // 2
        assert (window.frames.diff() == 1).all()
    for window in windows:
        parts = torch.zeros(num_frames)
        parts[window.frames] = window.weights
        assert parts.diff().abs().max() <= 3 / max_frames


def test_much_noise_is_seen_through_the_whole_clip_and_little_through_runs(engine: Engine) -> None:
    seen: list[list[float]] = []

    def forward(rows: Rows) -> Tensor:
        seen.append(rows.latents[0, 0, :, 0, 0].tolist())
        return rows.latents

    for timestep in (999.0, 100.0):
        rows = make_rows(engine, number_frames(LONG), timestep)
        assert torch.allclose(predict_in_windows(rows, forward, lambda _share: None), rows.latents, atol=1e-4)

    assert [frames[-1] - frames[0] for frames in seen] == [37] * 3 + [MAX_FRAMES - 1] * 4


def test_forwards_that_are_left_and_windows_that_are_done_are_told(engine: Engine) -> None:
    left, shares = [], []

    def forward(rows: Rows) -> Tensor:
        left.append(rows.remaining)
        return rows.latents

    def stop_at_third(share: float) -> None:
        shares.append(share)
        if share >= 0.5:
            raise JobCancelled("enough")

    rows = make_rows(engine, number_frames(LONG), 100.0)
    with pytest.raises(JobCancelled):
        predict_in_windows(rows, forward, stop_at_third)
    assert (left, shares) == ([12, 11], [0.0, 0.25, 0.5])


def test_noise_of_a_short_clip_is_the_seeds_own(engine: Engine) -> None:
    shape = (1, 4, 16, 3, 2)

    drawn = draw_noise(shape, 16, torch.Generator().manual_seed(5))

    assert torch.equal(drawn, torch.randn(shape, generator=torch.Generator().manual_seed(5)))


def test_noise_of_a_long_clip_has_unit_variance_and_is_alike_at_one_place_of_all_spread_windows() -> None:
    noise = draw_noise((1, 4, 120, 32, 32), 40, torch.Generator().manual_seed(5))[0].transpose(0, 1).flatten(1)
    first, middle, last = (noise[window.frames] for window in plan_windows(120, 40, spread=True))

    assert noise.std(1).sub(1).abs().max() < 0.05
    assert (first * middle).mean(1).min() > 0.7
    assert (middle * last).mean(1).min() > 0.7
    assert (middle[1:] * middle[:-1]).mean(1).max() < 0.6


@pytest.mark.slow
def test_long_clip_is_made_of_windows_and_equal_seeds_give_equal_frames(engine: Engine) -> None:
    lengths: list[int] = []
    engine.load("tiny").unet.register_forward_pre_hook(lambda _unet, args: lengths.append(args[0].shape[2]))
    told: list[float] = []
    params = replace(PARAMS, num_frames=LONG, scheduler="EulerAncestralDiscreteScheduler", num_inference_steps=3)

    clip = engine.generate(params, lambda stage, share: told.append(share) if stage is JobStage.DENOISING else None).clip

    assert clip.frames.shape == (LONG, 24, 32, 3)
    assert set(lengths) == {MAX_FRAMES}
    assert told == sorted(told)
    assert 2 * len(told) == len(lengths)  # a guided call's two rows
    assert len(told) > 3 * 3
    assert np.array_equal(engine.generate(params, go_on).clip.frames, clip.frames)
    assert not np.array_equal(engine.generate(replace(params, seed=1), go_on).clip.frames, clip.frames)


@pytest.mark.slow
def test_windows_of_a_long_clip_share_forwards_with_a_clip_of_their_length(engine: Engine) -> None:
    """That both keep their bytes is seen in test_batching.py."""
    engine.batcher = StepBatcher(lambda _forward: RowPlan((2, 4)), grace_seconds=60)
    requests = [replace(PARAMS, num_frames=LONG), replace(PARAMS, num_frames=MAX_FRAMES, num_inference_steps=14)]
    together = threading.Barrier(2)
    rows: list[int] = []
    engine.load("tiny").unet.register_forward_pre_hook(lambda _unet, args: rows.append(len(args[0])))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda params: engine.generate(params, meet_before_the_first_step(together)), requests))

    assert rows.count(4) == 14


@pytest.mark.slow
def test_long_clip_has_no_jump_where_windows_meet_and_stays_in_one_place() -> None:
    """The prompt says nothing of a place: with windows that do not agree, it begins at sea and ends at night."""
    engine = Engine(ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=BUILT_IN_MODELS / "none"), pick_device("cpu"))
    params = VideoParams(model_id="cutout", prompt="a blue bird flying", num_frames=80, num_inference_steps=6, seed=7)

    frames = engine.generate(params, go_on).clip.frames.astype(float)

    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    windows = plan_windows(80, 40, spread=False)
    borders = sorted({int(frame) for window in windows for frame in (window.frames[0] - 1, window.frames[-1])} - {-1, 79})
    usual = np.delete(changes, borders)
    assert borders == [19, 39, 59]
    assert changes[borders].max() <= 1.5 * np.percentile(usual, 95)
    first, last = np.median(frames[:20], 0), np.median(frames[-20:], 0)
    assert np.median(np.abs(first - last)) < 30
