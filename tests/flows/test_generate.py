"""`promptreel generate`, as a user types it, on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import pytest

from promptreel.demo import decode
from promptreel.encoding.video import read_metadata
from tests.command_line import PRELOADED
from tests.command_line import run_promptreel as run
from tests.encoding.files import encode_image, make_bars
from tests.generation.checkpoints import make_tiny_checkpoint

# Takes seconds to import, which only a run with these tests spends.
PRELOADED.append("promptreel.generation.engine")


@pytest.mark.parametrize(("name", "kind"), [("video.mp4", "mp4"), ("video.webm", "webm"), ("VIDEO.GIF", "gif")])
def test_generate_makes_a_video_that_plays(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "made").mkdir()
    video = tmp_path / "made" / name
    options = ["--frames", 4, "--fps", 4, "--steps", 2, "--seed", 7, "--width", 128]
    made = run("generate", "a red ball", "-o", video, *options, threads="1")

    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{video}  (seed 7)\n"
    seen = decode(video)
    assert (seen.frames, seen.width, seen.height, seen.fps) == (4, 128, 512, 4)
    with av.open(str(video)) as container:
        assert kind in container.format.name.split(",")
    assert list(video.parent.iterdir()) == [video]


@pytest.mark.parametrize(("option", "prompt"), [([], "wtrclr a lake soft light"), (["--no-enhance-prompt"], "a lake")])
def test_generate_adds_the_models_own_phrases_unless_told_not_to(tmp_path: Path, option: list[str], prompt: str) -> None:
    make_tiny_checkpoint(tmp_path / "models" / "tiny", trigger_words=["wtrclr"], quality_words=["soft light"])
    video = tmp_path / "video.mp4"
    options = ["--model", "tiny", "--frames", 2, "--steps", 1, "--width", 64, "--height", 64, *option]
    made = run("generate", "a lake", "-o", video, *options, threads="1", data_dir=str(tmp_path))

    assert made.returncode == 0, made.stderr
    assert read_metadata(video)["prompt"] == prompt


def test_generate_starts_from_a_picture_or_a_video(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path / "models" / "tiny")
    options = ["--model", "tiny", "--frames", 4, "--steps", 4, "--seed", 7, "--width", 64, "--height", 64]
    settings = {"threads": "1", "data_dir": str(tmp_path)}
    (tmp_path / "bars.png").write_bytes(encode_image(make_bars()))
    made = []
    for init, strength in (("bars.png", 0.2), ("bars.png", 0.9), ("0.mp4", 0.2)):  # the third starts from the first's video
        video = tmp_path / f"{len(made)}.mp4"
        ran = run("generate", "a", "-o", video, *options, "--init", tmp_path / init, "--strength", strength, **settings)
        assert ran.returncode == 0, ran.stderr
        made.append(video)

    assert len({video.read_bytes() for video in made}) == 3
    for video, init, kind in zip(made, ("bars.png", "bars.png", "0.mp4"), ("image", "image", "video"), strict=True):
        sha256 = hashlib.sha256((tmp_path / init).read_bytes()).hexdigest()
        assert read_metadata(video)["init_key"] == f"inits/{kind}/{sha256}{Path(init).suffix}"


def test_generate_warns_of_unmet_wishes(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    options = ["--frames", 2, "--fps", 2, "--steps", 1, "--seed", 7, "--width", 100, "--height", 71]
    made = run("generate", "a red zyzzyva", "-o", video, *options, threads="1")

    assert made.stdout == f"{video}  (seed 7)\n"
    assert "promptreel: the video is 96x64, not 100x71: sides are multiples of 8\n" in made.stderr
    assert 'promptreel: the model "cutout" does not know: zyzzyva\n' in made.stderr
