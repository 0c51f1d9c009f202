from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient

from promptreel.api.parts import AppParts
from promptreel.jobs.job import JobStatus
from promptreel.jobs.params import SCHEDULERS
from promptreel.jobs.store import JobStore
from tests.api.conftest import PLAIN_CARD, SUBMIT, write_card

DOCUMENTED_BODY = """{
  "key": "", "model_id": "cutout", "prompt": "a red cat sitting on a bench", "negative_prompt": null,
  "width": "512", "height": "512", "scheduler": "UniPCMultistepScheduler", "num_inference_steps": "20",
  "enhance_prompt": "yes", "guidance_scale": 7.5, "strength": 0.55, "seed": null, "webhook": null, "track_id": null
}"""

META_KEYS = [
    "prompt",
    "model_id",
    "scheduler",
    "safetychecker",
    "negative_prompt",
    "W",
    "H",
    "guidance_scale",
    "steps",
    "strength",
    "full_url",
    "seconds",
    "multi_lingual",
    "seed",
    "outdir",
    "file_prefix",
    "num_frames",
    "fps",
    "clip_skip",
    "enhance_prompt",
    "native_W",
    "native_H",
]


def submit(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post(SUBMIT, content=json.dumps({"prompt": "a red cat", **fields}))
    assert answer.status_code == 200
    return answer.json()


def errors(client: TestClient, **fields: Any) -> dict[str, list[str]]:
    answer = submit(client, **fields)
    assert answer["status"] == "error"
    assert answer["messege"] == answer["message"]
    return answer["message"]


def test_documented_body_is_accepted_and_answered_in_the_documented_shape(client: TestClient, jobs: JobStore) -> None:
    answer = client.post(SUBMIT, content=DOCUMENTED_BODY, headers={"Content-Type": "application/json"})

    body = answer.json()
    job = jobs.get(body["id"])
    seed = body["meta"].pop("seed")
    assert answer.status_code == 200
    assert body == {
        "status": "processing",
        "tip": "for faster speed, keep resolution upto 512x512",
        "eta": 16,
        "messege": "Try to fetch request after given estimated time",
        "message": "Try to fetch request after given estimated time",
        "fetch_result": f"http://video.test:8000/api/v3/dreambooth/fetch/{job.id}",
        "id": job.id,
        "output": [],
        "future_links": [f"http://video.test:8000/files/{job.file_prefix}.mp4"],
        "preview": f"http://video.test:8000/files/{job.file_prefix}/preview.webp",
        "meta": {
            "prompt": "a red cat sitting on a bench",
            "model_id": "cutout",
            "scheduler": "UniPCMultistepScheduler",
            "safetychecker": "no",
            "negative_prompt": "grey",
            "W": 512,
            "H": 512,
            "guidance_scale": 7.5,
            "steps": 20,
            "strength": 0.55,
            "full_url": "no",
            "seconds": 5,
            "multi_lingual": "no",
            "outdir": "out",
            "file_prefix": job.file_prefix,
            "num_frames": 40,
            "fps": 8,
            "clip_skip": 0,
            "enhance_prompt": "yes",
            "native_W": 96,
            "native_H": 96,
        },
    }
    assert seed == job.params.seed


def test_types_are_those_that_clients_rely_on(client: TestClient) -> None:
    answer = submit(client)

    assert type(answer["id"]) is int
    assert type(answer["eta"]) is int
    assert answer["output"] == []
    assert type(answer["future_links"]) is list
    assert list(answer["meta"]) == META_KEYS


def test_native_size_is_left_out_for_a_model_of_any_size(client: TestClient) -> None:
    meta = submit(client, model_id="plain")["meta"]

    assert set(META_KEYS) - set(meta) == {"native_W", "native_H"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("key", 5, "The key must be a string."),
        ("model_id", 5, "The model id must be a string."),
        ("prompt", None, "The prompt field is required."),
        ("prompt", "  ", "The prompt field is required."),
        ("prompt", 5, "The prompt must be a string."),
        ("prompt", "x" * 2001, "The prompt must not be greater than 2000 characters."),
        ("prompt", "x" * 100_000, "The prompt must not be greater than 2000 characters."),
        ("prompt", "cat \ud800", "The prompt must be valid Unicode text without null characters."),
        ("prompt", "cat \x00", "The prompt must be valid Unicode text without null characters."),
        ("negative_prompt", ["grey"], "The negative prompt must be a string."),
        ("negative_prompt", "x" * 2001, "The negative prompt must not be greater than 2000 characters."),
        ("width", "wide", "The width must be an integer."),
        ("width", 63, "The width must be at least 64."),
        ("width", 1025, "The width must not be greater than 1024."),
        ("height", True, "The height must be an integer."),
        ("height", "2048", "The height must not be greater than 1024."),
        ("scheduler", 5, f"The selected scheduler is invalid. Use one of: {', '.join(SCHEDULERS)}."),
        ("scheduler", "Fast", f"The selected scheduler is invalid. Use one of: {', '.join(SCHEDULERS)}."),
        ("num_inference_steps", -1, "The num inference steps must be at least 1."),
        ("num_inference_steps", "51", "The num inference steps must not be greater than 50."),
        ("num_inference_steps", 10**400, "The num inference steps must not be greater than 50."),
        ("num_inference_steps", 7.5, "The num inference steps must be an integer."),
        ("enhance_prompt", "maybe", "The enhance prompt must be yes or no."),
        ("guidance_scale", "high", "The guidance scale must be a number."),
        ("guidance_scale", -0.5, "The guidance scale must be at least 0."),
        ("guidance_scale", 21, "The guidance scale must not be greater than 20."),
        ("guidance_scale", 10**400, "The guidance scale must not be greater than 20."),
        ("strength", -0.1, "The strength must be at least 0."),
        ("strength", "1.1", "The strength must not be greater than 1."),
        ("seed", -2, "The seed must be at least 0."),
        ("seed", 2**32, "The seed must not be greater than 4294967295."),
        ("seed", "lucky", "The seed must be an integer."),
        ("webhook", "not a url", "The webhook must be a valid URL."),
        ("webhook", 5, "The webhook must be a valid URL."),
        ("webhook", "http://[", "The webhook must be a valid URL."),
        ("track_id", {"a": 1}, "The track id must be a string or a number."),
        ("track_id", "x" * 2001, "The track id must not be greater than 2000 characters."),
        ("seconds", 31, "The seconds must not be greater than 30."),
        ("fps", 31, "The fps must not be greater than 30."),
        ("num_frames", 241, "The num frames must not be greater than 240."),
        ("output_type", "avi", "The selected output type is invalid. Use one of: mp4, webm, gif."),
        ("output_type", ".gif", "The selected output type is invalid. Use one of: mp4, webm, gif."),
        ("output_type", ["gif"], "The selected output type is invalid. Use one of: mp4, webm, gif."),
        ("lora_model", "style", "There is no LoRA 'style'. Import one with `promptreel models add`."),
        ("embeddings_model", "badhands", "There is no embedding 'badhands'. Import one with `promptreel models add`."),
        ("motion_loras", ["style"], "The motion loras must be a string or a number."),
        ("clip_skip", -1, "The clip skip must be at least 0."),
        ("clip_skip", 13, "The clip skip must not be greater than 12."),
        ("clip_skip", "all", "The clip skip must be an integer."),
        ("samples", "many", "The samples must be an integer."),
        ("safety_checker", 7, "The safety checker must be yes or no."),
        ("multi_lingual", "x", "The multi lingual must be yes or no."),
        ("temp", [], "The temp must be yes or no."),
    ],
)
def test_wrong_field_is_named_with_its_error(client: TestClient, jobs: JobStore, field: str, value: Any, message: str) -> None:
    assert errors(client, **{field: value}) == {field: [message]}
    assert jobs.list() == []


def test_all_wrong_fields_are_named_at_once(client: TestClient) -> None:
    found = errors(client, prompt="", width=1, seconds=99, num_inference_steps=51, init_image="x", model_id="nowhere")

    assert set(found) == {"prompt", "width", "seconds", "num_inference_steps", "init_image"}


def test_wrong_fields_are_named_in_a_plain_sentence_too(client: TestClient) -> None:
    """JavaScript that prints `message` prints [object Object]."""
    assert submit(client, prompt="", width=1)["tip"] == "The width must be at least 64. The prompt field is required."


@pytest.mark.parametrize("number", ["1e999", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["width", "guidance_scale", "seed"])
def test_nan_and_infinity_are_refused(client: TestClient, field: str, number: str) -> None:
    answer = client.post(SUBMIT, content=f'{{"prompt": "cat", "{field}": {number}}}')

    assert list(answer.json()["message"]) == [field]


@pytest.mark.parametrize("output_type", ["mp4", "webm", "gif"])
def test_link_ends_with_the_output_type(client: TestClient, jobs: JobStore, output_type: str) -> None:
    answer = submit(client, output_type=output_type)

    job = jobs.get(answer["id"])
    assert job.params.output_type == output_type
    assert answer["future_links"] == [f"http://video.test:8000/files/{job.file_prefix}.{output_type}"]
    assert list(answer["meta"]) == META_KEYS


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_each_scheduler_is_accepted(client: TestClient, scheduler: str) -> None:
    assert submit(client, scheduler=scheduler)["meta"]["scheduler"] == scheduler


def test_unknown_model_is_not_found(client: TestClient, jobs: JobStore) -> None:
    for model_id in ("nowhere", "../cutout", "..", "/etc/passwd", "cutout/"):
        answer = submit(client, model_id=model_id)

        tip = answer.pop("tip")
        assert answer == {"status": "error", "message": "Model not found", "messege": "Model not found"}
        assert tip.startswith(f"There is no model {model_id!r}. Known models: cutout, midjourney, plain.")
    assert jobs.list() == []


def test_null_and_empty_mean_the_default(client: TestClient) -> None:
    names = (
        "key model_id negative_prompt width height scheduler num_inference_steps enhance_prompt guidance_scale strength webhook"
    )
    left_out = submit(client, seed=1)["meta"]

    nulls = submit(client, seed=1, **dict.fromkeys(names.split()))["meta"]
    empties = submit(client, seed=1, **dict.fromkeys(names.replace("negative_prompt", "lora_model").split(), ""))["meta"]
    for meta in (left_out, nulls, empties):
        meta.pop("file_prefix")
    assert left_out == nulls == empties


def test_empty_negative_prompt_is_kept(client: TestClient) -> None:
    assert submit(client, negative_prompt="")["meta"]["negative_prompt"] == ""


def test_numbers_may_be_strings(client: TestClient) -> None:
    meta = submit(
        client, width="520", height=" 256 ", num_inference_steps="30.0", guidance_scale="8.25", strength="1", seed="4294967295"
    )["meta"]

    assert (meta["W"], meta["H"], meta["steps"], meta["guidance_scale"]) == (520, 256, 30, 8.25)
    assert (meta["strength"], meta["seed"]) == (1.0, 4294967295)


def test_size_is_rounded_down_to_a_multiple_of_eight(client: TestClient) -> None:
    meta = submit(client, width=519, height=71)["meta"]

    assert (meta["W"], meta["H"]) == (512, 64)


@pytest.mark.parametrize(
    ("value", "echo"), [("yes", "yes"), ("NO", "no"), (True, "yes"), (False, "no"), ("false", "no"), (1, "yes")]
)
def test_switch_has_many_spellings(client: TestClient, value: Any, echo: str) -> None:
    meta = submit(client, enhance_prompt=value)["meta"]

    assert meta["enhance_prompt"] == echo
    assert meta["prompt"] == "a red cat"


def test_random_seed_is_reported_and_different_each_time(client: TestClient) -> None:
    seeds = {submit(client, seed=None)["meta"]["seed"] for _ in range(4)}

    assert len(seeds) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(("track_id", "kept"), [("order 7", "order 7"), (7, "7"), (1.5, "1.5"), (True, "true"), (None, None)])
def test_track_id_may_be_any_scalar(client: TestClient, jobs: JobStore, track_id: Any, kept: str | None) -> None:
    assert jobs.get(submit(client, track_id=track_id)["id"]).track_id == kept


def test_length_follows_seconds_and_fps(client: TestClient) -> None:
    by_seconds = submit(client, seconds=3, fps=16)["meta"]
    by_frames = submit(client, num_frames=20, seconds=5)["meta"]

    assert (by_seconds["num_frames"], by_seconds["seconds"], by_seconds["fps"]) == (48, 3, 16)
    assert (by_frames["num_frames"], by_frames["seconds"], by_frames["fps"]) == (20, 2.5, 8)


def test_clip_longer_than_the_motion_modules_window_is_accepted_and_its_extra_work_is_counted(client: TestClient) -> None:
    """The window of `cutout` has 48 frames here."""
    within = submit(client, num_frames=48)
    beyond = submit(client, num_frames=96)
    longest = submit(client, seconds=30)["meta"]

    own_seconds = beyond["eta"] - within["eta"]
    assert own_seconds > 2 * within["eta"]
    assert (longest["num_frames"], longest["seconds"]) == (240, 30)


def test_more_than_240_frames_are_refused_with_the_maximum(client: TestClient) -> None:
    assert errors(client, seconds=9, fps=30) == {
        "seconds": ["The seconds must not be greater than 8: a video has at most 240 frames, which are 8 seconds at 30 fps."]
    }
    assert submit(client, seconds=9, fps=30, num_frames=240)["meta"]["seconds"] == 8


def test_default_length_is_five_seconds(client: TestClient) -> None:
    meta = submit(client, fps=30)["meta"]

    assert (meta["num_frames"], meta["seconds"]) == (150, 5)


def test_tip_names_words_that_the_model_does_not_know(client: TestClient) -> None:
    tip = submit(client, prompt="A red DRAGON on a bench, red dragon")["tip"]

    assert tip.startswith('the model "cutout" does not know: dragon; it knows 7 words')
    assert "ball" in tip
    assert submit(client, prompt="a dragon", model_id="plain")["tip"] == "for faster speed, keep resolution upto 512x512"


def test_prompt_gets_the_models_phrases_as_documented(client: TestClient, jobs: JobStore) -> None:
    answer = submit(client, prompt="a cat sitting on a bench", model_id="midjourney")

    assert answer["meta"]["prompt"] == "mdjrny-v4 style a cat sitting on a bench DSLR photography, sharp focus"
    assert jobs.get(answer["id"]).params.prompt == answer["meta"]["prompt"]


def test_prompt_stays_unchanged_without_enhance_prompt(client: TestClient, jobs: JobStore) -> None:
    prompt = " A cat,\tsitting  on a BENCH \n"
    answer = submit(client, prompt=prompt, model_id="midjourney", enhance_prompt="no")

    assert answer["meta"]["prompt"] == jobs.get(answer["id"]).params.prompt == prompt


def test_longest_prompt_may_be_enhanced(client: TestClient) -> None:
    assert len(submit(client, prompt="x" * 2000, model_id="midjourney")["meta"]["prompt"]) > 2000
    assert list(errors(client, prompt="x" * 2001, model_id="midjourney")) == ["prompt"]


def test_model_with_a_vocabulary_gets_no_unknown_phrase(client: TestClient, services: AppParts) -> None:
    card = {"words": ["cat", "sharp"], "trigger_words": ["sharp"], "quality_words": ["sharp focus"]}
    write_card(services.models.get("plain").path.parent / "small", PLAIN_CARD | card)
    answer = submit(client, prompt="a cat", model_id="small")

    assert answer["meta"]["prompt"] == "sharp a cat"
    assert "does not know: a; it knows 2 words" in answer["tip"]


@pytest.mark.parametrize(("sent", "kept"), [(2, 2), ("12", 12), (None, 0), ("", 0)])
def test_clip_skip_reaches_the_job(client: TestClient, jobs: JobStore, sent: Any, kept: int) -> None:
    answer = submit(client, clip_skip=sent)

    assert jobs.get(answer["id"]).params.clip_skip == answer["meta"]["clip_skip"] == kept


def test_tip_names_ignored_fields(client: TestClient) -> None:
    answer = submit(client, safety_checker="yes", multi_lingual="yes", samples=2)

    assert answer["tip"] == "not available yet and ignored: safety_checker, multi_lingual, samples"
    assert answer["meta"]["safetychecker"] == "no"


def test_unknown_fields_are_ignored(client: TestClient) -> None:
    assert submit(client, base64="no", lora_strength=0.7, whatever=[1, {}])["status"] == "processing"


def test_accepted_job_is_queued_with_its_params(client: TestClient, jobs: JobStore) -> None:
    job = jobs.get(submit(client, width=256, seed=7)["id"])

    assert job.status is JobStatus.QUEUED
    assert (job.params.width, job.params.height, job.params.seed) == (256, 512, 7)
    assert "key" not in job.request


def test_eta_grows_with_the_queue(client: TestClient) -> None:
    first, second = submit(client)["eta"], submit(client)["eta"]

    assert second == 2 * first


FORM = {"prompt": "a red cat & dog = friends", "width": "256", "seed": "", "enhance_prompt": "no", "key": "k"}


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "application/json", "text/plain", "Application/JSON; charset=utf-8"]
)
def test_form_is_read_under_any_content_type(client: TestClient, content_type: str) -> None:
    answer = client.post(SUBMIT, content=urlencode(FORM), headers={"Content-Type": content_type}).json()

    assert answer["status"] == "processing"
    assert (answer["meta"]["prompt"], answer["meta"]["W"]) == ("a red cat & dog = friends", 256)


def test_multipart_form_is_read(client: TestClient) -> None:
    answer = client.post(SUBMIT, data=FORM, files={"init": ("a.txt", b"x")}).json()

    assert (answer["meta"]["prompt"], answer["meta"]["W"]) == ("a red cat & dog = friends", 256)


def test_query_string_is_read_when_the_body_is_empty(client: TestClient) -> None:
    answer = client.post(SUBMIT, params=FORM).json()

    assert (answer["meta"]["prompt"], answer["meta"]["W"]) == ("a red cat & dog = friends", 256)


def test_json_is_read_under_a_form_content_type(client: TestClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post(SUBMIT, content=b'\xef\xbb\xbf{"prompt": "a=b"}', headers=headers).json()

    assert answer["meta"]["prompt"] == "a=b"


def test_chunked_body_is_read(client: TestClient) -> None:
    answer = client.post(SUBMIT, content=(part for part in (b'{"prompt": ', b'"a red', b' cat"}'))).json()

    assert answer["meta"]["prompt"] == "a red cat"


def test_unicode_prompt_comes_back_unchanged(client: TestClient) -> None:
    assert submit(client, prompt="красный кот 🐈 ")["meta"]["prompt"] == "красный кот 🐈 "
