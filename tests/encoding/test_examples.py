"""Examples as a trainer gets them."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from promptreel.encoding.decoder import Decoder
from promptreel.encoding.examples import fit_area, write_lossless
from promptreel.errors import InitUnusable
from promptreel.media import ExampleShape, Init
from tests.encoding.files import encode_image, encode_video, make_bars, make_greys

SHAPE = ExampleShape(pixels=64 * 64, num_frames=4, most_frames=16, fps=8)


def read_picture(init: Init) -> np.ndarray:
    assert (init.kind, init.ending) == ("image", "png")
    picture = Image.open(io.BytesIO(init.data))
    assert picture.mode == "RGB"
    return np.asarray(picture)


def read_clip(init: Init) -> np.ndarray:
    assert (init.kind, init.ending) == ("video", "mp4")
    with av.open(io.BytesIO(init.data)) as container:
        assert container.streams.video[0].average_rate == SHAPE.fps
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_picture_keeps_its_pixels_upright_and_in_its_own_shape(decoder: Decoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it
    turned = encode_image(np.ascontiguousarray(np.rot90(make_bars(64, 48))), exif=exif.tobytes())

    assert (read_picture(decoder.make_example(Init("image", "png", turned), SHAPE)) == make_bars(64, 48)).all()


def test_transparent_parts_become_white(decoder: Decoder) -> None:
    clear = np.zeros((40, 40, 4), np.uint8)
    clear[:20] = (200, 30, 30, 255)
    made = read_picture(decoder.make_example(Init("image", "png", encode_image(clear)), SHAPE))

    assert (made[0, 0].tolist(), made[-1, -1].tolist()) == ([200, 30, 30], [255, 255, 255])


def test_large_picture_is_scaled_down_to_four_times_the_area(decoder: Decoder) -> None:
    large = encode_image(make_bars(1024, 512))

    assert read_picture(decoder.make_example(Init("image", "png", large), SHAPE)).shape == (91, 181, 3)


def test_clip_is_resampled_and_cut_and_loses_nothing(decoder: Decoder) -> None:
    source = encode_video(make_greys(20, 64), fps=16)  # each second frame is of the rate asked
    clip = read_clip(decoder.make_example(Init("video", "mp4", source), SHAPE))
    assert clip.shape == (10, 64, 64, 3)
    assert np.abs(clip[:, 0, 0, 0].astype(int) - make_greys(20)[::2, 0, 0, 0]).max() <= 3

    long = encode_video(make_greys(20, 64), fps=4)  # five seconds
    assert len(read_clip(decoder.make_example(Init("video", "mp4", long), SHAPE))) == 16


@pytest.mark.parametrize(
    ("shown", "size"), [((64, 64), (64, 64)), ((1920, 1080), (88, 48)), ((1080, 1920), (48, 88)), ((4000, 100), (88, 48))]
)
def test_area_is_kept_in_the_proportions_of_the_clip(shown: tuple[int, int], size: tuple[int, int]) -> None:
    assert fit_area(shown, SHAPE) == size


def test_turned_clip_is_as_wide_as_players_show_it(decoder: Decoder) -> None:
    source = encode_video(np.repeat(make_bars(128, 72)[None], 8, axis=0), fps=8, rotation=90)

    assert read_clip(decoder.make_example(Init("video", "mp4", source), SHAPE)).shape == (8, 88, 48, 3)


def test_lossless_clip_decodes_to_the_very_frames(decoder: Decoder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    data = write_lossless([(noise[0], 1), (noise[1], 2), (noise[2], 1)], size=(64, 48), fps=8)
    clip = decoder.decode(Init("video", "mp4", data), num_frames=4, fps=8, width=64, height=48)

    assert (clip.frames == noise[[0, 1, 1, 2]]).all()
    assert data == write_lossless([(noise[0], 1), (noise[1], 1), (noise[1], 1), (noise[2], 1)], size=(64, 48), fps=8)


@pytest.mark.parametrize(
    ("init", "why"),
    [
        (Init("video", "mp4", encode_video(make_greys(3, 64), fps=8)), "too short: it takes 0.38 s, and 0.5 s are needed"),
        (Init("image", "png", encode_image(make_bars(64, 16))), "at least 32 pixels a side, not 64x16"),
        (Init("image", "png", encode_image(make_bars(64, 48))[:100]), "cannot be decoded"),
        (Init("video", "mp4", b"\0\0\0\x18ftypmp42" + b"\0" * 64), "cannot be decoded"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(decoder: Decoder, init: Init, why: str) -> None:
    with pytest.raises(InitUnusable, match=why):
        decoder.make_example(init, SHAPE)
