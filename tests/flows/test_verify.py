"""`promptreel verify`, as a user types it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import av
import pytest

from promptreel.commands.verify import Difference, Verdict, explain, read_told
from promptreel.encoding.video import encode, read_metadata
from promptreel.errors import InvalidParams
from promptreel.media import Clip
from tests.command_line import PRELOADED
from tests.command_line import run_promptreel as run
from tests.encoding.files import encode_image, make_bars
from tests.generation.checkpoints import MAX_FRAMES, make_tiny_checkpoint

PRELOADED.append("promptreel.generation.engine")
OPTIONS = ["--model", "tiny", "--frames", 3, "--steps", 2, "--seed", 7, "--width", 64, "--height", 64]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    make_tiny_checkpoint(tmp_path / "models" / "tiny")
    return {"threads": "1", "data_dir": str(tmp_path)}


def make(path: Path, settings: dict[str, str], *more: object) -> Path:
    made = run("generate", "a cat", "-o", path, *OPTIONS, *more, **settings)
    assert made.returncode == 0, made.stderr
    return path


def verify(path: Path, settings: dict[str, str], *more: object) -> subprocess.CompletedProcess[str]:
    return run("verify", path, *more, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["webm", "gif"])
def test_video_is_made_again_byte_for_byte(tmp_path: Path, settings: dict[str, str], kind: str) -> None:
    again = verify(make(tmp_path / f"cat.{kind}", settings), settings)

    assert (again.returncode, again.stdout) == (0, f"cat.{kind}: made again, and every byte is the same.\n")


@pytest.mark.slow
def test_what_differs_is_named(tmp_path: Path, settings: dict[str, str]) -> None:
    """The checkpoint is another one, and the file says that an older version made it, which told nothing of cards."""
    video = make(tmp_path / "cat.mp4", settings)
    told = read_metadata(video)
    assert told.pop("cards") == {"tiny": {"beta_schedule": "scaled_linear", "max_frames": MAX_FRAMES}}
    make_tiny_checkpoint(tmp_path / "models" / "tiny", prediction_type="v_prediction")
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    versions = {**told["versions"], "promptreel": "0.0.9"}  # type: ignore[dict-item]
    changed = encode_again(frames, tmp_path / "old.mp4", {**told, "versions": versions})
    again = verify(changed, settings)

    assert again.returncode == 1
    assert "and it differs: " in again.stdout
    assert f"model: {told['model_sha256']} then, " in again.stdout
    assert "promptreel: 0.0.9 then, " in again.stdout
    assert f"max_frames of tiny: unknown then, {MAX_FRAMES} now" in again.stdout


@pytest.mark.slow
def test_card_that_says_something_else_is_named(tmp_path: Path, settings: dict[str, str]) -> None:
    video = make(tmp_path / "cat.mp4", settings)
    make_tiny_checkpoint(tmp_path / "models" / "tiny", beta_schedule="linear")
    again = verify(video, settings)

    assert again.returncode == 1
    assert again.stdout.splitlines()[1:] == ["  beta_schedule of tiny: scaled_linear then, linear now"]


def encode_again(frames: list[object], path: Path, comment: dict[str, object]) -> Path:
    import numpy as np  # noqa: PLC0415

    encode(Clip(np.stack(frames), 8), path, output_type="mp4", metadata=comment)  # type: ignore[arg-type]
    return path


@pytest.mark.slow
def test_init_is_given_again(tmp_path: Path, settings: dict[str, str]) -> None:
    for name, width in (("bars", 64), ("others", 32)):
        (tmp_path / f"{name}.png").write_bytes(encode_image(make_bars(width=width)))
    video = make(tmp_path / "cat.mp4", settings, "--init", tmp_path / "bars.png")

    assert "give it with --init" in verify(video, settings).stderr
    assert "started from another file" in verify(video, settings, "--init", tmp_path / "others.png").stderr
    again = verify(video, settings, "--init", tmp_path / "bars.png")
    assert (again.returncode, again.stdout) == (0, "cat.mp4: made again, and every byte is the same.\n")


@pytest.mark.parametrize(
    "comment",
    [
        None,
        "[]",
        '{"model_id": "cutout"}',
        '{"model_id": "cutout", "prompt": 7}',
        '{"model_id": "cutout", "prompt": "a", "num_frames": 1000000000}',
        '{"model_id": "cutout", "prompt": "a", "width": 100000}',
        '{"model_id": "cutout", "prompt": "a", "num_inference_steps": 100000}',
        '{"model_id": "cutout", "prompt": "a", "guidance_scale": NaN}',
        '{"model_id": "cutout", "prompt": "a", "scheduler": "__class__"}',
        '{"model_id": "cutout", "prompt": "a", "output_type": "../x"}',
    ],
)
def test_file_with_another_comment_is_refused(tmp_path: Path, comment: str | None) -> None:
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("mpeg4", 8)
        stream.width = stream.height = 16
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))

    with pytest.raises(InvalidParams, match="no comment that says how Promptreel made it"):
        read_told(path)


def test_verdicts_are_told_in_plain_words() -> None:
    differences = (Difference("torch", "2.12.0", "2.13.0"), Difference("scipy", None, "1.17.1"))

    assert explain("a.mp4", Verdict(same_bytes=False, psnr=41.25, differences=differences)) == [
        "a.mp4: made again, and it differs: 41.2 dB PSNR.",
        "  torch: 2.12.0 then, 2.13.0 now",
        "  scipy: unknown then, 1.17.1 now",
    ]
    assert explain("a.mp4", Verdict(same_bytes=False, psnr=float("inf"), differences=()))[1].endswith("computes other bits.")
    assert json.dumps(explain("a.mp4", Verdict(same_bytes=False, psnr=None, differences=differences)))
