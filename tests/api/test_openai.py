"""`/v1/videos` and `/v1/models` in OpenAI's shape."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from promptreel.api.app import AppParts, create_app
from promptreel.api.v1.openapi import CREATE_FIELDS
from promptreel.jobs.job import Claim, Job, JobStage, Result
from promptreel.jobs.store import JobStore
from promptreel.models.registry import ModelRegistry
from promptreel.storage.local import LocalStorage
from tests.api.conftest import SUBMIT
from tests.api.test_inits import GIF, MP4, PNG, data_uri, stored_files
from tests.encoding.files import encode_video

VIDEOS = "/v1/videos"
STANDARD = {
    "id", "object", "model", "status", "progress", "created_at", "completed_at", "expires_at", "prompt", "size", "seconds",
    "remixed_from_video_id", "error",
}  # fmt: skip
EXTENSIONS = {
    "negative_prompt", "num_frames", "fps", "num_inference_steps", "guidance_scale", "scheduler", "strength", "seed",
    "enhance_prompt", "clip_skip", "motion_adapter", "loras", "embeddings", "output_type", "media_type",
    "input_reference",
}  # fmt: skip


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post(VIDEOS, json={"prompt": "a red cat", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The error in an answer. Fails if the answer is no error in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error


def claim(jobs: JobStore) -> tuple[Claim, Job]:
    return jobs.claim("worker-1") or pytest.fail("nothing to claim")


def test_create_answers_the_video_with_all_defaults(client: TestClient, jobs: JobStore) -> None:
    video = create(client)

    assert set(video) == STANDARD | EXTENSIONS | {"stage", "queue_position", "eta"}
    assert video | {"created_at": 0, "seed": 0, "eta": 0} == {
        "id": "video_1",
        "object": "video",
        "model": "cutout",
        "status": "queued",
        "progress": 0,
        "created_at": 0,
        "completed_at": None,
        "expires_at": None,
        "prompt": "a red cat",
        "size": "512x512",
        "seconds": "4",
        "remixed_from_video_id": None,
        "error": None,
        "negative_prompt": "grey",
        "num_frames": 32,
        "fps": 8,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "scheduler": "UniPCMultistepScheduler",
        "strength": 0.55,
        "seed": 0,
        "enhance_prompt": False,
        "input_reference": None,
        "clip_skip": 0,
        "motion_adapter": None,
        "loras": [],
        "embeddings": [],
        "output_type": "mp4",
        "media_type": "video/mp4",
        "stage": None,
        "queue_position": 1,
        "eta": 0,
    }
    assert isinstance(video["created_at"], int)
    assert video["eta"] >= 1
    assert jobs.get(1).params.seed == video["seed"]
    assert client.get(f"{VIDEOS}/video_1").json() == video


@pytest.mark.parametrize("form", ["json", "multipart", "urlencoded"])
def test_create_takes_all_fields_in_every_form(client: TestClient, jobs: JobStore, form: str) -> None:
    asked = {
        "model": "midjourney", "prompt": "a cat", "size": "720x1280", "seconds": "3", "negative_prompt": "fog", "fps": "12",
        "num_inference_steps": "4", "guidance_scale": "3.5", "scheduler": "DDIMScheduler", "seed": "9", "strength": "0.25",
        "enhance_prompt": "true", "clip_skip": "2", "output_type": "webm", "user": "unknown fields are ignored",
    }  # fmt: skip
    sent: dict[str, Any] = {
        "json": {"json": asked},
        "multipart": {"files": {name: (None, value) for name, value in asked.items()}},
        "urlencoded": {"data": asked},
    }
    answer = client.post(VIDEOS, **sent[form])
    assert answer.status_code == 200, answer.text
    params = jobs.get(1).params

    enhanced = "mdjrny-v4 style a cat DSLR photography, sharp focus"
    assert (params.model_id, params.prompt, params.negative_prompt) == ("midjourney", enhanced, "fog")
    assert (params.clip_skip, params.output_type) == (2, "webm")
    assert (params.width, params.height, params.num_frames, params.fps) == (720, 1280, 36, 12)
    assert (params.num_inference_steps, params.guidance_scale, params.strength) == (4, 3.5, 0.25)
    assert (params.scheduler, params.seed) == ("DDIMScheduler", 9)
    assert (answer.json()["size"], answer.json()["seconds"]) == ("720x1280", "3")


def test_num_frames_overrides_seconds_and_sides_replace_size(client: TestClient) -> None:
    video = create(client, num_frames=10, seconds=5, fps=4, width=100, height="64")

    assert (video["num_frames"], video["seconds"], video["size"]) == (10, "2.5", "96x64")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": " "}, "prompt", "The prompt field is required."),
        ({"size": "large"}, "size", 'The size must be "WIDTHxHEIGHT" in pixels, such as "512x512".'),
        ({"size": 512}, "size", "The size must be"),
        ({"size": "32x512"}, "size", "64 to 1792 pixels on each side"),
        ({"size": "1792x1792"}, "size", "not have more than 1835008 pixels"),
        ({"width": 1792, "height": 1792}, "width", "not have more than 1835008 pixels"),
        ({"seconds": "30", "fps": 24}, "seconds", "The seconds must not be greater than 10"),
        ({"num_frames": 241}, "num_frames", "must not be greater than 240"),
        ({"scheduler": "Best"}, "scheduler", "Use one of: DDPMScheduler"),
        ({"output_type": "avi"}, "output_type", "Use one of: mp4, webm, gif."),
        ({"enhance_prompt": "maybe"}, "enhance_prompt", "must be yes or no"),
        ({"clip_skip": 13}, "clip_skip", "must not be greater than 12"),
        ({"loras": "style"}, "loras", "There is no LoRA 'style'"),
        ({"loras": [{"model": "style", "weight": 1}]}, "loras", "must be a list of ids"),
        ({"loras": ["a:strong"]}, "loras", "must be a number from -4 to 4"),
        ({"loras": [{"model": "a", "strength": 40}]}, "loras", "must be a number from -4 to 4"),
        ({"loras": list("abcdefghi")}, "loras", "must not name more than 8"),
        ({"loras": "[[["}, "loras", "must be a list of ids"),
        ({"loras": 7}, "loras", "must be a list of ids"),
        ({"loras": "cutout"}, "loras", "'cutout' is a checkpoint, not a LoRA"),
        ({"embeddings": "badhands"}, "embeddings", "There is no embedding 'badhands'. Import one with"),
        ({"embeddings": ["cutout"]}, "embeddings", "'cutout' is a checkpoint, not an embedding"),
        ({"embeddings": list("abcdefghi")}, "embeddings", "must not name more than 8"),
        ({"embeddings": [{"model": "badhands"}]}, "embeddings", "must be a list of ids"),
        ({"embeddings": 7}, "embeddings", "must be a list of ids"),
        ({"seed": -2}, "seed", "The seed must be at least 0."),
        ({"input_reference": "/etc/passwd"}, "input_reference", "The input reference must be a URL or a data: URI"),
        ({"input_reference": {"file_id": "file_1"}}, "input_reference", "A file_id is not supported"),
        ({"input_reference": data_uri("text/html", b"x")}, "input_reference", "The input reference must be one of video/mp4"),
        ({"input_reference": "http://127.0.0.1/a.png"}, "input_reference", "127.0.0.1 is not on the public internet"),
    ],
)  # fmt: skip
def test_field_that_cannot_be_used_is_named(
    client: TestClient, jobs: JobStore, fields: dict[str, Any], param: str, message: str
) -> None:
    error = error_of(client.post(VIDEOS, json={"prompt": "a cat", **fields}), 400)

    assert (error["param"], error["code"]) == (param, "invalid_params")
    assert message in error["message"]
    assert jobs.list() == []


@pytest.mark.parametrize(
    ("sent", "ending"),
    [
        ({"json": {"input_reference": data_uri("image/png", PNG)}}, "png"),
        ({"json": {"input_reference": {"image_url": data_uri("video/mp4", MP4)}}}, "mp4"),
        ({"files": {"input_reference": ("any name", PNG, "text/plain")}}, "png"),
        ({"files": {"input_reference": ("a.gif", GIF)}}, "gif"),
        ({"files": {"input_reference[image_url]": (None, data_uri("image/png", PNG))}}, "png"),
    ],
)
def test_input_reference_is_stored_before_the_job_names_it(
    client: TestClient, jobs: JobStore, storage: LocalStorage, sent: dict[str, Any], ending: str
) -> None:
    assert client.post(VIDEOS, params={"prompt": "a cat"}, **sent).status_code == 200
    key = jobs.get(1).params.init_key or ""

    assert key.endswith(f".{ending}")
    assert key.startswith("inits/image/" if ending == "png" else "inits/video/")
    assert storage.path(key) is not None


def test_file_that_is_no_picture_is_refused_and_not_kept(client: TestClient, tmp_path: Path) -> None:
    for data in (b"", b"hello"):
        answer = client.post(VIDEOS, data={"prompt": "a"}, files={"input_reference": ("a.png", data)})
        assert error_of(answer, 400)["param"] == "input_reference"
    assert stored_files(tmp_path) == []


def test_words_that_the_model_does_not_know_are_named(client: TestClient) -> None:
    assert create(client, prompt="a red zebra")["tip"] == 'the model "cutout" does not know: zebra'
    assert "tip" not in create(client, prompt="a red zebra", model="plain")


def test_states_and_progress_of_a_video(client: TestClient, jobs: JobStore) -> None:
    waiting, behind = (create(client)["id"] for _ in range(2))
    work, job = claim(jobs)
    jobs.report(work, stage=JobStage.DECODING, progress=1.0)
    running = client.get(f"{VIDEOS}/{waiting}").json()
    assert (running["status"], running["progress"], running["queue_position"]) == ("in_progress", 99, 0)
    assert running["stage"] == "decoding"
    assert client.get(f"{VIDEOS}/{behind}").json()["queue_position"] == 1

    facts = {"stages": {"denoising": 1.5, "encoding": 0.5}, "busy_seconds": 2.0, "peak_memory_mb": 512.5, "device": "cpu"}
    jobs.finish(work, Result(key="a/1.mp4", size_bytes=1, sha256="", facts=facts))
    done = client.get(f"{VIDEOS}/{waiting}").json()
    assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
    assert isinstance(done["completed_at"], int)
    assert (done["inference_time_s"], done["stage_durations"]) == (2.0, facts["stages"])
    assert done["peak_memory_mb"] == 512.5
    assert not {"eta", "queue_position", "stage"} & done.keys()

    work, job = claim(jobs)
    jobs.fail(work, code="out_of_memory", message="Ask for fewer frames.")
    failed = client.get(f"{VIDEOS}/{behind}")
    assert (failed.status_code, failed.json()["status"]) == (200, "failed")
    assert failed.json()["error"] == {"code": "out_of_memory", "message": "Ask for fewer frames."}

    cancelled = create(client)["id"]
    jobs.cancel(job.id + 1)
    assert client.get(f"{VIDEOS}/{cancelled}").json()["error"] == {"code": "cancelled", "message": "Cancelled"}


def test_job_of_another_dialect_is_a_video_too(client: TestClient) -> None:
    job_id = client.post(SUBMIT, json={"prompt": "a red cat", "output_type": "gif"}).json()["id"]
    video = client.get(f"{VIDEOS}/video_{job_id}").json()

    assert (video["status"], video["size"], video["media_type"]) == ("queued", "512x512", "image/gif")


def test_list_is_paged_in_either_order(client: TestClient) -> None:
    ids = [create(client)["id"] for _ in range(5)]

    def walk(order: str) -> list[list[str]]:
        pages, after = [], {}
        while True:
            page = client.get(VIDEOS, params={"limit": 2, "order": order, **after}).json()
            pages.append([video["id"] for video in page["data"]])
            assert (page["object"], page["first_id"], page["last_id"]) == ("list", pages[-1][0], pages[-1][-1])
            if not page["has_more"]:
                return pages
            after = {"after": page["last_id"]}

    assert walk("asc") == [ids[:2], ids[2:4], ids[4:]]
    assert walk("desc") == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert client.get(VIDEOS, params={"after": ids[0]}).json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("limit", 101), ("order", "random"), ("after", "17")])
def test_impossible_page_is_refused(client: TestClient, name: str, value: object) -> None:
    assert error_of(client.get(VIDEOS, params={name: value}), 400)["param"] == name


def test_content_is_the_file_with_ranges_once_it_is_there(client: TestClient, finish_next: Callable[[bytes], None]) -> None:
    path = f"{VIDEOS}/{create(client)['id']}/content"
    early = error_of(client.get(path), 404)
    finish_next(MP4)

    whole = client.get(path, params={"variant": "video"})
    part = client.get(path, headers={"Range": "bytes=2-5"})

    assert early["code"] == "content_unavailable"
    assert "not there yet" in early["message"]
    assert (whole.status_code, whole.content, whole.headers["Content-Type"]) == (200, MP4, "video/mp4")
    assert (part.status_code, part.content) == (206, MP4[2:6])
    assert error_of(client.get(path, params={"variant": "spritesheet"}), 400)["param"] == "variant"


def test_players_may_ask_for_the_head_of_the_content_first(client: TestClient, finish_next: Callable[[bytes], None]) -> None:
    path = f"{VIDEOS}/{create(client)['id']}/content"
    early = client.head(path)
    finish_next(MP4)

    answer = client.head(path)

    assert (early.status_code, answer.status_code, answer.content) == (404, 200, b"")
    assert (answer.headers["Content-Type"], answer.headers["Content-Length"]) == ("video/mp4", str(len(MP4)))


@pytest.mark.parametrize(
    ("fields", "tip"),
    [
        ({"sise": "64x64"}, "sise (did you mean size?)"),
        ({"Seconds": 2, "n": 1}, "Seconds (did you mean seconds?), n"),
        ({"size": "64x64", "width": 64}, "width"),
        ({f"quite_another_{n}": 1 for n in range(10)}, ", ".join([*(f"quite_another_{n}" for n in range(8)), "2 more"])),
        ({"\ud800\n": 1}, r"'\ud800\n'"),
    ],
)
def test_ignored_fields_are_named(client: TestClient, fields: dict[str, Any], tip: str) -> None:
    """They are no errors, because other services know more fields."""
    answer = client.post(VIDEOS, content=json.dumps({"prompt": "a red cat", **fields})).json()

    assert answer["tip"] == f"ignored fields: {tip}"
    assert client.get(f"{VIDEOS}/{answer['id']}").json()["tip"] == answer["tip"]


def test_known_fields_are_not_named(client: TestClient, finish_next: Callable[[bytes], None]) -> None:
    known = dict.fromkeys(CREATE_FIELDS) | {"key": "k", "track_id": 7, "webhook": None, "width": 64, "quality": None}
    video = client.post(
        VIDEOS, json={**known, "prompt": "a red cat", "input_reference": {"image_url": data_uri("image/png", PNG)}}
    )
    finish_next(MP4)
    edits = [
        edit(client, prompt="a red cat", video=video.json()["id"], **more) for more in ({}, {"size": "64x64", "seconds": 2})
    ]
    remix = client.post(f"{VIDEOS}/{video.json()['id']}/remix", json={"prompt": "a red cat"})

    assert [answer.json().get("tip") for answer in (video, *edits, remix)] == [None] * 4


def test_remix_names_the_fields_that_it_ignores(client: TestClient) -> None:
    video = create(client, prompt="a red cat")
    remix = client.post(f"{VIDEOS}/{video['id']}/remix", json={"prompt": "a red cat", "size": "64x64"}).json()

    assert remix["tip"] == "ignored fields: size"


def edit(client: TestClient, **fields: Any) -> Any:
    return client.post(f"{VIDEOS}/edits", json={"prompt": "a red ball", **fields})


def test_edit_starts_from_the_videos_file_and_keeps_its_params(
    client: TestClient, jobs: JobStore, storage: LocalStorage, finish_next: Callable[[bytes], None]
) -> None:
    asked = {"size": "96x64", "num_frames": 3, "seed": 9, "scheduler": "DDIMScheduler", "negative_prompt": "fog", "fps": 4}
    asked |= {"model": "midjourney", "enhance_prompt": True, "input_reference": data_uri("image/png", PNG), "strength": 0.1}
    source = create(client, **asked, guidance_scale=0)
    finish_next(MP4)
    first = jobs.get(1).params

    for sent in ({"id": source["id"]}, source["id"]):
        answer = edit(client, video=sent)
        assert answer.status_code == 200, answer.text
        params = jobs.get(int(answer.json()["id"].removeprefix("video_"))).params
        assert storage.read(params.init_key or "") == MP4
        assert params == replace(
            first, prompt="mdjrny-v4 style a red ball DSLR photography, sharp focus", init_key=params.init_key, strength=0.55
        )
        assert answer.json()["remixed_from_video_id"] == source["id"]
    longer = edit(client, video=source["id"], seconds=2, strength=0.8, size="64x64", seed=-1, model="").json()
    assert (longer["num_frames"], longer["strength"], longer["size"]) == (8, 0.8, "64x64")
    assert (longer["model"], longer["seed"] == 9) == ("midjourney", False)


def test_edit_starts_from_a_file_too(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    answers = [
        client.post(f"{VIDEOS}/edits", data={"prompt": "a red ball", "size": "96x96"}, files={"video": ("a.mp4", MP4)}),
        edit(client, video=data_uri("video/mp4", MP4), size="96x96"),
    ]

    for number, answer in enumerate(answers, 1):
        assert answer.status_code == 200, answer.text
        assert storage.read(jobs.get(number).params.init_key or "") == MP4
        assert (answer.json()["size"], answer.json()["remixed_from_video_id"]) == ("96x96", None)


def test_impossible_edit_says_why(client: TestClient, jobs: JobStore) -> None:
    waiting = create(client)["id"]

    for video in (None, "", {}, {"id": ""}):
        assert error_of(edit(client, video=video), 400)["param"] == "video"
    assert error_of(edit(client, video=data_uri("text/html", b"x")), 400)["param"] == "video"
    assert error_of(edit(client, video={"id": "video_99"}), 404)["code"] == "job_not_found"
    assert error_of(edit(client, video={"id": waiting}), 404)["code"] == "content_unavailable"
    assert error_of(edit(client, video={"id": waiting}, prompt=""), 404)["code"] == "content_unavailable"
    assert len(jobs.list()) == 1


@pytest.mark.parametrize(("path", "words"), [("extensions", "Make a longer one"), ("characters", "as input_reference")])
def test_unavailable_endpoint_says_what_to_do_instead(client: TestClient, path: str, words: str) -> None:
    answer = client.post(f"{VIDEOS}/{path}", data={"prompt": "a", "seconds": "4", "video[id]": "video_1"})

    error = error_of(answer, 501)
    assert (error["code"], words in error["message"]) == ("not_available", True)
    assert answer.headers["X-Should-Retry"] == "false"


def test_unknown_model_error_says_how_to_alias_it(client: TestClient) -> None:
    error = error_of(client.post(VIDEOS, json={"prompt": "a", "model": "sora-2"}), 404)

    assert "Known models: cutout, midjourney, plain." in error["message"]
    assert error["message"].endswith("PROMPTREEL_MODEL_ALIASES=sora-2=cutout.")


def test_alias_stands_for_a_model_in_every_api(services: AppParts, jobs: JobStore) -> None:
    aliases = {"sora-2": "plain", "cutout": "plain", "gone": "nowhere"}
    folder = services.models.get("plain").path.parent
    models = ModelRegistry(built_in=folder / "none", models_dir=folder, aliases=aliases)
    client = TestClient(create_app(replace(services, models=models)))

    client.post(VIDEOS, json={"prompt": "a", "model": "sora-2"})
    client.post(SUBMIT, json={"prompt": "a", "model_id": "sora-2"})
    client.post(SUBMIT, json={"prompt": "a", "model_id": "cutout"})

    assert [jobs.get(number).params.model_id for number in (1, 2, 3)] == ["plain", "plain", "cutout"]
    assert client.get("/v1/models/sora-2").json()["id"] == "plain"
    assert "'nowhere'" in client.get("/v1/models/gone").json()["error"]["message"]
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["cutout", "midjourney", "plain"]


def test_thumbnail_is_the_first_frame(client: TestClient, finish_next: Callable[[bytes], None]) -> None:
    path = f"{VIDEOS}/{create(client)['id']}/content?variant=thumbnail"
    assert error_of(client.get(path), 404)["code"] == "content_unavailable"
    frames = np.zeros((3, 64, 96, 3), np.uint8)
    frames[0] = (200, 40, 40)
    finish_next(encode_video(frames))

    answer = client.get(path)

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/webp")
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (96, 64)
        assert np.abs(np.asarray(picture.convert("RGB"), float).mean((0, 1)) - (200, 40, 40)).max() < 12


def test_thumbnail_of_a_damaged_file_is_an_error(client: TestClient, finish_next: Callable[[bytes], None]) -> None:
    path = f"{VIDEOS}/{create(client)['id']}/content"
    finish_next(b"no video")

    assert error_of(client.get(path, params={"variant": "thumbnail"}), 500)["code"] == "encoding_failed"


def test_failed_video_has_no_content(client: TestClient, jobs: JobStore) -> None:
    path = f"{VIDEOS}/{create(client)['id']}/content"
    jobs.cancel(1)

    assert "it failed" in error_of(client.get(path), 404)["message"]


def test_deleted_video_is_gone_with_its_file(client: TestClient, tmp_path: Path, finish_next: Callable[[bytes], None]) -> None:
    video_id = create(client)["id"]
    finish_next(b"video")
    assert len(stored_files(tmp_path)) == 1

    answer = client.delete(f"{VIDEOS}/{video_id}")

    assert answer.json() == {"id": video_id, "object": "video.deleted", "deleted": True}
    assert stored_files(tmp_path) == []
    for gone in (client.get(f"{VIDEOS}/{video_id}"), client.delete(f"{VIDEOS}/{video_id}")):
        assert error_of(gone, 404)["code"] == "job_not_found"
    assert client.get(VIDEOS).json()["data"] == []
    assert create(client)["id"] != video_id


def test_cancelled_video_stays_and_says_so(client: TestClient, jobs: JobStore, finish_next: Callable[[bytes], None]) -> None:
    running, waiting, done = (create(client)["id"] for _ in range(3))
    work, _ = claim(jobs)

    assert client.post(f"{VIDEOS}/{waiting}/cancel").json()["error"] == {"code": "cancelled", "message": "Cancelled"}
    assert client.post(f"{VIDEOS}/{running}/cancel").json()["status"] == "in_progress"
    assert jobs.heartbeat(work)
    finish_next(b"video")
    assert client.post(f"{VIDEOS}/{done}/cancel").json()["status"] == "completed"
    assert error_of(client.post(f"{VIDEOS}/video_99/cancel"), 404)["code"] == "job_not_found"


def test_remix_changes_only_the_prompt(client: TestClient, jobs: JobStore) -> None:
    first = create(client, size="96x96", seed=9, scheduler="DDIMScheduler", input_reference=data_uri("image/png", PNG))

    remix = client.post(f"{VIDEOS}/{first['id']}/remix", json={"prompt": "a red ball"}).json()

    assert remix["remixed_from_video_id"] == first["id"]
    assert remix["prompt"] == "a red ball"
    same = (STANDARD | EXTENSIONS) - {"id", "prompt", "remixed_from_video_id", "created_at"}
    assert {name: remix[name] for name in same} == {name: first[name] for name in same}
    assert jobs.get(2).params.init_key == jobs.get(1).params.init_key
    assert error_of(client.post(f"{VIDEOS}/{first['id']}/remix", json={}), 400)["param"] == "prompt"
    assert error_of(client.post(f"{VIDEOS}/video_99/remix", json={"prompt": "a"}), 404)["code"] == "job_not_found"


def test_remix_of_an_enhanced_prompt_is_enhanced(client: TestClient) -> None:
    job_id = client.post(SUBMIT, json={"prompt": "a cat", "model_id": "midjourney"}).json()["id"]

    remix = client.post(f"{VIDEOS}/video_{job_id}/remix", json={"prompt": "a dog"}).json()

    assert remix["prompt"] == "mdjrny-v4 style a dog DSLR photography, sharp focus"


def test_models_are_listed_and_shown(client: TestClient) -> None:
    listed = client.get("/v1/models").json()

    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["cutout", "midjourney", "plain"])
    for model in listed["data"]:
        assert model.items() >= {"object": "model", "owned_by": "promptreel"}.items()
        assert isinstance(model["created"], int)
        assert (model["fps"], model["max_frames"] > 0) == (8, True)
        assert client.get(f"/v1/models/{model['id']}").json() == model


def test_unknown_model_is_404_and_lists_the_known_ones(client: TestClient) -> None:
    for answer in (client.get("/v1/models/sora-2"), client.post(VIDEOS, json={"prompt": "a", "model": "sora-2"})):
        error = error_of(answer, 404)
        assert error["code"] == "model_not_found"
        assert "Known models: cutout, midjourney, plain" in error["message"]


@pytest.mark.parametrize("video_id", ["video_99", "99", "video_-1", "video_01", "video_" + "9" * 30, "vidéo_1", "video_1%00"])
def test_unknown_and_malformed_ids_get_the_same_answer(client: TestClient, video_id: str) -> None:
    create(client)
    errors = [
        error_of(client.request(method, f"{VIDEOS}/{video_id}{path}"), 404)
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content"))
    ]

    assert {error["message"] for error in errors} == {error_of(client.get(f"{VIDEOS}/video_98"), 404)["message"]}


def test_every_error_under_v1_has_openais_shape(client: TestClient) -> None:
    error_of(client.get("/v1/nowhere"), 404)
    error_of(client.put(VIDEOS), 405)
    assert error_of(client.post(VIDEOS, content=b"{"), 400)["code"] == "malformed_request"
    assert error_of(client.post(f"{VIDEOS}/video_1/remix", content=b"x" * 300_000), 413)["code"] == "body_too_large"
    assert client.get("/v1nowhere").json()["status"] == "error"
