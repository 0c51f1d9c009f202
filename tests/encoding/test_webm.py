from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from promptreel.encoding.video import encode
from promptreel.errors import EncodingFailed
from promptreel.media import Clip, Video
from tests.encoding.clips import make_flat, make_scene, play

CUES = b"\x1c\x53\xbb\x6b"  # Matroska's ids of the index and of a group of frames
CLUSTER = b"\x1f\x43\xb6\x75"


def encode_webm(clip: Clip, path: Path) -> Video:
    return encode(clip, path, output_type="webm", metadata={})


@pytest.mark.parametrize(("num_frames", "fps"), [(1, 8), (2, 30), (7, 3), (40, 8), (5, 1), (50, 24), (240, 30)])
def test_fps_is_stated_exactly(tmp_path: Path, num_frames: int, fps: int) -> None:
    encode_webm(make_scene(num_frames, fps=fps), tmp_path / "a.webm")

    assert play(tmp_path / "a.webm").stated_fps == fps


def test_stream_is_av1_in_limited_range_bt709_and_says_so(tmp_path: Path) -> None:
    encode_webm(make_flat((255, 0, 0)), tmp_path / "a.webm")

    with av.open(str(tmp_path / "a.webm")) as container:
        assert "webm" in container.format.name
        stream = container.streams.video[0]
        frame = next(container.decode(video=0))
        codec = stream.codec_context
        assert (codec.codec.canonical_name, codec.pix_fmt) == ("av1", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        # Red is Y 63 in limited BT.709; BT.601 would give Y 81.
        assert round(float(np.split(frame.to_ndarray(), [64])[0].mean())) == 63


def test_index_precedes_the_frames(tmp_path: Path) -> None:
    encode_webm(make_scene(), tmp_path / "a.webm")

    data = (tmp_path / "a.webm").read_bytes()
    assert data.rindex(CUES) < data.index(CLUSTER)  # rindex: the SeekHead may name the cues before


@pytest.mark.parametrize(("width", "height"), [(65, 64), (64, 65), (33, 17), (4, 4)])
def test_odd_and_small_sizes_survive(tmp_path: Path, width: int, height: int) -> None:
    encode_webm(make_flat((200, 120, 40), width=width, height=height), tmp_path / "a.webm")

    frames = play(tmp_path / "a.webm").frames
    assert frames.shape == (3, height, width, 3)
    assert np.abs(frames.astype(int) - (200, 120, 40)).max() <= 3


def test_size_too_small_for_av1_is_refused_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(EncodingFailed, match="at least 4 pixels a side, not 64x3"):
        encode_webm(make_flat((0, 0, 0), width=64, height=3), tmp_path / "a.webm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_encoder_leaves_the_priority_of_this_process_alone(tmp_path: Path) -> None:
    """Run by root, SVT-AV1 takes the highest real-time priority, which later threads and processes inherit."""
    before = os.sched_getscheduler(0)
    encode_webm(make_scene(2), tmp_path / "a.webm")
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"], capture_output=True, check=True
    )

    assert {os.sched_getscheduler(int(task.name)) for task in Path("/proc/self/task").iterdir()} == {before}
    assert int(child.stdout) == before
