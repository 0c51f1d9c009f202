from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptreel.encoding.preview_webp import encode_preview
from promptreel.media import Clip
from tests.encoding.clips import make_noise, make_scene


def read(path: Path) -> tuple[np.ndarray, list[int]]:
    """Frames, uint8 [T, H, W, 3], and the milliseconds that each is shown."""
    with Image.open(path) as picture:
        assert picture.format == "WEBP"
        frames, shown = [], []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
            shown.append(picture.info["duration"])
        assert picture.info["loop"] == 0  # forever
        return np.stack(frames), shown


@pytest.mark.parametrize(("num_frames", "fps", "kept"), [(40, 8, 16), (17, 5, 16), (16, 16, 16), (3, 30, 3)])
def test_preview_takes_as_long_as_the_clip_with_few_frames(tmp_path: Path, num_frames: int, fps: int, kept: int) -> None:
    encode_preview(make_noise(num_frames, 12, 12, fps), tmp_path / "p.webp", width=64, height=64)
    frames, shown = read(tmp_path / "p.webp")

    assert len(frames) == kept
    assert sum(shown) == round(1000 * num_frames / fps)
    assert max(shown) <= 2 * min(shown) + 1


@pytest.mark.parametrize(
    ("width", "height", "small"), [(512, 512, (160, 160)), (1024, 576, (90, 160)), (64, 1024, (160, 10)), (96, 64, (64, 96))]
)
def test_preview_is_small_and_has_the_aspect_of_the_video(
    tmp_path: Path, width: int, height: int, small: tuple[int, int]
) -> None:
    encode_preview(make_noise(2, 12, 12), tmp_path / "p.webp", width=width, height=height)

    assert read(tmp_path / "p.webp")[0].shape == (2, *small, 3)


def test_preview_shows_the_clip_in_its_order(tmp_path: Path) -> None:
    scene = make_scene(num_frames=12, size=96)
    video = encode_preview(scene, tmp_path / "p.webp", width=96, height=96)
    frames, _ = read(tmp_path / "p.webp")

    assert np.abs(frames.astype(int) - scene.frames).mean() < 4
    assert (video.media_type, video.size_bytes) == ("image/webp", (tmp_path / "p.webp").stat().st_size)
    assert video.size_bytes < 20_000


def test_still_clip_is_a_preview_too(tmp_path: Path) -> None:
    encode_preview(Clip(np.zeros((1, 4, 4, 3), np.uint8), 8), tmp_path / "p.webp", width=64, height=64)

    with Image.open(tmp_path / "p.webp") as picture:
        assert picture.size == (64, 64)
