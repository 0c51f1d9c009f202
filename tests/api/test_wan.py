"""Requests for a model of a family for which the APIs' defaults were not made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore
from tests.api.conftest import SUBMIT, write_card

WAN = {"name": "Wan", "family": "wan", "max_frames": 81, "fps": 16}


@pytest.fixture
def wan(client: TestClient, tmp_path: Path) -> None:
    write_card(tmp_path / "models" / "wan", WAN)
    write_card(tmp_path / "models" / "wan-a14b", WAN | {"default_guidance": 4, "default_steps": 40, "low_noise_guidance": 3})


@pytest.fixture
def submit(client: TestClient, jobs: JobStore, wan: None) -> Any:
    def send(path: str = SUBMIT, **fields: object) -> tuple[dict[str, Any], VideoParams]:
        answer = client.post(path, json={"prompt": "a cat", "model_id": "wan", **fields}).json()
        job_id = str(answer["id"]).removeprefix("video_")
        return answer, jobs.get(int(job_id)).params

    return send


def test_model_has_its_own_defaults(submit: Any) -> None:
    answer, params = submit()

    assert (params.guidance_scale, params.num_inference_steps, params.fps) == (5.0, 50, 16)
    assert params.num_frames == 81  # five seconds, and the frame that there must be more
    assert params.negative_prompt.startswith("Bright tones")
    assert answer["meta"]["num_frames"] == 81
    assert answer["tip"] == '"wan" makes 4n+1 frames: 81 in place of 80'


def test_documented_default_of_the_api_means_the_models_own(submit: Any) -> None:
    """Its clients send 7.5 unasked."""
    answer, params = submit(guidance_scale=7.5, num_frames=33)
    assert params.guidance_scale == 5.0
    assert answer["meta"]["guidance_scale"] == 5.0
    assert answer["tip"] == "guidance_scale 7.5 is this API's default: it means the model's own, 5"

    assert submit(guidance_scale=7.5, model_id="wan-a14b")[1].guidance_scale == 4.0
    assert submit(guidance_scale=7)[1].guidance_scale == 7.0
    assert submit(guidance_scale=7.5, model_id="plain")[1].guidance_scale == 7.5
    assert submit("/api/v6/video/text2video", guidance_scale=7)[1].guidance_scale == 5.0  # v6's own default


def test_what_is_asked_for_is_made_as_far_as_it_can_be(submit: Any) -> None:
    answer, params = submit(num_frames=200, fps=8, num_inference_steps=20, guidance_scale=6, width=520, height=328)

    assert (params.num_frames, params.fps, params.num_inference_steps, params.guidance_scale) == (81, 8, 20, 6.0)
    assert (params.width, params.height) == (520, 328)
    assert answer["tip"] == '"wan" makes 81 frames at most, not 200. made at 528x336, then scaled to 520x328'
    assert (answer["meta"]["native_W"], answer["meta"]["native_H"]) == (528, 336)


def test_seconds_are_counted_at_the_models_own_rate(submit: Any) -> None:
    assert submit(seconds=2)[1].num_frames == 33
    assert submit(seconds=2, fps=8)[1].num_frames == 17
    assert submit("/api/v6/video/text2video")[1].num_frames == 25  # that API's documented length


def test_v1_says_what_was_changed(submit: Any) -> None:
    answer, params = submit("/v1/videos", model="wan", seconds=2, guidance_scale=7.5)

    assert (params.num_frames, params.fps, params.num_inference_steps) == (33, 16, 50)
    assert params.guidance_scale == 7.5  # whoever sends it here means it
    assert answer["num_frames"] == 33
    assert answer["tip"].startswith('"wan" makes 4n+1 frames: 33 in place of 32')
