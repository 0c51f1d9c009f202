"""What real clients send for "not given", and other spellings of the same value, in every dialect."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.api.legacy.paths import CREATE_PATHS
from promptreel.jobs.eta import work_units
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore
from tests.api.test_generations import CLIP_BASE64, PICTURE
from tests.api.test_openai import VIDEOS

INITS = {"init_image": {"init_image": PICTURE}, "init_video": {"init_video": CLIP_BASE64}, None: {}}
EVERYWHERE: dict[str, dict[str, Any]] = {path: INITS[dialect.needs_init] for path, dialect in CREATE_PATHS.items()}
EVERYWHERE[VIDEOS] = {}
NUMBERS = ("width", "height", "seconds", "num_frames", "fps", "num_inference_steps")
SAID_OTHERWISE = {
    "seconds": {"seconds": 0},
    "numbers of a client whose language has no null": dict.fromkeys(NUMBERS, 0) | {"seed": -1, "samples": 0},
    "texts": dict.fromkeys(NUMBERS, "0") | {"seed": "-1"},
    "floats": dict.fromkeys(NUMBERS, 0.0) | {"seed": -1.0},
    "empty": dict.fromkeys((*NUMBERS, "seed", "guidance_scale", "scheduler", "output_type", "enhance_prompt", "size"), ""),
    "Python in a form": dict.fromkeys((*NUMBERS, "seed", "scheduler", "output_type", "webhook"), "None"),
    "JavaScript in a form": dict.fromkeys((*NUMBERS, "seed", "scheduler", "output_type", "webhook"), "undefined"),
}


def params_of(client: TestClient, jobs: JobStore, path: str, **fields: Any) -> VideoParams:
    answer = client.post(path, json={"prompt": "a red cat", **EVERYWHERE[path], **fields}).json()
    assert "id" in answer, answer
    return jobs.get(int(str(answer["id"]).removeprefix("video_"))).params


@pytest.mark.parametrize("path", EVERYWHERE)
def test_spelling_of_not_given_means_the_default(client: TestClient, jobs: JobStore, path: str) -> None:
    expected = params_of(client, jobs, path)
    seeds = {expected.seed}
    for name, fields in SAID_OTHERWISE.items():
        found = params_of(client, jobs, path, **fields)
        seeds.add(found.seed)
        assert astuple(found) == astuple(VideoParams(**(vars(expected) | {"seed": found.seed}))), name

    assert len(seeds) == 1 + len(SAID_OTHERWISE)


def test_no_guidance_is_half_the_work(client: TestClient, jobs: JobStore) -> None:
    for path in EVERYWHERE:
        units = {}
        for scale in (0, "0", 0.5, 1, 2):
            params = params_of(client, jobs, path, guidance_scale=scale)
            units[scale] = work_units(params, 240)
            assert params.guidance_scale == float(scale)
        assert [units[scale] * 2 for scale in (0, "0", 0.5, 1)] == [units[2]] * 4


def test_choices_ignore_case(client: TestClient, jobs: JobStore) -> None:
    for path in EVERYWHERE:
        params = params_of(client, jobs, path, output_type="WebM ", scheduler="ddimscheduler", enhance_prompt="False")

        assert (params.output_type, params.scheduler) == ("webm", "DDIMScheduler")


@pytest.mark.parametrize(("sent", "kept"), [(" 512 ", 512), ("512.0", 512), (512.0, 512), ("+64", 64), ("0064", 64)])
def test_whole_numbers_have_many_spellings(client: TestClient, jobs: JobStore, sent: Any, kept: int) -> None:
    for path in ("/api/v4/dreambooth/text2video", "/api/v6/video/text2video", VIDEOS):
        assert params_of(client, jobs, path, width=sent, height=kept).width == kept
