"""The field `webhook`, and the webhook's body in each dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.webhook_bodies import to_webhook
from promptreel.jobs.job import Job
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.store import JobStore
from promptreel.jobs.webhook_secrets import new_webhook_secret
from promptreel.notify.signing import sign
from tests.api.conftest import SUBMIT

HOOK = "https://shop.example.com/hooks?order=7"
VIDEOS = "/v1/videos"
LINKS = LinkMaker(secret=b"not told")


def submit(client: TestClient, path: str = SUBMIT, **fields: Any) -> Job:
    """Submits a request and returns its job."""
    answer = client.post(path, json={"prompt": "a red cat", "webhook": HOOK, **fields})
    assert answer.status_code == 200, answer.text
    parts: AppParts = client.app.state.parts
    return parts.jobs.list(limit=1)[0]


@pytest.mark.parametrize("path", [SUBMIT, VIDEOS])
def test_webhook_is_kept_with_the_job(client: TestClient, path: str) -> None:
    assert submit(client, path, webhook=f" {HOOK} ").webhook_url == HOOK
    for nothing in (None, "", "null"):
        assert submit(client, path, webhook=nothing).webhook_url is None


def test_remix_has_a_webhook_of_its_own(client: TestClient) -> None:
    source = submit(client, VIDEOS)

    assert submit(client, f"{VIDEOS}/video_{source.id}/remix").webhook_url == HOOK
    assert submit(client, f"{VIDEOS}/video_{source.id}/remix", webhook=None).webhook_url is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1/hook", "127.0.0.1 is not on the public internet, so the service does not connect to it."),
        ("http://[::1]/hook", "::1 is not on the public internet, so the service does not connect to it."),
        (
            "http://169.254.169.254/latest/",
            "169.254.169.254 is not on the public internet, so the service",
        ),
        ("http://2130706433/hook", "Write the URL's IPv4 address as four decimal numbers"),
        ("https://user:secret@example.com/", "URLs with a user name or a password are not used."),
        ("https://example.com:8443/", "URLs with port 8443 are not used."),
        ("file:///etc/passwd", "The webhook must be a valid URL."),
        ("gopher://example.com/", "The webhook must be a valid URL."),
        ("ftp://example.com/", "The webhook must be a valid URL."),
        ({"url": HOOK}, "The webhook must be a valid URL."),
    ],
)
def test_webhook_that_is_never_allowed_is_rejected(client: TestClient, jobs: JobStore, url: object, message: str) -> None:
    fields = {"prompt": "a cat", "webhook": url}
    legacy, standard = client.post(SUBMIT, json=fields).json(), client.post(VIDEOS, json=fields)

    (told,) = legacy["message"]["webhook"]
    assert told.startswith(message)
    assert (standard.status_code, standard.json()["error"]["param"]) == (400, "webhook")
    assert standard.json()["error"]["message"] == told
    assert jobs.list() == []


def test_success_webhook_has_the_link_that_the_answer_promised(
    client: TestClient, jobs: JobStore, finish_next: Callable[[bytes], None]
) -> None:
    answer = client.post(SUBMIT, json={"prompt": "a red cat", "webhook": HOOK, "track_id": 17}).json()
    finish_next(b"video")
    told = to_webhook(jobs.get(answer["id"]), "msg_1", LINKS)

    success = client.post(answer["fetch_result"]).json()
    assert told == {
        "status": "success",
        "track_id": 17,
        "id": answer["id"],
        "output": answer["future_links"],
        "generationTime": success["generationTime"],
        "meta": success["meta"],
        "webhook_type": "text2video",
    }
    assert client.get(told["output"][0]).content == b"video"


def test_links_begin_with_the_public_url_if_set(services: AppParts, finish_next: Callable[[bytes], None]) -> None:
    public = create_app(replace(services, public_url="https://video.example.com"))
    with TestClient(public, base_url="http://10.0.0.5:8000") as client:
        job = submit(client)
    finish_next(b"video")

    (link,) = to_webhook(services.jobs.get(job.id), "msg_1", LINKS)["output"]
    assert link == f"https://video.example.com/files/{job.file_prefix}.mp4"


def test_links_are_signed_if_links_expire(services: AppParts, finish_next: Callable[[bytes], None]) -> None:
    signing = replace(services, link_maker=LinkMaker(secret=b"not told", seconds=60))
    with TestClient(create_app(signing), base_url="http://video.test") as client:
        job = submit(client)
        finish_next(b"video")

        (link,) = to_webhook(services.jobs.get(job.id), "msg_1", signing.link_maker)["output"]
        assert (client.get(link).status_code, client.get(link.partition("?")[0]).status_code) == (200, 403)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda jobs: jobs.fail(jobs.claim("w")[0], code="out_of_memory", message="too large"), "too large"),
        (lambda jobs: jobs.cancel(1), "Cancelled"),
    ],
)
def test_failure_webhook_has_the_reason(
    client: TestClient, jobs: JobStore, end: Callable[[JobStore], object], message: str
) -> None:
    job = submit(client, track_id="order-7")
    end(jobs)

    assert to_webhook(jobs.get(job.id), "msg_1", LINKS) == {
        "status": "failed",
        "track_id": "order-7",
        "id": job.id,
        "message": message,
        "webhook_type": "text2video",
    }


@pytest.mark.parametrize("track_id", ["17", 17, 17.5, True, False, None, "", 0, -1, 2**70, "ünï", "null"])
def test_track_id_comes_back_as_it_was_sent(client: TestClient, jobs: JobStore, track_id: object) -> None:
    job = submit(client, track_id=track_id)
    jobs.cancel(job.id)

    told = json.loads(json.dumps(to_webhook(jobs.get(job.id), "msg_1", LINKS), allow_nan=False))["track_id"]
    assert (told, type(told)) == (track_id, type(track_id))


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_track_id_that_json_lacks_comes_back_as_text(client: TestClient, jobs: JobStore, number: str) -> None:
    client.post(SUBMIT, content=f'{{"prompt": "a cat", "webhook": "{HOOK}", "track_id": {number}}}')
    jobs.cancel(1)

    told = to_webhook(jobs.get(1), "msg_1", LINKS)["track_id"]
    assert json.dumps(told, allow_nan=False) == json.dumps(jobs.get(1).track_id)


@pytest.mark.parametrize("succeeds", [True, False])
def test_openais_own_library_accepts_the_event(
    client: TestClient, jobs: JobStore, finish_next: Callable[[bytes], None], succeeds: bool
) -> None:
    job = submit(client, VIDEOS)
    if succeeds:
        finish_next(b"video")
    else:
        jobs.cancel(job.id)
    body = json.dumps(to_webhook(jobs.get(job.id), "msg_12ab", LINKS)).encode()
    secret = new_webhook_secret()
    ended = jobs.get(job.id).finished_at
    assert ended is not None

    from openai import OpenAI  # noqa: PLC0415 - takes half a second to import, and one test needs it

    event = OpenAI(api_key="any", webhook_secret=secret).webhooks.unwrap(
        body, sign(secret, "msg_12ab", sent_at=ended, body=body)
    )

    assert (event.id, event.type) == ("evt_12ab", "video.completed" if succeeds else "video.failed")
    assert event.created_at == int(ended.timestamp())
    video = client.get(f"{VIDEOS}/video_{job.id}").json()
    assert json.loads(body)["data"] == video
