"""The hosted API's other generations: their defaults, ranges and words."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from promptreel.jobs.store import JobStore
from tests.api.conftest import SUBMIT
from tests.encoding.files import encode_image

V5 = "/api/v5/text2video"
V6 = "/api/v6/video/text2video"
V7 = "/api/v7/video-fusion/text-to-video"
ENTERPRISE = "/api/v1/enterprise/text2video"
ENTERPRISE_VIDEO = "/api/v1/enterprise/video/text2video"
ULTRA = "/api/v6/video/text2video_ultra"
IN_V6 = [V6, ULTRA, ENTERPRISE_VIDEO]
FROM_PICTURE = [
    "/api/v6/video/img2video",
    "/api/v6/video/img2video_ultra",
    "/api/v1/enterprise/video/img2video",
    "/api/v1/enterprise/ultra_video/img2video",
    "/api/v1/enterprise/image_to_video_ultra/img2video",
    "/api/v7/video-fusion/image-to-video",
]
FROM_VIDEO = [
    "/api/v6/video/video2video",
    "/api/v1/enterprise/video/video2video",
    "/api/v7/video-fusion/video-to-video",
]
PICTURE_BASE64 = b64encode(encode_image(np.zeros((8, 8, 3), np.uint8))).decode()
CLIP_BASE64 = b64encode(encode_image(np.zeros((3, 8, 8, 3), np.uint8), "GIF")).decode()
PICTURE = f"data:image/png;base64,{PICTURE_BASE64}"

# What the vendor's Python SDK sends for Text2Video(model_id=..., prompt=...).
SDK_BODY = {
    "key": "k",
    "model_id": "zeroscope",
    "prompt": "a red cat",
    "width": 512,
    "height": 512,
    "num_frames": 30,
    "num_inference_steps": 50,
    "guidance_scale": 7.5,
    "fps": 8,
}


def ask(client: TestClient, path: str, **fields: Any) -> dict[str, Any]:
    answer = client.post(path, json={"prompt": "a red cat", **fields})
    assert answer.status_code == 200
    assert answer.json()["status"] == "processing", answer.json()
    return answer.json()


@pytest.mark.parametrize(
    ("path", "fetch_path"),
    [
        (SUBMIT, "/api/v3/dreambooth/fetch"),
        (V5, "/api/v3/fetch"),
        (ENTERPRISE, "/api/v1/enterprise/video/fetch"),
        (ENTERPRISE_VIDEO, "/api/v1/enterprise/video/fetch"),
        (V6, "/api/v6/video/fetch"),
        (ULTRA, "/api/v6/video/fetch"),
        ("/api/v6/video/img2video", "/api/v6/video/fetch"),
        ("/api/v6/video/img2video_ultra", "/api/v6/video/fetch"),
        ("/api/v1/enterprise/video/img2video", "/api/v1/enterprise/video/fetch"),
        ("/api/v1/enterprise/ultra_video/text2video", "/api/v1/enterprise/video/fetch"),
        (V7, "/api/v7/video-fusion/fetch"),
        ("/api/v7/video-fusion/image-to-video", "/api/v7/video-fusion/fetch"),
    ],
)
def test_each_generation_fetches_at_its_own_address_and_has_the_types_that_clients_rely_on(
    client: TestClient, path: str, fetch_path: str
) -> None:
    answer = ask(client, path, init_image=PICTURE)

    assert answer["fetch_result"] == f"http://video.test:8000{fetch_path}/{answer['id']}"
    assert client.post(answer["fetch_result"], json={"key": "k"}).json() == answer
    assert [type(answer[name]) for name in ("id", "eta", "output", "future_links")] == [int, int, list, list]
    assert answer["output"] == []
    assert answer["message"] == answer["messege"]


def test_answers_on_a_job_are_in_the_dialect_that_created_it(client: TestClient, finish_next: Any) -> None:
    v6, v4 = ask(client, V6), ask(client, SUBMIT)

    assert client.post(f"/api/v4/dreambooth/fetch/{v6['id']}").json() == v6
    assert client.post(f"/api/v6/video/fetch/{v4['id']}").json() == v4
    finish_next(b"video")
    success = client.post(f"/api/v3/dreambooth/fetch/{v6['id']}").json()
    assert success["meta"] == v6["meta"]
    assert "future_links" not in success


def test_job_of_v1_is_answered_in_the_words_of_v4(client: TestClient) -> None:
    job_id = client.post("/v1/videos", json={"prompt": "a red cat"}).json()["id"].removeprefix("video_")

    answer = client.post(f"/api/v6/video/fetch/{job_id}").json()

    assert answer["fetch_result"].endswith(f"/api/v3/dreambooth/fetch/{job_id}")
    assert (answer["meta"]["W"], answer["meta"]["steps"]) == (512, 20)


def test_v5_makes_wide_videos_of_the_given_seconds(client: TestClient) -> None:
    meta = ask(client, V5, negative_prompt="Low Quality", scheduler="DDIMScheduler", seconds=3)["meta"]

    assert (meta["W"], meta["H"], meta["seconds"], meta["num_frames"]) == (576, 320, 3, 24)
    assert (meta["guidance_scale"], meta["steps"], meta["scheduler"]) == (9, 20, "DDIMScheduler")
    assert (meta["negative_prompt"], meta["n_samples"]) == ("Low Quality", 1)
    assert isinstance(meta["guidance_scale"], int)


def test_v5_follows_fields_of_v4_if_they_are_sent(client: TestClient) -> None:
    body = {"model_id": "plain", "width": "512", "height": "256", "num_inference_steps": "30", "seed": 7, "track_id": "a"}
    meta = ask(client, V5, **body)["meta"]

    assert (meta["model_id"], meta["W"], meta["H"], meta["steps"], meta["seed"]) == ("plain", 512, 256, 30, 7)


def test_v5_names_an_unknown_model_and_takes_prompts_as_they_are(client: TestClient) -> None:
    assert client.post(V5, json={"prompt": "a", "model_id": "nowhere"}).json()["message"] == "Model not found"
    assert ask(client, V5, prompt="a cat", model_id="midjourney")["meta"]["prompt"] == "a cat"
    assert ask(client, V5, prompt="a cat", model_id="midjourney", enhance_prompt="yes")["meta"]["prompt"] != "a cat"


def test_enterprise_is_v4_with_a_load_balancer(client: TestClient) -> None:
    body = {"seed": 7, "model_id": "midjourney", "width": "256"}
    enterprise, v4 = ask(client, ENTERPRISE, **body, loadbalancer="yes")["meta"], ask(client, SUBMIT, **body)["meta"]
    wrong = client.post(ENTERPRISE, json={"prompt": "a", "loadbalancer": "maybe", "num_inference_steps": 51}).json()

    assert enterprise | {"file_prefix": ""} == v4 | {"file_prefix": ""}
    assert wrong["message"] == {
        "loadbalancer": ["The loadbalancer must be yes or no."],
        "num_inference_steps": ["The num inference steps must not be greater than 50."],
    }


@pytest.mark.parametrize("path", IN_V6)
def test_v6_has_its_own_defaults_and_names_its_meta_as_its_requests(client: TestClient, path: str) -> None:
    meta = ask(client, path)["meta"]

    assert re.fullmatch(r"[0-9a-f-]{36}", meta.pop("file_prefix"))
    assert isinstance(meta.pop("seed"), int)
    assert meta == {
        "base64": "no",
        "clip_skip": 0,
        "fps": 8,
        "guidance_scale": 7,
        "height": 512,
        "instant_response": "no",
        "model_id": "cutout",
        "negative_prompt": "grey",
        "num_frames": 25,
        "num_inference_steps": 20,
        "output_type": "mp4",
        "prompt": "a red cat",
        "temp": "no",
        "upscale_height": None,
        "upscale_width": None,
        "use_improved_sampling": "no",
        "width": 512,
        "scheduler": "UniPCMultistepScheduler",
        "strength": 0.55,
        "enhance_prompt": "no",
        "native_W": 96,
        "native_H": 96,
    }


@pytest.mark.parametrize("path", [V6, ENTERPRISE_VIDEO])
def test_v6_accepts_the_defaults_that_the_sdk_sends(client: TestClient, path: str) -> None:
    answer = ask(client, path, **SDK_BODY)

    assert (answer["meta"]["model_id"], answer["meta"]["num_frames"], answer["meta"]["num_inference_steps"]) == (
        "cutout",
        25,
        50,
    )
    assert answer["tip"] == ('there is no model "zeroscope": "cutout" makes the video. moved into range: num_frames 25')


def test_v6_moves_numbers_into_their_range(client: TestClient) -> None:
    too_large = {"width": 5000, "height": "2048", "num_frames": 1e9, "num_inference_steps": 10**30, "guidance_scale": "1e300"}
    too_large |= {"fps": 60, "clip_skip": 99, "strength": 7}
    too_small = {"width": 1, "height": -1, "num_frames": -5, "num_inference_steps": -1, "guidance_scale": -1, "fps": -1}
    largest, smallest = (ask(client, V6, **numbers)["meta"] for numbers in (too_large, too_small))

    def told(meta: dict[str, Any]) -> list[Any]:
        return [meta[name] for name in ("width", "height", "num_frames", "num_inference_steps", "guidance_scale", "fps")]

    assert told(largest) == [1024, 1024, 25, 50, 20, 16]
    assert (largest["clip_skip"], largest["strength"]) == (12, 1)
    assert told(smallest) == [64, 64, 1, 1, 0, 1]


def test_v6_still_rejects_non_numbers_and_impossible_seeds(client: TestClient) -> None:
    wrong = {"width": "wide", "guidance_scale": "NaN", "seed": -2, "temp": "maybe"}
    answer = client.post(V6, json={"prompt": "a", "num_frames": 99, **wrong})

    assert (answer.status_code, set(answer.json()["message"])) == (200, set(wrong))
    assert answer.json()["message"]["temp"] == ["The temp must be yes or no."]


def test_v6_answers_switches_as_yes_or_no_and_names_ignored_fields(client: TestClient) -> None:
    answer = ask(client, V6, instant_response=True, temp="true", upscale_height=640, upscale_width=1024, upscale_strength=0.6)

    assert (answer["meta"]["instant_response"], answer["meta"]["temp"]) == ("yes", "yes")
    assert answer["tip"] == "not available yet and ignored: upscale_height, upscale_width"


@pytest.mark.parametrize("path", FROM_PICTURE)
def test_image_to_video_needs_a_picture_and_no_prompt(client: TestClient, jobs: JobStore, path: str) -> None:
    body = {"model_id": "midjourney", "enhance_prompt": "yes", "init_image": PICTURE}
    answers = [client.post(path, json=body | prompt).json() for prompt in ({}, {"prompt": None}, {"prompt": " "})]
    missing = [client.post(path, json={"prompt": "a red cat", "init_image": none}).json() for none in ("", None, [], [""])]

    for answer in answers:
        params = jobs.get(answer["id"]).params
        assert (params.prompt, answer["meta"]["prompt"], params.model_id) == ("", "", "midjourney")
        assert (params.init_key or "").endswith(".png")
        assert answer["meta"]["init_image"] == "yes"
    for answer in missing:
        assert answer["message"] == {"init_image": ["The init image field is required."]}


@pytest.mark.parametrize("path", FROM_VIDEO)
def test_video_to_video_needs_a_video_and_no_prompt(client: TestClient, jobs: JobStore, path: str) -> None:
    answer = client.post(path, json={"init_video": f"data:image/gif;base64,{CLIP_BASE64}"}).json()
    missing = client.post(path, json={"prompt": "a red cat", "init_image": PICTURE}).json()

    assert (jobs.get(answer["id"]).params.init_key or "").startswith("inits/video/")
    assert (answer["meta"]["init_video"], answer["meta"]["prompt"]) == ("yes", "")
    assert missing["message"]["init_video"] == ["The init video field is required."]


@pytest.mark.parametrize("sent", [PICTURE_BASE64, f" {PICTURE_BASE64}\n", [PICTURE_BASE64], [PICTURE], [PICTURE, None]])
def test_picture_may_be_bare_base64_and_in_an_array(client: TestClient, jobs: JobStore, sent: Any) -> None:
    answers = {}
    for path in (SUBMIT, *FROM_PICTURE):
        for told in (None, True, "no"):
            answer = ask(client, path, init_image=sent, base64=told)
            answers[path, told] = "base64 results" in answer["tip"]
            assert (jobs.get(answer["id"]).params.init_key or "").endswith(".png"), path

    assert {told for (_, told), is_named in answers.items() if is_named} == {True}


def test_two_pictures_are_too_many_and_bare_base64_of_something_else_is_named(client: TestClient) -> None:
    two = client.post(FROM_PICTURE[0], json={"init_image": [PICTURE, PICTURE]}).json()
    other = client.post(FROM_PICTURE[0], json={"init_image": b64encode(b"something else").decode()}).json()

    assert two["message"] == {"init_image": ["Send only one init image: a clip starts from a single file."]}
    assert other["message"]["init_image"][0].startswith("The init image must be one of image/png")


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        ({}, (512, 512)),
        ({"resolution": 320}, (568, 320)),
        ({"resolution": "480p", "portrait": False}, (848, 480)),
        ({"resolution": "480", "portrait": "yes"}, (480, 848)),
        ({"resolution": 720}, (1024, 576)),
        ({"resolution": "512x256", "portrait": None}, (512, 256)),  # the Dart SDK sends "512x512" by default
        ({"resolution": 0, "portrait": True}, (320, 568)),
        ({"width": 512, "height": 256, "portrait": True}, (256, 512)),
        ({"width": 96, "height": 96, "resolution": 320}, (568, 320)),
    ],
)
def test_ultra_follows_resolution_and_portrait(client: TestClient, sent: dict[str, Any], size: tuple[int, int]) -> None:
    answer = ask(client, ULTRA, **sent)

    assert (answer["meta"]["width"], answer["meta"]["height"]) == size
    assert ("resolution 576" in answer["tip"]) is (sent == {"resolution": 720})


def test_ultra_makes_long_clips_and_says_what_it_leaves_out(client: TestClient) -> None:
    """With the values that the vendor's Python SDK sends."""
    answer = ask(client, ULTRA, num_frames=92, num_inference_steps=8, guidance_scale=1.0, fps=18, sample_shift=3)

    assert (answer["meta"]["num_frames"], answer["meta"]["fps"], answer["meta"]["guidance_scale"]) == (92, 18, 1)
    assert answer["tip"] == "not available yet and ignored: sample_shift"
    with_resolution = ask(client, V7, aspect_ratio="16:9", duration="8s", resolution="480p")
    assert with_resolution["tip"] == "not available yet and ignored: aspect_ratio, duration, resolution"


def test_v7_needs_no_more_than_a_prompt(client: TestClient) -> None:
    meta = ask(client, V7)["meta"]

    assert (meta["model_id"], meta["width"], meta["height"], meta["num_frames"], meta["fps"]) == ("cutout", 512, 512, 25, 8)


def test_v7_refuses_what_is_out_of_range(client: TestClient) -> None:
    answer = client.post(V7, json={"prompt": "a", "width": 2000, "num_frames": 241})

    assert answer.status_code == 400
    assert answer.json()["message"] == {
        "width": ["The width must not be greater than 1024."],
        "num_frames": ["The num frames must not be greater than 240."],
    }
    assert ask(client, V7, num_frames=240)["meta"]["num_frames"] == 240


def test_v7_reads_a_retry_that_is_sent_in_chunks_with_the_key_in_a_header(client: TestClient) -> None:
    chunks = (part for part in (b'{"key":"K","pro', b'mpt":"a red ball"}'))
    answer = client.post(V7, content=chunks, headers={"Key": "K", "Content-Type": "application/json"})

    assert answer.json()["meta"]["prompt"] == "a red ball"


@pytest.mark.parametrize("path", [V5, ENTERPRISE, *IN_V6, V7])
def test_every_generation_reads_forms_query_strings_and_nulls(client: TestClient, path: str) -> None:
    fields = {"prompt": "a red cat & dog", "negative_prompt": "grey", "seed": "7"}
    nulls = dict.fromkeys(["model_id", "width", "num_frames", "fps", "guidance_scale", "scheduler", "temp", "webhook"])
    answers = [
        client.post(path, data=fields),
        client.post(path, params=fields),
        client.post(path, json=fields | nulls),
        client.post(path, content=b"prompt=a+red+cat+%26+dog&seed=7", headers={"Content-Type": "application/json"}),
    ]

    metas = [answer.json()["meta"] | {"file_prefix": ""} for answer in answers]
    assert metas == [metas[0]] * 4
    assert (metas[0]["prompt"], metas[0]["seed"]) == ("a red cat & dog", 7)
