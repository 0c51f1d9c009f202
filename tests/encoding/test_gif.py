from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptreel.encoding.video import encode
from promptreel.media import Clip, Video
from tests.encoding.clips import make_flat, make_gradient, make_noise, make_scene, measure_psnr, play

HAS_PALETTE = 0x80  # in the flags of the file, and in those of a frame
IMAGE, EXTENSION = 0x2C, 0x21


def encode_gif(clip: Clip, path: Path) -> Video:
    return encode(clip, path, output_type="gif", metadata={"seed": 7})


def blend(frames: np.ndarray) -> np.ndarray:
    """A small blur, as the eye sees it from a distance."""
    blended = frames.astype(float)
    for axis in (1, 2):
        blended = (np.roll(blended, 1, axis) + 2 * blended + np.roll(blended, -1, axis)) / 4
    return blended


def palette_end(flags: int, start: int) -> int:
    return start + 3 * 2 ** ((flags & 7) + 1) if flags & HAS_PALETTE else start


def frame_flags(data: bytes) -> list[int]:
    """The flags of each frame, by walking over the blocks of the file."""
    found, position = [], palette_end(data[10], 13)
    while data[position] in {IMAGE, EXTENSION}:
        if data[position] == IMAGE:
            found.append(data[position + 9])
            position = palette_end(found[-1], position + 10) + 1
        else:
            position += 2
        while data[position]:
            position += 1 + data[position]
        position += 1
    return found


@pytest.mark.parametrize(
    ("fps", "delays"), [(8, [13, 12, 13, 12, 13, 12]), (30, [3, 4, 3, 3, 4, 3]), (12, [8, 9, 8, 8, 9, 8]), (1, [100] * 6)]
)
def test_delays_alternate_so_that_the_length_is_right(tmp_path: Path, fps: int, delays: list[int]) -> None:
    """Read by Pillow: browsers play the delay of each frame, including the last."""
    encode_gif(make_scene(6, fps=fps), tmp_path / "a.gif")

    with Image.open(tmp_path / "a.gif") as image:
        read = []
        for index in range(image.n_frames):
            image.seek(index)
            read.append(image.info["duration"] // 10)
    assert read == delays


def test_gif_loops_forever_and_holds_the_metadata_as_a_comment(tmp_path: Path) -> None:
    encode_gif(make_scene(), tmp_path / "a.gif")

    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0
        image.seek(image.n_frames - 1)
        assert image.n_frames == 12
    data = (tmp_path / "a.gif").read_bytes()
    assert data.endswith(b'\x21\xfe\x0b{"seed": 7}\x00\x3b')


def test_one_palette_serves_all_frames(tmp_path: Path) -> None:
    """The palette holds colors that only later frames have, and no frame has its own."""
    clip = Clip(np.stack([np.full((32, 32, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0), (9, 90, 200))]), 8)
    encode_gif(clip, tmp_path / "a.gif")

    assert np.array_equal(play(tmp_path / "a.gif").frames, clip.frames)
    data = (tmp_path / "a.gif").read_bytes()
    assert data[10] & HAS_PALETTE
    assert [flags & HAS_PALETTE for flags in frame_flags(data)] == [0, 0, 0]


def test_dithered_gradient_blends_closer_than_the_nearest_colors_would(tmp_path: Path) -> None:
    """Without dithering this clip blends to 27.5 dB."""
    clip = make_gradient()
    encode_gif(clip, tmp_path / "a.gif")

    frames = play(tmp_path / "a.gif").frames
    assert measure_psnr(Clip(blend(clip.frames).round().astype(np.uint8), 8), blend(frames)) > 29


def test_what_stands_still_does_not_flicker(tmp_path: Path) -> None:
    """Error diffusion would carry a moving dot's traces down over the whole gradient below it."""
    frames = np.repeat(make_gradient(1).frames, 8, axis=0)
    for index in range(8):
        frames[index, 4:10, 10 + 8 * index : 16 + 8 * index] = (255, 255, 255)
    encode_gif(Clip(frames, 8), tmp_path / "a.gif")

    still = play(tmp_path / "a.gif").frames[:, 20:]
    assert all(np.array_equal(one, other) for one, other in pairwise(still))


@pytest.mark.parametrize(("width", "height"), [(65, 64), (64, 65), (33, 17), (1, 1)])
def test_odd_and_small_sizes_come_back_as_they_are(tmp_path: Path, width: int, height: int) -> None:
    clip = make_flat((200, 120, 40), width=width, height=height)
    encode_gif(clip, tmp_path / "a.gif")

    assert np.array_equal(play(tmp_path / "a.gif").frames, clip.frames)


def test_noise_of_all_colors_is_written(tmp_path: Path) -> None:
    encode_gif(make_noise(), tmp_path / "a.gif")

    assert play(tmp_path / "a.gif").frames.shape == (12, 64, 96, 3)
