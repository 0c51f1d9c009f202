from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.generation.compute import ComputeThreads
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import check_animatediff
from promptreel.generation.latent_previews import MOST_PREVIEWS, Previews, fit_colors, to_pixels
from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from promptreel.media import Clip
from promptreel.models.composition import ModelSet
from promptreel.models.registry import ModelRegistry
from recipes.cutout.world import SIZE, draw_frame, pick_scene, scaled
from tests.generation.conftest import CPU
from tests.generation.targets import SPACES, TINY, exact_model, sample, unit_noise
from tests.generation.test_animatediff import PARAMS, go_on
from tests.jobs.factories import Clock

SPACE = ModelSpace(SPACES["v"])
GREY = torch.cat([torch.zeros(4, 3), torch.full((1, 3), 0.5)])  # for latents of 4 channels


class Shown(list[Clip]):
    """What was shown, and when by the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.times = clock, []

    def __call__(self, clip: Clip) -> None:
        self.append(clip)
        self.times.append(self.clock().timestamp())


def offer_all(show: object, clock: Clock, *, calls: int, seconds_a_call: float) -> list[float]:
    """The seconds at which the calls of a job end; every one is offered."""
    previews = Previews(show, space=SPACE, colors=lambda: GREY, fps=8, seconds_apart=1.5, clock=lambda: clock().timestamp())
    ended = []
    for number in range(calls):
        clock.advance(seconds_a_call)
        ended.append(clock().timestamp())
        previews.offer(Call(torch.zeros(TINY), torch.tensor(500), number, calls), torch.zeros(TINY))
    return ended


def test_job_has_few_previews_and_none_of_its_last_call() -> None:
    for calls, seconds_a_call, expected in ((99, 10.0, MOST_PREVIEWS), (4, 10.0, 3), (50, 0.4, 10), (50, 0.1, 3), (10, 0.1, 0)):
        clock = Clock()
        shown = Shown(clock)
        ended = offer_all(shown, clock, calls=calls, seconds_a_call=seconds_a_call)

        assert len(shown) == expected, (calls, seconds_a_call)
        assert ended[-1] not in shown.times
        assert all(np.diff([ended[0] - seconds_a_call, *shown.times]) >= 1.5 - 1e-3)


def test_error_of_a_preview_is_logged_once_and_ends_previews_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fail(clip: Clip) -> None:
        raise OSError("the disk is full")

    offer_all(fail, Clock(), calls=20, seconds_a_call=5)

    assert [record.message for record in caplog.records] == ["a preview could not be made, and there are no more of this job"]
    assert "the disk is full" in caplog.text


def test_preview_shows_the_clean_clip_from_the_first_call_on() -> None:
    """A model that knows only one clip predicts it from any noise."""
    clip, colors = torch.rand(TINY), torch.cat([torch.eye(4)[:, :3], torch.zeros(1, 3)])
    model = exact_model(SPACE, lambda _latents, _sigma: clip)
    _, calls = sample("HeunDiscreteScheduler", SPACE, 5, model, noise=unit_noise(TINY))
    shown = Shown(Clock())
    previews = Previews(shown, space=SPACE, colors=lambda: colors, fps=8, seconds_apart=0)
    for call in calls:
        previews.offer(call, model(call))

    expected = to_pixels(clip, colors).numpy().astype(int)
    assert len(shown) == 8
    assert max(int(np.abs(preview.frames - expected).max()) for preview in shown) <= 1


def test_colors_of_a_linear_encoder_are_found_exactly() -> None:
    mixing = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))

    def encode(frames: Tensor) -> Tensor:
        pooled = adaptive_avg_pool2d(frames.permute(0, 3, 1, 2).float() / 255, (8, 8))
        return torch.einsum("tchw,cd->dthw", pooled - 0.3, mixing)[None]

    colors = fit_colors(encode)
    picture = torch.randint(0, 256, (2, 8, 8, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)

    assert colors.shape == (5, 3)
    assert int((to_pixels(encode(picture), colors).int() - picture.int()).abs().max()) <= 1


def test_colors_of_the_built_in_model_fit_its_world() -> None:
    registry = ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=Path("none"))
    checkpoint = check_animatediff(ModelSet(checkpoint=registry.get("cutout")), CPU, ComputeThreads()).load()
    rng = random.Random(3)
    drawn = np.stack([draw_frame(pick_scene(rng), 0, 1) for _ in range(24)])
    frames = torch.from_numpy(scaled(drawn, checkpoint.card.native_width or SIZE))

    pixels = to_pixels(checkpoint.encode(frames), checkpoint.colors).double()

    small = adaptive_avg_pool2d(frames.permute(0, 3, 1, 2).double(), (12, 12)).permute(0, 2, 3, 1)
    unexplained = float(((small - pixels) ** 2).sum() / ((small - small.mean((0, 1, 2))) ** 2).sum())
    assert unexplained < 0.3


def test_previews_do_not_change_the_clip(models: ModelRegistry) -> None:
    engine = Engine(models, CPU, preview_seconds=0)
    params = replace(PARAMS, scheduler="EulerAncestralDiscreteScheduler")
    shown = Shown(Clock())
    frames = engine.generate(params, go_on, on_preview=shown).clip.frames

    assert np.array_equal(engine.generate(params, go_on).clip.frames, frames)
    assert [clip.frames.shape for clip in shown] == [(6, 12, 16, 3)] * 3
    assert {clip.fps for clip in shown} == {params.fps}
