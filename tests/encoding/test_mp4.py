from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from promptreel.encoding.video import encode
from promptreel.errors import EncodingFailed
from promptreel.media import Clip, Video
from tests.encoding.clips import make_flat, make_noise


def encode_mp4(clip: Clip, path: Path) -> Video:
    return encode(clip, path, output_type="mp4", metadata={})


def top_level_atoms(data: bytes) -> list[str]:
    atoms, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        assert size >= 8, "no atom of this test is larger than 4 GiB or runs to the end of the file"
        atoms.append(data[position + 4 : position + 8].decode())
        position += size
    return atoms


@pytest.mark.parametrize(("num_frames", "fps"), [(1, 8), (2, 30), (7, 3), (40, 8), (5, 1), (50, 24)])
def test_frame_count_fps_and_duration_are_stated_exactly(tmp_path: Path, num_frames: int, fps: int) -> None:
    encode_mp4(make_noise(num_frames, fps=fps), tmp_path / "a.mp4")

    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate) == (num_frames, fps)
        assert stream.duration * stream.time_base == Fraction(num_frames, fps)


def test_stream_is_h264_in_limited_range_bt709_and_says_so(tmp_path: Path) -> None:
    encode_mp4(make_flat((255, 0, 0)), tmp_path / "a.mp4")

    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        frame = next(container.decode(video=0))
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        # Red is Y 63, Cb 102, Cr 240 in limited BT.709; BT.601 would give Y 81.
        assert [round(float(plane.mean())) for plane in np.split(frame.to_ndarray(), [64])][:1] == [63]


def test_index_precedes_the_frames(tmp_path: Path) -> None:
    encode_mp4(make_noise(), tmp_path / "a.mp4")

    atoms = top_level_atoms((tmp_path / "a.mp4").read_bytes())
    assert atoms[0] == "ftyp"
    assert atoms.index("moov") < atoms.index("mdat")


@pytest.mark.parametrize(("width", "height"), [(65, 64), (64, 65), (33, 33)])
def test_odd_sizes_are_refused_with_a_message(tmp_path: Path, width: int, height: int) -> None:
    with pytest.raises(EncodingFailed, match=f"even width and height, not {width}x{height}"):
        encode_mp4(make_flat((0, 0, 0), width=width, height=height), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_equal_frames_give_equal_bytes_whatever_the_process_did_before(tmp_path: Path) -> None:
    """With x264's macroblock tree, this clip gave two or three different files, depending on the heap."""
    y, x = np.mgrid[:96, :96]
    grass = np.where((y > 60)[..., None], (98, 184, 84), (152, 208, 250))
    frames = [np.where((np.hypot(x - 40 - 6 * i, y - 48 - 2 * i) < 20)[..., None], (220, 40, 40), grass) for i in range(4)]
    clip = Clip(np.stack(frames).astype(np.uint8), 8)

    with ThreadPoolExecutor(4) as pool:
        videos = list(pool.map(lambda i: encode_mp4(clip, tmp_path / f"{i}.mp4"), range(200)))

    assert len({video.sha256 for video in videos}) == 1
