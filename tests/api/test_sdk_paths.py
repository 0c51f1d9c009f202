"""Every video path of the vendor's SDKs, command line and documentation has an answer; none is a bare 404."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.test_generations import CLIP_BASE64, PICTURE

PROMPT = {"prompt": "a red cat"}
PICTURED = {"init_image": PICTURE, "model_id": "svd"}
FILMED = {"init_video": CLIP_BASE64, "model_id": "dark-sushi-mix"}
MADE: list[tuple[str, dict[str, Any]]] = [
    ("v6/video/text2video", PROMPT),
    ("v6/video/text2video_ultra", PROMPT),
    ("v6/video/img2video", PICTURED),
    ("v6/video/img2video_ultra", PICTURED),
    ("v6/video/video2video", FILMED),
    ("v1/enterprise/text2video", PROMPT),
    ("v1/enterprise/video/text2video", PROMPT),
    ("v1/enterprise/video/img2video", PICTURED),
    ("v1/enterprise/video/video2video", FILMED),
    ("v1/enterprise/ultra_video/text2video", PROMPT),
    ("v1/enterprise/ultra_video/img2video", PICTURED),
    ("v1/enterprise/image_to_video_ultra/img2video", PICTURED),
    ("v7/video-fusion/text-to-video", PROMPT),
    ("v7/video-fusion/image-to-video", {"init_image": PICTURE}),
    ("v7/video-fusion/video-to-video", {"init_video": CLIP_BASE64}),
]
DONE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("v1/enterprise/video/system_details", {}, {"model_count": 3}),
    ("v1/enterprise/video/system_load", {}, {"queue_num": 0}),
    ("v1/enterprise/system_details", {}, {"model_count": 3}),
    ("v6/images/model_reload", {"model_id": "cutout"}, {"status": "success", "model_id": "cutout"}),
    ("v6/images/model_reload", {"model_id": "nowhere"}, {"status": "error", "message": "Model not found"}),
]
REFUSED = [
    ("v6/video/open_sora", "Open-Sora is not available: POST /api/v6/video/text2video makes videos"),
    ("v6/video/watermark_remover", "Watermarks are not removed here"),
    ("v1/enterprise/video/watermark_remover", "Watermarks are not removed here"),
    *((f"v1/enterprise/{folder}{name}", words) for folder in ("", "video/") for name, words in (
        ("restart_server", "The service is not restarted by request"),
        ("update", "The service is not updated by request"),
        ("clear_cache", "There is no cache to clear"),
        ("clear_queue", "cancel each of your jobs"),
    )),
]  # fmt: skip
REFUSED_BY_V7 = [
    ("v7/video-fusion/lip-sync", "have no sound"),
    ("v7/video-fusion/motion-control", "POST /api/v7/video-fusion/video-to-video makes a video"),
]


@pytest.mark.parametrize(("path", "body"), MADE)
def test_available_paths_work(client: TestClient, path: str, body: dict[str, Any]) -> None:
    answer = client.post(f"/api/{path}", json={"key": "k", **body})

    assert (answer.status_code, answer.json()["status"]) == (200, "processing")
    assert client.post(answer.json()["fetch_result"], json={"key": "k"}).json() == answer.json()


@pytest.mark.parametrize(("path", "body", "told"), DONE)
def test_other_paths_are_answered_too(client: TestClient, path: str, body: dict[str, Any], told: dict[str, Any]) -> None:
    answer = client.post(f"/api/{path}", json={"key": "k", **body})

    assert answer.status_code == 200
    assert told.items() <= answer.json().items()


@pytest.mark.parametrize(
    ("path", "words", "status"), [(*each, 200) for each in REFUSED] + [(*each, 501) for each in REFUSED_BY_V7]
)
def test_unavailable_paths_say_so(client: TestClient, path: str, words: str, status: int) -> None:
    answer = client.post(f"/api/{path}", json={"key": "k", **PICTURED})

    assert (answer.status_code, answer.json()["status"]) == (status, "error")
    assert words in answer.json()["message"]
    assert answer.json()["messege"] == answer.json()["message"]


def test_lists_of_models_are_the_same_in_every_generation(client: TestClient) -> None:
    paths = ["v3/dreambooth/model_list", "v4/dreambooth/model_list", "v1/enterprise/get_all_models"]
    lists = [client.post(f"/api/{path}", json={"key": "k"}).json() for path in paths]

    assert [model["model_id"] for model in lists[0]] == ["cutout", "midjourney", "plain"]
    assert lists == [lists[0]] * 3


@pytest.mark.parametrize("path", ["v6/images/text2img", "v6/voice/text_to_speech", "v9/anything"])
def test_unknown_path_points_to_docs(client: TestClient, path: str) -> None:
    answer = client.post(f"/api/{path}", json={"key": "k"})

    assert (answer.status_code, answer.json()["status"]) == (404, "error")
    assert f"There is nothing at /api/{path}" in answer.json()["message"]
    assert "/docs" in answer.json()["message"]
