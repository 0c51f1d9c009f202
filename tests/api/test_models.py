"""Lists of models and schedulers, and the endpoints that load, verify, delete and reload a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import create_app
from promptreel.api.parts import AppParts
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.params import SCHEDULERS
from promptreel.jobs.store import JobStore
from tests.api.conftest import PLAIN_CARD, write_card
from tests.models.checkpoints import make_checkpoint

AGENTS = "/api/agents/v1/models"
ENTERPRISE = "/api/v1/enterprise"
NOT_FOUND = {"status": "error", "message": "Model not found", "messege": "Model not found"}


@pytest.mark.parametrize("generation", ["v3", "v4"])
def test_model_list_is_a_bare_array_of_the_documented_entries(client: TestClient, generation: str) -> None:
    answer = client.post(f"/api/{generation}/dreambooth/model_list", json={"key": "k"})

    assert answer.status_code == 200
    entries = {entry["model_id"]: entry for entry in answer.json()}
    assert list(entries) == ["cutout", "midjourney", "plain"]
    assert entries["midjourney"] == {
        "model_id": "midjourney",
        "status": "model_ready",
        "created_at": entries["midjourney"]["created_at"],
        "instance_prompt": "mdjrny-v4 style",
        "model_name": "Midjourney",
        "description": "",
        "screenshots": "",
        "max_frames": 32,
        "fps": 8,
        "model_category": "checkpoint",
    }


def test_model_that_cannot_be_used_is_not_listed(client: TestClient, tmp_path: Path) -> None:
    write_card(tmp_path / "models" / "broken", {})

    listed = client.post("/api/v4/dreambooth/model_list").json()

    assert "broken" not in [entry["model_id"] for entry in listed]


def test_agents_list_is_searched_and_paged(client: TestClient) -> None:
    first = client.get(AGENTS, params={"per_page": 2}).json()
    second = client.get(AGENTS, params={"per_page": "2", "page": "2"}).json()
    found = client.get(AGENTS, params={"search": "MIDJ"}, headers={"Authorization": "Bearer k"}).json()
    none = client.get(AGENTS, params={"search": "nothing like it"}).json()

    assert [entry["model_id"] for entry in first["data"] + second["data"]] == ["cutout", "midjourney", "plain"]
    pages = {"per_page": 2, "total": 3, "last_page": 2}
    assert first["meta"] == {**pages, "current_page": 1, "from": 1, "to": 2}
    assert second["meta"] == {**pages, "current_page": 2, "from": 3, "to": 3}
    assert [entry["model_id"] for entry in found["data"]] == ["midjourney"]
    assert (none["data"], none["meta"]["total"], none["meta"]["from"]) == ([], 0, None)


def test_agents_model_has_the_documented_keys(client: TestClient) -> None:
    listed = client.get(AGENTS, params={"search": "midjourney"}).json()["data"]

    assert client.get(f"{AGENTS}/midjourney").json() == {"data": listed[0]}
    assert listed[0] == {
        "model_id": "midjourney",
        "model_name": "Midjourney",
        "name": "Midjourney",
        "description": "",
        "provider": "promptreel",
        "model_type": "animatediff",
        "model_subcategory": "checkpoint",
        "base_model": None,
        "status": "model_ready",
    }


def test_agents_list_is_filtered_by_the_values_that_it_tells(client: TestClient, tmp_path: Path) -> None:
    write_card(tmp_path / "models" / "moving", PLAIN_CARD | {"family": "wan", "base": "wan21-14b", "trigger_words": ["ink"]})
    filters = client.get(f"{AGENTS}/filters").json()["data"]

    def find(**asked: str) -> list[str]:
        return [entry["model_id"] for entry in client.get(AGENTS, params=asked).json()["data"]]

    assert filters == {
        "feature": ["video", "video_fusion"],
        "provider": ["promptreel"],
        "model_type": ["animatediff", "wan"],
        "model_subcategory": ["checkpoint"],
        "base_model": ["wan21-14b"],
        "tags": ["ink", "mdjrny-v4 style"],
    }
    assert client.get(f"{AGENTS}/tags").json() == {"data": ["ink", "mdjrny-v4 style"]}
    assert client.get(f"{AGENTS}/providers").json() == {"data": ["promptreel"]}
    assert find(model_type="Wan") == find(base_model="wan21-14b") == ["moving"]
    assert find(tags="ink, MDJRNY-v4 style") == ["midjourney", "moving"]
    assert find(tags="ink", model_type="animatediff") == find(feature="audio_gen") == []
    assert len(find(feature="video", provider="promptreel", model_subcategory="checkpoint")) == 4


def test_agents_paths_answer_real_status_codes(client: TestClient) -> None:
    unknown = client.get(f"{AGENTS}/nowhere")
    wrong = client.get(AGENTS, params={"page": "0", "per_page": "many"})

    assert (unknown.status_code, unknown.json() | {"tip": ""}) == (404, NOT_FOUND | {"tip": ""})
    assert wrong.status_code == 400
    assert wrong.json()["message"] == {
        "page": ["The page must be at least 1."],
        "per_page": ["The per page must be an integer."],
    }


@pytest.mark.parametrize("path", ["/api/v3/load_model", f"{ENTERPRISE}/load_model"])
def test_load_model_queues_an_import(client: TestClient, jobs: JobStore, path: str) -> None:
    body = {
        "url": "https://models.example/toon.safetensors", "model_id": "new", "model_format": "safetensors",
        "model_category": "stable_diffusion", "model_name": "Toon", "model_visibility": "private", "force_load": "no",
        "webhook": "https://example.com/told", "track_id": 7,
    }  # fmt: skip

    answer = client.post(path, json=body)

    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "success", "message": "model load started", "messege": "model load started", "model_id": "new"},
    )
    (job,) = jobs.list(kind="import")
    url = body["url"]
    assert job.params == ImportParams(model_id="new", source=url, card={"name": "Toon"}, is_public=True)
    assert (job.webhook_url, job.track_id) == ("https://example.com/told", "7")
    verify = client.post(f"{ENTERPRISE}/verify_model", json={"model_id": "new"}).json()
    assert verify["message"] == {"model_id": ["The model is still being imported: 0 % are done."]}


def test_model_that_is_there_is_not_loaded_again(client: TestClient, jobs: JobStore) -> None:
    body = {"url": "https://models.example/m.safetensors", "model_id": "plain"}

    there = client.post("/api/v3/load_model", json=body).json()
    again = client.post("/api/v3/load_model", json=body | {"force_load": "yes"}).json()

    assert (there["status"], there["message"]) == ("success", "the model is there already, and was not loaded again")
    assert "that of a model's folder" in again["message"]["model_id"][0]
    assert jobs.list(kind="import") == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "The url field is required."),
        ({"url": "/etc/passwd"}, "must be a URL, or a hub id"),
        ({"url": "file:///etc/passwd"}, "must be a URL, or a hub id"),
        ({"url": "../models/plain"}, "must be a URL, or a hub id"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "not on the public internet"),
        ({"url": "https://user:word@models.example/m.safetensors"}, "user name or a password"),
        ({"url": "https://models.example/m.safetensors", "model_id": "../up"}, "begins with a letter or a digit"),
        ({"url": "https://models.example/m.safetensors", "sha256": "abc"}, "64 hexadecimal digits"),
        ({"url": "https://models.example/m.ckpt", "model_format": "ckpt"}, "Pickled weights can run code"),
        ({"url": "https://models.example/m.safetensors", "beta_schedule": "cosine"}, "beta schedule is invalid"),
        ({"url": "https://models.example/m.safetensors", "trigger_words": {"a": 1}}, "trigger words is invalid"),
        ({"url": "guoyww/animatediff-motion-adapter-v1-5-3"}, "PROMPTREEL_HUB=on"),
    ],
)
def test_import_of_what_may_not_be_is_refused_by_both_apis(
    client: TestClient, jobs: JobStore, fields: dict[str, object], says: str
) -> None:
    ours = {{"url": "source", "model_id": "id"}.get(name, name): value for name, value in fields.items()}

    hosted = client.post("/api/v3/load_model", json=fields)
    standard = client.post("/v1/models", json=ours)

    assert says in hosted.text
    assert standard.status_code in {400, 501}
    if fields:
        assert says in standard.text
    assert jobs.list(kind="import") == []


def test_operator_may_turn_imports_off(services: AppParts, jobs: JobStore) -> None:
    with TestClient(create_app(replace(services, may_import=False))) as client:
        answer = client.post("/v1/models", json={"source": "https://models.example/m.safetensors"})

    assert (answer.status_code, "PROMPTREEL_IMPORTS=off" in answer.text) == (501, True)
    assert jobs.list(kind="import") == []


def test_import_is_followed_cancelled_and_repeated(client: TestClient) -> None:
    body = {"source": "https://models.example/toon.safetensors?token=secret", "trigger_words": "toon style, ink"}
    headers = {"Idempotency-Key": "k"}

    first = client.post("/v1/models", json=body, headers=headers).json()
    repeated = client.post("/v1/models", json=body, headers=headers).json()
    shown = client.get(f"/v1/models/imports/{first['id']}").json()
    cancelled = client.post(f"/v1/models/imports/{first['id']}/cancel").json()

    assert (first["object"], first["model"], first["status"]) == ("model.import", "toon", "queued")
    assert first["source"] == "https://models.example/toon.safetensors"
    assert repeated == shown == first
    assert cancelled["error"] == {"code": "cancelled", "message": "Cancelled"}
    assert client.get("/v1/videos").json()["data"] == []


def test_verify_says_whether_a_job_could_load_a_model(client: TestClient, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "whole")

    whole = client.post(f"{ENTERPRISE}/verify_model", json={"key": "k", "model_id": "whole"}).json()
    empty = client.post(f"{ENTERPRISE}/verify_model", json={"key": "k", "model_id": "plain"}).json()

    assert whole == {"status": "success", "message": "model is ready", "messege": "model is ready", "model_id": "whole"}
    assert empty["status"] == "error"
    assert "model_index.json" in empty["message"]


def test_model_that_was_not_imported_is_not_deleted(client: TestClient, tmp_path: Path) -> None:
    write_card(tmp_path / "built_in" / "ours", PLAIN_CARD)

    built_in = client.post(f"{ENTERPRISE}/delete_model", json={"model_id": "ours"}).json()
    own = client.delete("/v1/models/plain")

    assert built_in["message"] == 'The model "ours" is built in and cannot be deleted.'
    assert "Remove its folder, <data-dir>/models/plain" in own.json()["error"]["message"]
    assert (tmp_path / "models" / "plain" / "promptreel.json").is_file()


def test_reload_succeeds_for_a_model_that_is_there(client: TestClient) -> None:
    answer = client.post("/api/v4/dreambooth/model_reload", data={"key": "k", "model_id": "plain"}).json()

    assert answer == {"status": "success", "message": "model is ready", "messege": "model is ready", "model_id": "plain"}


@pytest.mark.parametrize(
    "path", [f"{ENTERPRISE}/verify_model", f"{ENTERPRISE}/delete_model", "/api/v4/dreambooth/model_reload"]
)
def test_unknown_or_missing_model_id_is_reported(client: TestClient, path: str) -> None:
    unknown = client.post(path, json={"key": "k", "model_id": "../plain"})

    assert (unknown.status_code, unknown.json() | {"tip": ""}) == (200, NOT_FOUND | {"tip": ""})
    assert client.post(path, json={"key": "k"}).json()["message"] == {"model_id": ["The model id field is required."]}


def test_schedulers_are_listed_by_the_names_that_requests_use(client: TestClient) -> None:
    answer = client.post(f"{ENTERPRISE}/schedulers_list", json={"key": "k"}).json()

    assert answer == {"status": "success", "schedulers": list(SCHEDULERS)}
