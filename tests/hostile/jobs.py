"""The costliest allowed requests, and requests just over the limits: each gives a video or a clear refusal."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import httpx

from promptreel.jobs.params import SCHEDULERS
from tests.encoding.files import encode_image, make_bars
from tests.flows.service import Service
from tests.hostile.case import HostileCase
from tests.waiting import wait_for

LARGEST = {"size": "1792x1024"}
LEAST = {"prompt": "a red ball", "size": "64x64", "num_frames": 2, "num_inference_steps": 1, "guidance_scale": 1, "seed": 1}
LONGEST_PROMPT = 2_000
ODD_TEXTS = {
    "marks_upon_marks": "e\u0301\u0302\u0323\u0330" * 400,
    "families": "\U0001f468\u200d\U0001f469\u200d\U0001f467 " * 333,
    "right_to_left_and_back": "\u202e\u2066a cat\u2069\u202c" * 200,
    "half_of_a_pair": "\ud83d" * LONGEST_PROMPT,
    "nothing_to_see": "a\u200b\ufeff\u00ad\u2028\u0000" * 333,
    "one_word": "a" * LONGEST_PROMPT,
    "every_word_its_own": "".join(map(chr, range(0x4E00, 0x4E00 + 1_000))),  # three tokens each
    "commas": "," * LONGEST_PROMPT,
    "largest_characters": "\U0010ffff\ufdfa" * 999,
}


def create(service: Service, **fields: object) -> httpx.Response:
    # json.dumps writes lone surrogates and NaN, as clients may send them; httpx refuses to.
    body = json.dumps(LEAST | fields)
    return service.client.post(f"{service.url}/v1/videos", content=body, headers={"Content-Type": "application/json"})


def finish(service: Service, video: dict[str, Any]) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        now: dict[str, Any] = service.client.get(f"{service.url}/v1/videos/{video['id']}").json()
        return now if now["status"] in ("completed", "failed") else None

    return wait_for(ended, every=0.05)


def make(service: Service, **fields: object) -> None:
    make_together(service, [fields])


def make_together(service: Service, requests: list[dict[str, object]]) -> None:
    answers = [create(service, **fields) for fields in requests]
    assert [answer.status_code for answer in answers] == [200] * len(answers), answers[-1].text
    for answer in answers:
        assert finish(service, answer.json())["status"] == "completed"


def refuse(service: Service, param: str, value: object) -> None:
    answer = create(service, **{param: value})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert len(answer.text) < 1_000


def make_or_say_why(service: Service, **fields: object) -> None:
    """The job may fail, if the request is the cause."""
    answer = create(service, **fields)
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]
        return
    ended = finish(service, answer.json())
    assert ended["status"] == "completed" or ended["error"]["code"] == "generation_failed", ended


def start_from_picture(service: Service, strength: float) -> None:
    files = {"input_reference": ("bars.png", encode_image(make_bars()), "image/png")}
    form = {name: str(value) for name, value in (LEAST | {"strength": strength}).items()}
    answer = service.client.post(f"{service.url}/v1/videos", data=form, files=files)
    assert answer.status_code == 200, answer.text
    assert finish(service, answer.json())["status"] == "completed"


CASES = [
    HostileCase("three_clips_of_the_largest_size", partial(make_together, requests=[LARGEST | {"num_frames": 40}] * 3)),
    HostileCase("gif_of_the_largest_size", partial(make, **LARGEST, num_frames=24, output_type="gif")),
    HostileCase("webm_of_the_largest_size", partial(make, **LARGEST, num_frames=16, output_type="webm")),
    HostileCase("longest_clip_of_the_smallest_size", partial(make, num_frames=240, fps=1)),
    HostileCase("narrowest_clip", partial(make, size="64x1792")),
    HostileCase("flattest_clip", partial(make, size="1792x64", output_type="webm")),
    HostileCase("one_step_of_each_scheduler", partial(make_together, requests=[{"scheduler": name} for name in SCHEDULERS])),
    HostileCase("strength_0_of_one_step", partial(start_from_picture, strength=0)),
    HostileCase("strength_1_of_one_step", partial(start_from_picture, strength=1)),
    HostileCase("most_guidance", partial(make, guidance_scale=20, negative_prompt="a cat")),
    HostileCase("most_layers_left_out", partial(make_or_say_why, clip_skip=12)),
    *(HostileCase(f"prompt_of_{name}", partial(make_or_say_why, prompt=text)) for name, text in ODD_TEXTS.items()),
    HostileCase("negative_prompt_of_commas", partial(make, negative_prompt=ODD_TEXTS["commas"], guidance_scale=2)),
    *(
        HostileCase(f"refused_{name}", partial(refuse, param=param, value=value))
        for name, param, value in (
            ("too_long_a_prompt", "prompt", "a" * (LONGEST_PROMPT + 1)),
            ("a_megabyte_of_negative_prompt", "negative_prompt", "a" * 200_000),
            ("too_many_pixels", "size", "1792x1032"),
            ("no_pixels", "size", "0x0"),
            ("a_size_of_many_digits", "size", "9" * 1_000 + "x1"),
            ("one_frame_too_many", "num_frames", 241),
            ("endless_frames", "num_frames", 1e308),
            ("a_number_of_many_digits", "num_frames", "9" * 5_000),
            ("no_number", "guidance_scale", float("nan")),
            ("endless_guidance", "guidance_scale", float("inf")),
            ("just_too_little_guidance", "guidance_scale", -1e-9),
            ("negative_strength", "strength", -1e-9),
            ("a_seed_too_large", "seed", 2**32),
            ("an_unknown_scheduler", "scheduler", "A" * 1_000),
        )
    ),
]
