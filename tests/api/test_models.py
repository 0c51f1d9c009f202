"""Lists of models and schedulers, and the endpoints that load, verify, delete and reload a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from promptreel.jobs.params import SCHEDULERS
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
        "created_at": None,
        "instance_prompt": "mdjrny-v4 style",
        "model_name": "Midjourney",
        "description": "",
        "screenshots": "",
        "max_frames": 32,
        "fps": 8,
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
        "status": "model_ready",
    }


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
def test_loading_from_a_url_says_how_to_add_a_model(client: TestClient, path: str) -> None:
    body = {"url": "https://models.example/m", "model_id": "new", "model_format": "diffusers", "force_load": "no"}

    answer = client.post(path, json=body)

    assert (answer.status_code, answer.json()["status"]) == (200, "error")
    assert "docs/models.md" in answer.json()["message"]
    assert client.post(path, json=body | {"model_id": "plain"}).json()["status"] == "success"
    assert client.post(path, json=body | {"model_id": "plain", "force_load": "yes"}).json()["status"] == "error"
    assert client.post(path, json={}).json()["message"] == {"url": ["The url field is required."]}


def test_verify_says_whether_a_job_could_load_a_model(client: TestClient, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "whole")

    whole = client.post(f"{ENTERPRISE}/verify_model", json={"key": "k", "model_id": "whole"}).json()
    empty = client.post(f"{ENTERPRISE}/verify_model", json={"key": "k", "model_id": "plain"}).json()

    assert whole == {"status": "success", "message": "model is ready", "messege": "model is ready", "model_id": "whole"}
    assert empty["status"] == "error"
    assert "model_index.json" in empty["message"]


def test_delete_model_is_refused_and_says_what_to_do(client: TestClient, tmp_path: Path) -> None:
    write_card(tmp_path / "built_in" / "ours", PLAIN_CARD)

    built_in = client.post(f"{ENTERPRISE}/delete_model", json={"model_id": "ours"}).json()
    own = client.post(f"{ENTERPRISE}/delete_model", json={"model_id": "plain"}).json()

    assert (built_in["status"], own["status"]) == ("error", "error")
    assert built_in["message"] == 'The model "ours" is built in and cannot be deleted.'
    assert "Remove the folder <data-dir>/models/plain" in own["message"]
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
