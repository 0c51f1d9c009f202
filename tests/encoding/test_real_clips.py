"""Videos as phones, cameras, browsers and programs make them: each comes out as players show it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

from promptreel.encoding.decoder import Decoder
from promptreel.encoding.decoding import check_init, decode_init
from promptreel.encoding.inits import read_init
from promptreel.media import Init
from tests.encoding.quarters import (
    COLOURS,
    HEIGHT,
    MATRICES,
    TO_BT2020,
    TO_P3,
    WHITE,
    WIDTH,
    as_stored,
    encode,
    lay,
    make_quarters,
    read_quarters,
    retag,
    save,
    to_frame,
    to_hlg,
    to_light,
    to_pq,
    video,
)

PICTURE = make_quarters()
HD = make_quarters(width=1280, height=720)
LIGHT = to_light(PICTURE.astype(float))
NITS = 203 * (LIGHT @ TO_BT2020.T)
# Players roll highlights off differently, but keep hue and saturation.
HDR = 24
CODEC = 10
Build = Callable[[], bytes]


def wide(signal: np.ndarray, primaries: int, transfer: int, matrix: int = 9) -> bytes:
    frames = [to_frame(np.clip(signal, 0, 1), matrix=matrix, bits=10)]
    return encode(frames, tags=(primaries, transfer, matrix))


def squeezed(aspect: Fraction, **more: object) -> bytes:
    """`PICTURE`, 3:2, stored with this pixel aspect ratio."""
    return video(make_quarters(width=int(96 / aspect), height=64), aspect=aspect, **more)


def lying(orientation: int, aspect: Fraction | None = None) -> bytes:
    return lay(video(as_stored(PICTURE, orientation), aspect=aspect), MATRICES[orientation])


def hevc(**more: object) -> bytes:
    return video(codec="libx265", options={"x265-params": "log-level=none:crf=4:bframes=0:frame-threads=1:pools=none"}, **more)


def webm(codec: str, **options: str) -> bytes:
    return video(ending="webm", codec=codec, options={"b": "4M", **options})


def gif(hole: bool = False) -> bytes:
    from PIL import Image  # noqa: PLC0415

    hidden = make_quarters([(*COLOURS[0], 0), *((*colour, 255) for colour in COLOURS[1:])])
    frames = [Image.fromarray(hidden if hole else PICTURE) for _ in range(2)]
    return save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100, disposal=2)


def without_tkhd_size(mp4: bytes) -> bytes:
    at = mp4.index(b"tkhd") + 80
    return mp4[:at] + bytes(8) + mp4[at + 8 :]


TABLE: dict[str, tuple[Build, list, int]] = {
    "h264": (video, COLOURS, CODEC),
    "h264_in_quicktime": (partial(video, ending="mov"), COLOURS, CODEC),
    "h264_in_matroska": (partial(video, ending="matroska"), COLOURS, CODEC),
    "h264_in_fragments": (partial(video, options={"movflags": "frag_keyframe+empty_moov"}), COLOURS, CODEC),
    "h264_lossless_444": (lambda: encode([to_frame(PICTURE / 255).reformat(format="yuv444p")], tags=(1, 1, 1)), COLOURS, CODEC),
    "hevc": (hevc, COLOURS, CODEC),
    "hevc_of_10_bits": (partial(hevc, bits=10), COLOURS, CODEC),
    "mpeg4": (partial(video, codec="mpeg4", options={"b": "4M"}, matrix=5, tags=None), COLOURS, 16),
    "vp8": (lambda: video(ending="webm", codec="libvpx", options={"b": "4M"}, matrix=5, tags=None), COLOURS, 16),
    "vp8_in_hd": (
        lambda: video(HD, ending="webm", codec="libvpx", options={"b": "9M", "deadline": "realtime"}, matrix=5, tags=None),
        COLOURS,
        16,
    ),
    "vp9": (partial(webm, "libvpx-vp9"), COLOURS, CODEC),
    "av1": (partial(video, ending="webm", codec="libsvtav1", options={"preset": "12"}), COLOURS, CODEC),
    "gif": (gif, COLOURS, 3),
    "gif_with_a_hole": (partial(gif, hole=True), [WHITE, *COLOURS[1:]], 3),
    "of_601": (partial(video, matrix=5, tags=(6, 6, 6)), COLOURS, CODEC),
    "of_601_that_does_not_say": (partial(video, matrix=5, tags=None), COLOURS, CODEC),
    "of_709_that_does_not_say": (partial(video, HD, matrix=1, tags=None), COLOURS, CODEC),
    "of_709_that_says_rgb": (partial(video, HD, matrix=1, tags=(1, 1, 2)), COLOURS, CODEC),
    "of_601_in_hd": (partial(video, HD, matrix=5, tags=(6, 6, 6)), COLOURS, CODEC),
    "of_all_levels": (partial(video, full=True), COLOURS, CODEC),
    "of_all_levels_and_601": (partial(video, full=True, matrix=5, tags=(6, 6, 6)), COLOURS, CODEC),
    "of_10_bits": (partial(video, bits=10), COLOURS, CODEC),
    "of_10_bits_and_all_levels": (partial(video, bits=10, full=True), COLOURS, CODEC),
    "hdr_pq": (lambda: wide(to_pq(NITS), 9, 16), COLOURS, HDR),
    "hdr_pq_that_does_not_say_its_primaries": (lambda: wide(to_pq(NITS), 2, 16), COLOURS, HDR),
    "hdr_hlg": (lambda: wide(to_hlg(NITS), 9, 18), COLOURS, HDR),
    "wide_gamut_bt2020": (lambda: wide((LIGHT @ TO_BT2020.T) ** (1 / 2.2), 9, 14), COLOURS, CODEC),
    "wide_gamut_p3": (lambda: wide((LIGHT @ TO_P3.T) ** (1 / 2.2), 12, 1, matrix=1), COLOURS, CODEC),
    "pixels_twice_as_wide": (partial(squeezed, Fraction(2)), COLOURS, CODEC),
    "pixels_half_as_wide": (partial(squeezed, Fraction(1, 2)), COLOURS, CODEC),
    "pixels_of_dv": (partial(squeezed, Fraction(12, 11)), COLOURS, CODEC),
    "pixels_twice_as_wide_in_webm": (
        partial(squeezed, Fraction(2), ending="webm", codec="libvpx-vp9", options={"b": "4M"}),
        COLOURS,
        CODEC,
    ),
    "pixels_that_are_lines": (partial(video, aspect=Fraction(200, 1)), COLOURS, CODEC),
    "no_size_in_the_track": (lambda: without_tkhd_size(video()), COLOURS, CODEC),
    "odd_size": (
        lambda: encode([to_frame(make_quarters(width=98, height=66)[:65, :97] / 255)], codec="libsvtav1"),
        COLOURS,
        20,
    ),
    **{f"orientation_{number}": (partial(lying, number), COLOURS, CODEC) for number in MATRICES},
}


def show(init: Init, *, width: int = WIDTH, height: int = HEIGHT, num_frames: int = 1, fps: int = 8) -> np.ndarray:
    spread = decode_init(init, num_frames=num_frames, fps=fps, width=width, height=height)
    return np.concatenate([frame[None].repeat(times, axis=0) for frame, times in spread])


@pytest.mark.parametrize("name", TABLE)
def test_video_is_shown_as_a_player_shows_it(name: str) -> None:
    build, wanted, far = TABLE[name]
    init = read_init(build(), ["video", "image"])
    check_init(init)
    shown = read_quarters(show(init)[0])

    assert init.kind == "video"
    assert np.abs(np.subtract(shown, wanted)).max() <= far, (shown, wanted)


def circle(width: int, height: int, aspect: float) -> np.ndarray:
    """A red disc that is round when a pixel is `aspect` times as wide as high."""
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2 + 0.5) * aspect) ** 2 + (y - height / 2 + 0.5) ** 2 < (0.15 * min(height, width * aspect)) ** 2
    return np.where(inside[..., None], (200, 40, 40), (240, 240, 240)).astype(np.uint8)


@pytest.mark.parametrize("orientation", MATRICES)
@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(64, 45)])
def test_circle_stays_round(aspect: Fraction, orientation: int) -> None:
    """In every orientation: the aspect ratio is that of the stored pixels."""
    stored = circle(96, 96, float(aspect))
    init = read_init(lay(video(stored, aspect=aspect), MATRICES[orientation]), ["video"])
    for size in ((96, 96), (160, 96), (64, 160)):
        frame = show(init, width=size[0], height=size[1])[0]
        red = (frame[..., 0] > 140) & (frame[..., 1] < 140)
        across, down = int(red.any(0).sum()), int(red.any(1).sum())
        assert abs(across - down) <= 3, (size, across, down)
        assert across > 10


def greys_at(times: list[int], **more: object) -> Init:
    """A frame at each time, in milliseconds, each lighter than the one before."""
    frames = [to_frame(np.full((64, 64, 3), (40 + 30 * number) / 255)) for number in range(len(times))]
    return read_init(encode(frames, times=times, tags=(1, 1, 1), **more), ["video"])


def numbers(frames: np.ndarray) -> list[int]:
    return [round((float(frame.mean()) - 40) / 30) for frame in frames]


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([0, 125, 250, 375], [0, 1, 2, 3, 3, 3]),
        ([0, 500, 625], [0, 0, 0, 1, 1, 2]),
        ([2000, 2125, 2500], [0, 1, 1, 2, 2, 2]),
        ([0, 10, 20, 250, 260, 400], [0, 2, 3, 5, 5, 5]),
    ],
)
def test_frames_are_taken_at_their_own_times(times: list[int], wanted: list[int]) -> None:
    """Phones record at an uneven rate; some recordings begin at two seconds."""
    for ending in ("mp4", "mov"):
        assert numbers(show(greys_at(times, ending=ending), num_frames=6)) == wanted, ending


def test_frames_before_the_beginning_are_not_shown() -> None:
    """With B-frames, the first timestamps are negative, and an edit list cuts them off."""
    init = greys_at([0, 125, 250, 375, 500], options={"bf": "2"})

    assert b"elst" in init.data
    assert numbers(show(init, num_frames=5)) == [0, 1, 2, 3, 4]


def test_edit_list_cuts_the_beginning_off() -> None:
    data = greys_at([0, 125, 250, 375, 500], options={"bf": "0"}).data
    at = data.index(b"elst") + 12
    (start,) = struct.unpack(">i", data[at + 4 : at + 8])
    scale = int.from_bytes(data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20])
    cut = data[: at + 4] + struct.pack(">i", start + scale // 4) + data[at + 8 :]

    assert numbers(show(read_init(cut, ["video"]), num_frames=4)) == [2, 3, 4, 4]


def test_gif_waits_as_long_as_it_says() -> None:
    from PIL import Image  # noqa: PLC0415

    frames = [Image.new("RGB", (64, 64), (40 + 30 * number,) * 3) for number in range(3)]
    gif = save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=[500, 120, 250])

    assert numbers(show(read_init(gif, ["video"]), num_frames=7)) == [0, 0, 0, 1, 1, 2, 2]


def test_unknown_color_tags_are_accepted() -> None:
    """Tries every number for primaries, transfer function and matrix."""
    made = video()
    for number in range(24):
        init = read_init(retag(made, primaries=number, transfer=1, matrix=number), ["video"])
        check_init(init)
        assert np.abs(np.subtract(read_quarters(show(init)[0]), COLOURS)).max() <= 60, number
        check_init(read_init(retag(made, primaries=number, transfer=number, matrix=number), ["video"]))


def test_hdr_grays_stay_gray_and_in_order() -> None:
    """From black to far above white."""
    nits = np.repeat(np.geomspace(1, 4000, 16), 8)[None, :, None].repeat(64, 0).repeat(3, 2)
    shown = show(read_init(wide(to_pq(nits), 9, 16), ["video"]), width=128, height=64)[0]
    steps = shown[32, 4::8].astype(int)

    assert np.ptp(steps, axis=1).max() <= 6
    assert np.all(np.diff(steps.mean(1)) >= -1)
    assert steps[0].mean() < 30
    assert steps[-1].mean() > 245


@pytest.mark.parametrize("name", ["hdr_pq", "orientation_5", "pixels_twice_as_wide", "h264_in_quicktime"])
def test_decoder_process_gives_the_same_frames_each_time(decoder: Decoder, name: str) -> None:
    build, wanted, far = TABLE[name]
    init = read_init(build(), ["video"])
    decoder.check(init)
    clips = [decoder.decode(init, num_frames=2, fps=8, width=WIDTH, height=HEIGHT).frames for _ in range(2)]

    assert np.array_equal(*clips)
    assert np.abs(np.subtract(read_quarters(clips[0][0]), wanted)).max() <= far
