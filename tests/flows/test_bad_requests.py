"""What a client hears over real HTTP when it asks for the impossible: the documented shapes, and never a 500."""

from __future__ import annotations

import httpx
import pytest

from tests.flows.service import DOCUMENTED, TEXT2VIDEO, Service

WRONG = {
    "key": 5,
    "model_id": ["cutout"],
    "prompt": "",
    "negative_prompt": {"text": "blurry"},
    "width": "wide",
    "height": 4096,
    "scheduler": "FastScheduler",
    "num_inference_steps": 51,
    "enhance_prompt": "maybe",
    "guidance_scale": -1,
    "strength": "2",
    "seed": -2,
    "webhook": "not a url",
    "track_id": {"id": 1},
}


def test_all_documented_fields_are_tried() -> None:
    assert WRONG.keys() == DOCUMENTED.keys()


@pytest.mark.parametrize("field", WRONG)
def test_wrong_field_is_named_with_the_reason(service: Service, field: str) -> None:
    answer = service.client.post(service.url + TEXT2VIDEO, json=DOCUMENTED | {field: WRONG[field]})

    body = answer.json()
    assert answer.status_code == 200
    assert body["status"] == "error"
    assert list(body["message"]) == [field]
    assert all(isinstance(text, str) and text for text in body["message"][field])
    assert body["messege"] == body["message"]


@pytest.mark.parametrize("content", [b"hello", b"{'prompt': 1}", b"[1, 2]", b"\xff\xfe", b"{" * 5000])
def test_body_that_is_no_json_gets_the_documented_tip(service: Service, content: bytes) -> None:
    answer = service.client.post(service.url + TEXT2VIDEO, content=content, headers={"Content-Type": "application/json"})

    body = answer.json()
    assert answer.status_code == 200
    assert (body["status"], body["message"]) == ("error", "Invalid API Request")
    assert "Content-Type: application/json" in body["tip"]


def test_prompt_of_100_kilobytes_is_refused(service: Service) -> None:
    body = service.ask(**DOCUMENTED | {"prompt": "cat " * 25_000})

    assert body["message"] == {"prompt": ["The prompt must not be greater than 2000 characters."]}


def test_body_of_40_megabytes_is_refused(service: Service) -> None:
    body = service.ask(**DOCUMENTED | {"prompt": "cat " * 10_000_000})

    assert body["status"] == "error"
    assert "larger than 36 MB" in body["message"]


@pytest.mark.parametrize("model_id", ["midjourney", "../cutout", "cutout/unet", "."])
def test_unknown_model_is_not_found(service: Service, model_id: str) -> None:
    body = service.ask(**DOCUMENTED | {"model_id": model_id})

    assert "Known models: cutout." in body.pop("tip")
    assert body == {"status": "error", "message": "Model not found", "messege": "Model not found"}


@pytest.mark.parametrize("job_id", ["999999", "0", "-1", "abc", "9" * 40, "1%2F2"])
def test_unknown_id_is_not_found(service: Service, job_id: str) -> None:
    answer = service.client.post(f"{service.url}/api/v3/dreambooth/fetch/{job_id}", json={"key": "any"})

    if job_id == "1%2F2":  # a slash makes it another path
        assert answer.status_code == 404
    else:
        assert answer.status_code == 200
        assert answer.json().items() >= {"status": "failed", "id": "", "message": "Request not found", "output": []}.items()
    assert answer.json()["message"]


def test_nothing_that_was_refused_is_queued(service: Service) -> None:
    before = len(service.jobs.list(limit=1000))
    for field, value in WRONG.items():
        service.ask(**DOCUMENTED | {field: value})

    assert len(service.jobs.list(limit=1000)) == before


def test_unknown_file_names_are_404(service: Service) -> None:
    for name in ("x.mp4", "../promptreel.db", "%2e%2e%2fpromptreel.db", "..%2f..%2fpromptreel.db.mp4"):
        answer = httpx.get(f"{service.url}/files/{name}", trust_env=False, timeout=60)
        assert answer.status_code == 404
