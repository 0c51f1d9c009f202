"""`/v1/videos/plan`: what a request would make, without making it."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from promptreel.jobs.keys import KeyLimits, KeyStore
from promptreel.jobs.store import JobStore
from tests.api.test_openai import VIDEOS


def plan(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post(f"{VIDEOS}/plan", json={"prompt": "a red cat", **fields}).raise_for_status().json()
    assert answer.pop("object") == "video.plan"
    return answer


def test_plan_is_what_the_video_becomes(client: TestClient, jobs: JobStore) -> None:
    wanted = {"size": "128x64", "num_frames": 8, "guidance_scale": 3, "scheduler": "DDIMScheduler"}
    planned = plan(client, **wanted)
    assert jobs.list() == []
    made = client.post(VIDEOS, json={"prompt": "a red cat", **wanted}).json()

    assert planned.pop("error") is None
    assert planned.pop("made_at") == "96x96"
    assert {name: made[name] for name in planned} == planned


def test_prompt_is_shown_as_the_model_gets_it(client: TestClient) -> None:
    assert plan(client, model="midjourney", enhance_prompt=True)["prompt"] == (
        "mdjrny-v4 style a red cat DSLR photography, sharp focus"
    )


def test_unknown_words_are_named_before(client: TestClient) -> None:
    assert "does not know: dragon" in plan(client, prompt="a red dragon")["tip"]


def test_time_grows_with_the_queue(client: TestClient) -> None:
    alone = plan(client)
    client.post(VIDEOS, json={"prompt": "a red cat"})
    second = plan(client)

    assert (alone["queue_position"], second["queue_position"]) == (1, 2)
    assert second["eta"] > alone["eta"] >= 1


def test_refusal_is_the_error_that_the_request_would_get(client: TestClient) -> None:
    for wrong in ({"size": "9"}, {"model": "none"}, {"num_inference_steps": 1000}, {"prompt": ""}):
        error = client.post(VIDEOS, json={"prompt": "a red cat", **wrong}).json()["error"]
        del error["type"]
        assert plan(client, **wrong) == {"error": error}


def test_full_queue_is_told_before(client: TestClient, keys: KeyStore) -> None:
    _, key = keys.create("k", KeyLimits(max_queued=1))
    client.headers["key"] = key
    assert plan(client)["error"] is None
    client.post(VIDEOS, json={"prompt": "a red cat"})

    assert plan(client)["error"]["code"] == "rate_limit_exceeded"
