"""Pictures and videos become the frames that a clip starts from; unusable files are refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from promptreel.encoding.decoding import check_init, decode_init
from promptreel.encoding.init_videos import MAX_FRAMES, pick_nearest
from promptreel.encoding.inits import recognise
from promptreel.errors import InitUnusable
from promptreel.media import Init
from tests.encoding.files import BARS, encode_image, encode_video, make_bars, make_greys


def decode(init: Init, *, num_frames: int = 3, fps: int = 8, width: int = 16, height: int = 16) -> np.ndarray:
    spread = decode_init(init, num_frames=num_frames, fps=fps, width=width, height=height)
    return np.concatenate([frame[None].repeat(times, axis=0) for frame, times in spread])


def differ(one: np.ndarray, other: object) -> float:
    """The mean absolute difference of two pictures, from 0 to 255."""
    return float(np.abs(one.astype(float) - np.asarray(other, float)).mean())


def greys(frames: np.ndarray) -> list[int]:
    """Which of `make_greys`' frames these are."""
    return [round((float(frame.mean()) - 20) / 10) for frame in frames]


def declare_png(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, without pixel data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif"])
def test_image_becomes_the_repeated_frame(ending: str) -> None:
    file_format = {"jpg": "JPEG"}.get(ending, ending.upper())
    frames = decode(Init("image", ending, encode_image(make_bars(32, 32), file_format)), width=32, height=32)

    assert frames.shape == (3, 32, 32, 3)
    assert np.array_equal(frames[0], frames[2])
    assert differ(frames[0], make_bars(32, 32)) < (0.5 if ending in {"png", "gif"} else 12)  # lossy ones blur the edges


def test_other_aspect_is_covered_and_cropped_around_the_center() -> None:
    """64x16 to 32x16 loses a quarter on each side; to 16x32, all but the middle eighth. Nothing is stretched."""
    init = Init("image", "png", encode_image(make_bars(64, 16)))
    half, tall = decode(init, width=32, height=16)[0], decode(init, width=16, height=32)[0]

    assert np.array_equal(half, make_bars(64, 16)[:, 16:48])
    assert differ(tall[:, :4], BARS[1]) < 1
    assert differ(tall[:, -4:], BARS[2]) < 1


def test_image_of_one_row_is_decoded() -> None:
    assert decode(Init("image", "png", encode_image(make_bars(16_384, 1))), width=128, height=128).shape == (3, 128, 128, 3)


def test_image_is_turned_upright_and_laid_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it
    turned = encode_image(np.ascontiguousarray(np.rot90(make_bars(16, 16))), exif=exif.tobytes())
    clear = np.concatenate([make_bars(16, 16), np.full((16, 16, 1), [[0]] * 8 + [[255]] * 8, np.uint8)], axis=2)

    assert np.array_equal(decode(Init("image", "png", turned))[0], make_bars(16, 16))
    seen = decode(Init("image", "png", encode_image(clear)))[0]
    assert np.all(seen[:, :8] == 255)
    assert np.array_equal(seen[:, 8:], make_bars(16, 16)[:, 8:])


def test_16_bits_of_grey_keep_their_greys() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16), 0x8000, np.uint16)).save(file, "PNG")

    assert np.all(decode(Init("image", "png", file.getvalue())) == 0x80)


def test_first_frame_of_a_gif_is_its_image_and_all_are_its_video() -> None:
    gif = encode_image(make_greys(4), "GIF")

    assert greys(decode(Init("image", "gif", gif), num_frames=4)) == [0, 0, 0, 0]
    assert greys(decode(Init("video", "gif", gif), num_frames=4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("webm", "libsvtav1")])
def test_video_is_read_at_the_speed_asked_and_holds_its_last_frame(ending: str, codec: str) -> None:
    init = Init("video", ending, encode_video(make_greys(6, size=64), ending, fps=8, codec=codec))

    assert greys(decode(init, num_frames=6, fps=8)) == [0, 1, 2, 3, 4, 5]
    assert greys(decode(init, num_frames=5, fps=4)) == [0, 2, 4, 5, 5]
    assert greys(decode(init, num_frames=2, fps=8)) == [0, 1]
    assert np.array_equal(decode(init, num_frames=5, fps=4), decode(init, num_frames=5, fps=4))


def test_times_go_to_the_nearest_frame() -> None:
    uneven = [(Fraction(10) + Fraction(time), name) for time, name in (("0", "a"), ("0.1", "b"), ("0.2", "c"), ("1", "d"))]

    def spread(num_frames: int, fps: int) -> str:
        return "".join(frame * times for frame, times in pick_nearest(iter(uneven), num_frames=num_frames, fps=fps))

    assert spread(8, 5) == "acccdddd"  # 0.6 s is halfway between c and d
    assert spread(3, 10) == "abc"
    assert spread(1, 1) == "a"
    assert "".join(frame * times for frame, times in pick_nearest(iter([]), num_frames=3, fps=1)) == ""


def test_video_is_turned_upright() -> None:
    lying = np.ascontiguousarray(np.rot90(make_bars(64, 64), k=-1))[None].repeat(2, axis=0)
    frames = decode(Init("video", "mp4", encode_video(lying, rotation=90)), num_frames=1, width=64, height=64)

    assert differ(frames[0], make_bars(64, 64)) < 10


@pytest.mark.parametrize(
    ("init", "why"),
    [
        (Init("image", "png", b""), "cannot be decoded"),
        (Init("image", "png", encode_image(make_bars(), "JPEG")), "cannot be decoded"),
        (Init("video", "mp4", encode_image(make_bars())), "cannot be decoded"),
        (Init("image", "png", declare_png(9000, 9000)), "36 million pixels"),
        (Init("image", "png", declare_png(60_000, 60_000)), "36 million pixels"),
        (Init("image", "png", declare_png(20_000, 4)), "16384 on a side"),
        (Init("video", "mp4", b"\0\0\0\x18ftypmp42" + bytes(64)), "cannot be decoded"),
        (Init("video", "gif", b"GIF89a" + bytes(200)), "The init video"),
        (Init("video", "mp4", encode_video(make_bars(64, 64)[None], codec="mpeg2video")), "must be in one of av1, gif, h264"),
        (Init("video", "gif", b"GIF89a\xff\xff\xff\xff" + encode_image(make_greys(2), "GIF")[10:]), "4096x2304 pixels"),
    ],
    ids=lambda value: value.kind + value.ending if isinstance(value, Init) else value,
)
def test_what_cannot_be_used_is_refused_before_it_is_decoded(init: Init, why: str) -> None:
    with pytest.raises(InitUnusable, match=why):
        check_init(init)


def test_video_of_too_many_frames_is_refused() -> None:
    flicker = make_greys(2, size=16)[np.arange(MAX_FRAMES + 1) % 2]

    with pytest.raises(InitUnusable, match=f"must not be longer than {MAX_FRAMES} frames"):
        check_init(Init("video", "mp4", encode_video(flicker)))
    check_init(Init("video", "mp4", encode_video(flicker[1:])))


@pytest.mark.parametrize(("kind", "ending"), [("image", "png"), ("image", "jpg"), ("image", "webp"), ("video", "mp4")])
def test_damage_that_shows_only_in_decoding_is_told(kind: str, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode_video(noise[None]) if kind == "video" else encode_image(noise, {"jpg": "JPEG"}.get(ending, ending.upper()))
    at = data.index(b"mdat") + 8 if kind == "video" else len(data) // 3
    damaged = data[:at] + bytes(3000) + data[at + 3000 :] if kind == "video" else data[:at]

    with pytest.raises(InitUnusable, match=f"The init {kind}"):
        decode(Init(kind, ending, damaged))


def test_endings_are_recognised_by_the_first_bytes() -> None:
    assert [recognise(encode_image(make_bars(), name)) for name in ("PNG", "JPEG", "WEBP", "GIF")] == [
        "png",
        "jpg",
        "webp",
        "gif",
    ]
    boxes = {
        b"ftypisom": "mp4",
        b"ftypqt  ": "mov",
        b"wide\0\0\0\0": "mov",
        b"ftypavif": "avif",
        b"ftypavis": "avif",
        b"ftypheic": "heic",
    }
    assert [recognise(b"\0\0\0\x10" + start + bytes(64)) for start in boxes] == list(boxes.values())
    assert recognise(b"\0\0\0\x18ftypmif1\0\0\0\0miafavif") == "avif"  # the major brand is a generic one
    assert [recognise(data) for data in (b"", b"RIFF1234WAVE", b"<svg>", b"\0" * 64)] == [None] * 4
