from __future__ import annotations

import numpy as np
import pytest

from promptreel.encoding.scaling import scale_clip
from promptreel.media import Clip


def scale(clip: Clip, width: int, height: int) -> np.ndarray:
    """All frames, uint8 [T, H, W, 3]."""
    return np.stack(list(scale_clip(clip, width, height).frames))


def gradient(width: int, height: int) -> Clip:
    """Red grows from left to right, green from top to bottom; blue identifies the frame."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    frames = [np.stack([red, green, np.full((height, width), 40.0 * index)], axis=-1) for index in range(4)]
    return Clip(np.stack(frames).round().astype(np.uint8), 8)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (512, 288), (288, 512), (48, 48), (1024, 8), (8, 1024), (97, 103)])
def test_clip_gets_exactly_the_size_that_was_asked(width, height):
    scaled = scale_clip(gradient(96, 96), width, height)

    assert (scaled.num_frames, scaled.height, scaled.width, scaled.fps) == (4, height, width, 8)
    for frame in scaled.frames:
        assert (frame.shape, frame.dtype) == ((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40), (17, 1, 254)]
)
@pytest.mark.parametrize("size", [(512, 512), (512, 288), (48, 40)])
def test_flat_colors_stay_as_they_are(color, size):
    clip = Clip(np.full((2, 96, 96, 3), color, np.uint8), 8)

    assert np.abs(scale(clip, *size).astype(int) - color).max() <= 1


def test_same_size_gives_the_same_clip():
    clip = gradient(96, 64)

    assert scale_clip(clip, 96, 64) is clip


def test_same_aspect_ratio_keeps_the_whole_picture():
    scaled = scale(gradient(96, 96), 512, 512)[0].astype(int)

    assert scaled[256, 0, 0] <= 3
    assert scaled[256, -1, 0] >= 252
    assert scaled[0, 256, 1] <= 3
    assert scaled[-1, 256, 1] >= 252


def test_wider_size_crops_top_and_bottom_around_the_center():
    """96x96 to 512x256 shows the middle half of the picture's height."""
    scaled = scale(gradient(96, 96), 512, 256)[0].astype(int)

    assert scaled[128, 0, 0] <= 3
    assert scaled[128, -1, 0] >= 252
    assert scaled[0, 256, 1] == pytest.approx(64, abs=3)
    assert scaled[-1, 256, 1] == pytest.approx(191, abs=3)


def test_taller_size_crops_left_and_right_around_the_center():
    scaled = scale(gradient(96, 96), 256, 512)[0].astype(int)

    assert scaled[0, 128, 1] <= 3
    assert scaled[-1, 128, 1] >= 252
    assert scaled[256, 0, 0] == pytest.approx(64, abs=3)
    assert scaled[256, -1, 0] == pytest.approx(191, abs=3)


def test_edges_are_smoothed_not_repeated():
    """Between black and white, bicubic scaling shows grays that a copy of pixels would not."""
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    frames[:, :, 8:] = 255
    scaled = scale(Clip(frames, 8), 128, 128)[0, 64, :, 0]

    assert np.all(np.diff(scaled[60:68].astype(int)) > 0)


def test_frames_keep_their_order():
    scaled = scale_clip(gradient(96, 96), 128, 128)

    assert [int(frame[64, 64, 2]) for frame in scaled.frames] == [0, 40, 80, 120]


def test_view_of_a_larger_array_scales_like_a_copy():
    """The decoder may hand over frames that are not contiguous in memory."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    view = Clip(frames[::2, ::-1, 8:56], 8)
    copy = Clip(view.frames.copy(), 8)

    assert np.array_equal(scale(view, 96, 128), scale(copy, 96, 128))


def test_each_frame_is_scaled_the_same_alone_and_in_a_clip():
    clip = Clip(np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8), 8)
    alone = [scale(Clip(clip.frames[index : index + 1], 8), 128, 96)[0] for index in range(5)]

    assert np.array_equal(scale(clip, 128, 96), np.stack(alone))


def test_frames_can_be_read_twice():
    """A gif needs them twice: for its palette, and for its frames."""
    scaled = scale_clip(gradient(96, 96), 128, 64)

    assert np.array_equal(np.stack(list(scaled.frames)), np.stack(list(scaled.frames)))
