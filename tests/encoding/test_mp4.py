from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from promptreel.encoding.mp4 import encode_mp4, read_metadata
from promptreel.errors import EncodingFailed
from promptreel.media import Clip


def moving_clip(num_frames: int = 12, width: int = 96, height: int = 64, fps: int = 8) -> Clip:
    """A noisy picture that moves to the right: hard to compress, the same each time."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Clip(np.stack([np.roll(picture, 3 * index, axis=1) for index in range(num_frames)]), fps)


def flat_clip(color: tuple[int, int, int]) -> Clip:
    return Clip(np.full((3, 64, 64, 3), color, np.uint8), 8)


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def top_level_atoms(data: bytes) -> list[str]:
    atoms, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        assert size >= 8, "no atom of this test is larger than 4 GiB or runs to the end of the file"
        atoms.append(data[position + 4 : position + 8].decode())
        position += size
    return atoms


@pytest.mark.parametrize(("num_frames", "fps"), [(1, 8), (2, 30), (7, 3), (40, 8), (5, 1), (50, 24)])
def test_frame_count_fps_and_duration_read_back_exactly(tmp_path, num_frames, fps):
    encode_mp4(moving_clip(num_frames, fps=fps), tmp_path / "a.mp4", metadata={})

    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        assert (stream.frames, stream.average_rate) == (num_frames, fps)
        assert stream.duration * stream.time_base == Fraction(num_frames, fps)
        assert times == [Fraction(index, fps) for index in range(num_frames)]


def test_frames_come_back_in_their_size_and_order(tmp_path):
    frames = np.stack([np.full((72, 104, 3), 20 * index, np.uint8) for index in range(12)])
    encode_mp4(Clip(frames, 8), tmp_path / "a.mp4", metadata={})

    decoded = np.stack(decode(tmp_path / "a.mp4"))
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).max() <= 3


@pytest.mark.parametrize(
    "color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 120, 40), (30, 90, 160)]
)
def test_flat_colors_come_back_within_three(tmp_path, color):
    encode_mp4(flat_clip(color), tmp_path / "a.mp4", metadata={})

    assert np.abs(np.stack(decode(tmp_path / "a.mp4")).astype(int) - color).max() <= 3


def test_stream_is_h264_in_limited_range_bt709_and_says_so(tmp_path):
    encode_mp4(flat_clip((255, 0, 0)), tmp_path / "a.mp4", metadata={})

    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        frame = next(container.decode(video=0))
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        # Red is Y 63, Cb 102, Cr 240 in limited BT.709; BT.601 would give Y 81.
        assert [round(float(plane.mean())) for plane in np.split(frame.to_ndarray(), [64])][:1] == [63]


def test_index_stands_before_the_pictures(tmp_path):
    encode_mp4(moving_clip(), tmp_path / "a.mp4", metadata={})

    atoms = top_level_atoms((tmp_path / "a.mp4").read_bytes())
    assert atoms[0] == "ftyp"
    assert atoms.index("moov") < atoms.index("mdat")


@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt": "a red cat sitting on a bench", "seed": 4294967295, "guidance_scale": 7.5, "lora": None},
        {"prompt": "Füße 猫 🐈 \u202e \x00 \n half a pair: \ud83d"},
        {"prompt": "0123456789" * 6_000},
        {"prompt": "猫" * 60_000},
    ],
    ids=["plain", "unicode", "60 kB", "60,000 Chinese letters"],
)
def test_metadata_reads_back_whole(tmp_path, metadata):
    encode_mp4(flat_clip((0, 0, 0)), tmp_path / "a.mp4", metadata=metadata)

    assert read_metadata(tmp_path / "a.mp4") == metadata


def test_video_describes_the_file(tmp_path):
    video = encode_mp4(moving_clip(), tmp_path / "a.mp4", metadata={"seed": 1})

    data = (tmp_path / "a.mp4").read_bytes()
    assert video.path == tmp_path / "a.mp4"
    assert video.media_type == "video/mp4"
    assert video.size_bytes == len(data) > 0
    assert video.sha256 == hashlib.sha256(data).hexdigest()


def test_equal_clips_give_equal_bytes_whatever_the_path_and_order_of_metadata(tmp_path):
    first = encode_mp4(moving_clip(), tmp_path / "a.mp4", metadata={"seed": 1, "prompt": "x"})
    second = encode_mp4(moving_clip(), tmp_path / "other.mp4", metadata={"prompt": "x", "seed": 1})

    assert first.sha256 == second.sha256


def test_another_process_gives_the_same_bytes(tmp_path):
    here = encode_mp4(moving_clip(), tmp_path / "a.mp4", metadata={"seed": 1})
    program = (
        "import sys; from pathlib import Path; from promptreel.encoding.mp4 import encode_mp4;"
        "from tests.encoding.test_mp4 import moving_clip;"
        "print(encode_mp4(moving_clip(), Path(sys.argv[1]), metadata={'seed': 1}).sha256)"
    )
    there = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "b.mp4")],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert there.stdout.strip() == here.sha256


def test_other_metadata_gives_other_bytes(tmp_path):
    first = encode_mp4(moving_clip(), tmp_path / "a.mp4", metadata={"seed": 1})
    second = encode_mp4(moving_clip(), tmp_path / "b.mp4", metadata={"seed": 2})

    assert first.sha256 != second.sha256


@pytest.mark.parametrize(("width", "height"), [(65, 64), (64, 65), (33, 33)])
def test_odd_sizes_are_refused_in_words(tmp_path, width, height):
    clip = Clip(np.zeros((2, height, width, 3), np.uint8), 8)

    with pytest.raises(EncodingFailed, match=f"even width and height, not {width}x{height}"):
        encode_mp4(clip, tmp_path / "a.mp4", metadata={})
    assert list(tmp_path.iterdir()) == []


def test_clip_without_frames_is_refused(tmp_path):
    with pytest.raises(EncodingFailed, match="at least"):
        encode_mp4(Clip(np.zeros((0, 64, 64, 3), np.uint8), 8), tmp_path / "a.mp4", metadata={})
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_an_encoding_failure(tmp_path):
    with pytest.raises(EncodingFailed, match="could not be written: No such file") as caught:
        encode_mp4(flat_clip((0, 0, 0)), tmp_path / "none" / "a.mp4", metadata={})
    assert str(tmp_path) not in caught.value.message  # it may reach the client


@pytest.mark.parametrize("limit", [200, 20_000, 100_000])
def test_disk_that_fills_up_leaves_no_partial_file(tmp_path, limit):
    """A limit on file size stands in for the full disk: the same write fails in the same place of the encoder."""
    program = (
        "import sys; from pathlib import Path; from promptreel.encoding.mp4 import encode_mp4;"
        "from tests.encoding.test_mp4 import moving_clip\n"
        "try: encode_mp4(moving_clip(40, 256, 256), Path(sys.argv[1]), metadata={})\n"
        "except Exception as error: print(type(error).__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.mp4")],
        env={"PYTHONPATH": ":".join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.strip() == "EncodingFailed"
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_is_not_json_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        encode_mp4(flat_clip((0, 0, 0)), tmp_path / "a.mp4", metadata={"path": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("comment", ["holiday", json.dumps([1, 2]), None])
def test_video_from_elsewhere_has_no_metadata(tmp_path, comment):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())

    assert read_metadata(tmp_path / "a.mp4") == {}


def test_reading_metadata_of_something_else_says_so(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")

    with pytest.raises(EncodingFailed, match=r"a\.mp4 cannot be read as a video"):
        read_metadata(tmp_path / "a.mp4")


def test_equal_frames_give_equal_bytes_whatever_the_process_did_before(tmp_path: Path) -> None:
    """With x264's macroblock tree, this clip came out in two or three ways, by what the heap held."""
    y, x = np.mgrid[:96, :96]
    grass = np.where((y > 60)[..., None], (98, 184, 84), (152, 208, 250))
    frames = [np.where((np.hypot(x - 40 - 6 * i, y - 48 - 2 * i) < 20)[..., None], (220, 40, 40), grass) for i in range(4)]
    clip = Clip(np.stack(frames).astype(np.uint8), 8)

    with ThreadPoolExecutor(4) as pool:
        videos = list(pool.map(lambda i: encode_mp4(clip, tmp_path / f"{i}.mp4", metadata={}), range(200)))

    assert len({video.sha256 for video in videos}) == 1
