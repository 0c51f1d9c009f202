"""Each way to spoil a clip worsens the measure that it is meant for."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from recipes.cutout.looks import Looks, look_at, mean
from recipes.cutout.world import SIZE, draw_clip, pick_scene, scaled


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = random.Random("looks")
    return [draw_clip(pick_scene(rng), 6) for _ in range(6)]


def looks_of(clips: list[np.ndarray], spoil: Callable[[np.ndarray], np.ndarray] = lambda clip: clip) -> Looks:
    return mean([look_at(spoil(clip)) for clip in clips])


def blurred(clip: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius))) for frame in clip])


def dirtied(clip: np.ndarray, levels: float, *, patterns: int = 1) -> np.ndarray:
    """Adds soft blotches: the same in all frames, or one pattern for each frame."""
    random_numbers = np.random.default_rng(0)
    small = random_numbers.normal(0, levels, (patterns, 24, 24, 3))
    blotches = np.stack(
        [
            np.stack(
                [np.asarray(Image.fromarray(part.astype(np.float32)).resize((SIZE, SIZE))) for part in one.transpose(2, 0, 1)],
                -1,
            )
            for one in small
        ]
    )
    return np.clip(clip + blotches, 0, 255).round().astype(np.uint8)


def test_blur_lowers_sharpness(clips: list[np.ndarray]) -> None:
    sharpness = [looks_of(clips).sharpness] + [looks_of(clips, lambda c, r=r: blurred(c, r)).sharpness for r in (0.7, 1.5, 3)]

    assert sharpness == sorted(sharpness, reverse=True)
    assert sharpness[0] > 0.6
    assert sharpness[-1] < 0.2


def test_clip_of_half_size_is_less_sharp(clips: list[np.ndarray]) -> None:
    assert looks_of(clips, lambda clip: scaled(clip, SIZE // 2)).sharpness < 0.6 * looks_of(clips).sharpness


def test_still_blotches_raise_only_dirt(clips: list[np.ndarray]) -> None:
    drawn = looks_of(clips)
    dirty = [looks_of(clips, lambda c, levels=levels: dirtied(c, levels)) for levels in (2, 4, 8)]

    dirt = [drawn.dirt, *(looks.dirt for looks in dirty)]
    assert dirt == sorted(dirt)
    assert dirt[1] > 2 * drawn.dirt
    assert all(looks.sharpness > 0.9 * drawn.sharpness and looks.flicker < drawn.flicker + 0.1 for looks in dirty)


def test_changing_blotches_raise_flicker(clips: list[np.ndarray]) -> None:
    drawn = looks_of(clips)
    flicker = [looks_of(clips, lambda c, levels=levels: dirtied(c, levels, patterns=6)).flicker for levels in (1, 2, 4)]

    assert drawn.flicker < 0.2
    assert [drawn.flicker, *flicker] == sorted([drawn.flicker, *flicker])
    assert flicker[0] > 5 * drawn.flicker
