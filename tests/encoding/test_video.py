"""What holds for every output type."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from promptreel.encoding.video import WRITERS, encode, read_metadata
from promptreel.errors import DiskFull, EncodingFailed
from promptreel.jobs.params import OUTPUT_TYPES
from promptreel.media import MEDIA_TYPES, Clip, Video
from tests.encoding.clips import make_flat, make_gradient, make_noise, make_scene, measure_psnr, play

# The time resolution of each container: mp4's clock is a multiple of the clip's fps, so it is exact.
TICKS = {"mp4": Fraction(0), "webm": Fraction(1, 1000), "gif": Fraction(1, 100)}
PREPARE_ELSEWHERE = (
    "import sys; from pathlib import Path; from promptreel.encoding.video import encode;"
    "from tests.encoding.clips import make_noise, make_scene\n"
)

each_type = pytest.mark.parametrize("output_type", OUTPUT_TYPES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.video"  # no ending that ffmpeg could guess a type from


def run_elsewhere(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a program in another process, with another hash seed and time zone."""
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-B", "-c", PREPARE_ELSEWHERE + program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_every_output_type_has_a_writer() -> None:
    assert tuple(WRITERS) == OUTPUT_TYPES == tuple(MEDIA_TYPES)


@each_type
@pytest.mark.parametrize(("num_frames", "fps"), [(1, 8), (2, 30), (7, 3), (40, 8), (5, 1), (50, 24), (240, 30)])
def test_every_frame_comes_at_its_time(path: Path, output_type: str, num_frames: int, fps: int) -> None:
    encode(make_scene(num_frames, size=64, fps=fps), path, output_type=output_type, metadata={})

    played = play(path)
    assert played.frames.shape == (num_frames, 64, 64, 3)
    late = [abs(time - Fraction(index, fps)) for index, time in enumerate(played.times)]
    assert max(late) <= TICKS[output_type] / 2
    assert abs(played.seconds - Fraction(num_frames, fps)) <= max(TICKS[output_type], Fraction(1, av.time_base))


@each_type
def test_equal_frames_are_all_kept(path: Path, output_type: str) -> None:
    encode(make_flat((200, 120, 40), num_frames=9), path, output_type=output_type, metadata={})

    played = play(path)
    assert len(played.frames) == 9
    assert abs(played.seconds - Fraction(9, 8)) <= TICKS[output_type]


@each_type
def test_frames_come_back_in_their_size_and_order(path: Path, output_type: str) -> None:
    frames = np.stack([np.full((72, 104, 3), 20 * index, np.uint8) for index in range(12)])
    encode(Clip(frames, 8), path, output_type=output_type, metadata={})

    decoded = play(path).frames
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).max() <= 3


@each_type
@pytest.mark.parametrize(
    "color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 120, 40), (30, 90, 160)]
)
def test_flat_colors_come_back_within_three(path: Path, output_type: str, color: tuple[int, int, int]) -> None:
    encode(make_flat(color), path, output_type=output_type, metadata={})

    assert np.abs(play(path).frames.astype(int) - color).max() <= 3


# mp4 and webm lose color at the edge of the disc: they store chroma at half the resolution.
@pytest.mark.parametrize(("output_type", "least"), [("mp4", 28), ("webm", 28), ("gif", np.inf)])
def test_flat_pictures_stay_sharp(path: Path, output_type: str, least: float) -> None:
    clip = make_scene()
    encode(clip, path, output_type=output_type, metadata={})

    assert measure_psnr(clip, play(path).frames) >= least


# A gif has 256 colors for this clip of 70,000.
@pytest.mark.parametrize(("output_type", "least"), [("mp4", 38), ("webm", 38), ("gif", 23)])
def test_gradients_stay_close(path: Path, output_type: str, least: float) -> None:
    clip = make_gradient()
    encode(clip, path, output_type=output_type, metadata={})

    assert measure_psnr(clip, play(path).frames) >= least


@each_type
@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt": "a red cat sitting on a bench", "seed": 4294967295, "guidance_scale": 7.5, "lora": None},
        {"prompt": "Füße 猫 🐈 \u202e \x00 \n half a pair: \ud83d"},
        {"prompt": "x" * 244},  # with its braces, one block of a gif's comment
        {"prompt": "0123456789" * 6_000},
        {"prompt": "猫" * 60_000},
    ],
    ids=["plain", "unicode", "255 bytes", "60 kB", "60,000 Chinese letters"],
)
def test_metadata_reads_back_whole(path: Path, output_type: str, metadata: dict[str, object]) -> None:
    encode(make_flat((0, 0, 0)), path, output_type=output_type, metadata=metadata)

    assert read_metadata(path) == metadata
    assert len(play(path).frames) == 3


@each_type
def test_video_describes_the_file(path: Path, output_type: str) -> None:
    video = encode(make_scene(3), path, output_type=output_type, metadata={"seed": 1})

    data = path.read_bytes()
    assert video == Video(path, MEDIA_TYPES[output_type], len(data), hashlib.sha256(data).hexdigest())
    assert len(data) > 0


@each_type
def test_equal_clips_give_equal_bytes_whatever_the_process_did_before(tmp_path: Path, output_type: str) -> None:
    """Defaults would break this: x264's macroblock tree, and WebM's random ids."""
    clip = make_scene(4)
    metadata = [{"seed": 1, "prompt": "x"}, {"prompt": "x", "seed": 1}]

    with ThreadPoolExecutor(4) as pool:
        videos = pool.map(
            lambda index: encode(clip, tmp_path / f"{index}", output_type=output_type, metadata=metadata[index % 2]), range(20)
        )

    assert len({video.sha256 for video in videos}) == 1


@each_type
def test_other_processes_give_the_same_bytes_and_encoders_keep_quiet(path: Path, tmp_path: Path, output_type: str) -> None:
    here = [encode(clip, path, output_type=output_type, metadata={"seed": 1}).sha256 for clip in (make_noise(), make_scene())]
    program = (
        "for clip in (make_noise(), make_scene()):\n"
        "    print(encode(clip, Path(sys.argv[1]), output_type=sys.argv[2], metadata={'seed': 1}).sha256)"
    )

    ran = run_elsewhere(program, tmp_path / "elsewhere", output_type)

    assert (ran.stdout.split(), ran.stderr) == (here, "")


@each_type
def test_other_metadata_gives_other_bytes(path: Path, output_type: str) -> None:
    hashes = {encode(make_scene(2), path, output_type=output_type, metadata={"seed": seed}).sha256 for seed in (1, 2)}

    assert len(hashes) == 2


@each_type
def test_clip_without_frames_is_refused(path: Path, output_type: str) -> None:
    with pytest.raises(EncodingFailed, match="at least"):
        encode(Clip(np.zeros((0, 64, 64, 3), np.uint8), 8), path, output_type=output_type, metadata={})
    assert not path.exists()


@each_type
def test_missing_folder_is_an_encoding_failure(tmp_path: Path, output_type: str) -> None:
    with pytest.raises(EncodingFailed, match="could not be written: No such file") as caught:
        encode(make_flat((0, 0, 0)), tmp_path / "none" / "a", output_type=output_type, metadata={})
    assert str(tmp_path) not in caught.value.message  # it may reach the client


@each_type
def test_disk_that_fills_up_leaves_no_partial_file(tmp_path: Path, output_type: str) -> None:
    """A limit on file size stands in for the full disk: the same write of the encoder fails."""
    program = (
        "import os, resource\n"
        "_, most = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "for limit in (200, 20_000, 100_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))\n"
        "    try: encode(make_noise(40, 256, 256), Path(sys.argv[1]), output_type=sys.argv[2], metadata={})\n"
        "    except Exception as error: print(type(error).__name__, os.listdir(Path(sys.argv[1]).parent))"
    )
    ran = run_elsewhere(program, tmp_path / "a", output_type)

    assert ran.stdout.splitlines() == ["EncodingFailed []"] * 3


@each_type
def test_full_disk_raises_disk_full(tmp_path: Path, output_type: str) -> None:
    path = tmp_path / "a"
    path.symlink_to("/dev/full")  # every write to it fails as on a full disk

    with pytest.raises(DiskFull, match="Make room"):
        encode(make_noise(4, 64, 64), path, output_type=output_type, metadata={})
    assert list(tmp_path.iterdir()) == []


@each_type
def test_metadata_that_is_not_json_leaves_no_file(path: Path, output_type: str) -> None:
    with pytest.raises(TypeError):
        encode(make_flat((0, 0, 0)), path, output_type=output_type, metadata={"path": object()})
    assert not path.exists()


@pytest.mark.parametrize("comment", ["holiday", json.dumps([1, 2]), None])
def test_video_from_elsewhere_has_no_metadata(path: Path, comment: str | None) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())

    assert read_metadata(path) == {}


def test_reading_metadata_of_something_else_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")

    with pytest.raises(EncodingFailed, match=r"a\.mp4 cannot be read as a video"):
        read_metadata(tmp_path / "a.mp4")
