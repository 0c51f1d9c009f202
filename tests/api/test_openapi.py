"""Compares what /docs promises with what the endpoints do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.api.legacy.paths import CREATE_PATHS
from tests.api.conftest import SUBMIT
from tests.api.test_generations import CLIP_BASE64, PICTURE
from tests.api.test_openai import VIDEOS

ECHOES = {"width": "W", "height": "H", "num_inference_steps": "steps", "fps": "fps", "clip_skip": "clip_skip"}
UNSET = re.compile(r"(-?[0-9]+) means the same as null")
INITS = {"init_image": PICTURE, "init_video": CLIP_BASE64}
# null: decided for each job.
UNTOLD = {"seed", "num_frames", "init_image", "init_video", "upscale_height", "upscale_width"}


@pytest.fixture
def fields(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    operation = document["paths"][SUBMIT]["post"]
    return operation["requestBody"]["content"]["application/json"]["schema"]["properties"]


def test_docs_page_is_served(client: TestClient) -> None:
    assert "text/html" in client.get("/docs").headers["Content-Type"]


def test_documented_example_is_accepted(client: TestClient, document: dict[str, Any]) -> None:
    operation = document["paths"][SUBMIT]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]

    assert client.post(SUBMIT, json=example).json()["status"] == "processing"


def test_documented_ranges_are_those_that_are_checked(client: TestClient, fields: dict[str, dict[str, Any]]) -> None:
    numbers = {name: field for name, field in fields.items() if "minimum" in field}
    assert len(numbers) == 11

    for name, field in numbers.items():
        unset = int(number[1]) if (number := UNSET.search(field["description"])) else None
        below = field["minimum"] - (1 if field["minimum"] - 1 != unset else 2)
        for value, fits in ((field["minimum"], True), (below, False), (field["maximum"] + 1, False), (unset, True)):
            answer = client.post(SUBMIT, json={"prompt": "a", "model_id": "plain", name: value}).json()
            assert (answer["status"] == "processing") is fits, (name, value)


def test_documented_defaults_are_those_that_are_used(client: TestClient, fields: dict[str, dict[str, Any]]) -> None:
    meta = client.post(SUBMIT, json={"prompt": "a"}).json()["meta"]

    for name in ("model_id", "scheduler", "guidance_scale", "strength", "seconds", "enhance_prompt", *ECHOES):
        assert meta[ECHOES.get(name, name)] == fields[name]["default"], name


def test_documented_choices_are_accepted(client: TestClient, fields: dict[str, dict[str, Any]]) -> None:
    for name, field in fields.items():
        for choice in field.get("enum", []):
            answer = client.post(SUBMIT, json={"prompt": "a", name: choice}).json()
            assert answer["status"] == "processing", (name, choice)


def test_every_field_of_the_contract_is_documented(fields: dict[str, dict[str, Any]]) -> None:
    main = [
        "key",
        "model_id",
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "scheduler",
        "num_inference_steps",
        "enhance_prompt",
        "guidance_scale",
        "strength",
        "seed",
        "webhook",
        "track_id",
    ]

    assert list(fields)[:14] == main
    assert all(field["description"] for field in fields.values())


def test_documented_required_fields_are_required(client: TestClient, document: dict[str, Any]) -> None:
    required = {}
    for path, operations in document["paths"].items():
        body = operations.get("post", {}).get("requestBody", {}) if path.startswith("/api/") else {}
        names = body.get("content", {}).get("application/json", {}).get("schema", {}).get("required", [])
        if names:
            required[path] = {name: [f"The {name.replace('_', ' ')} field is required."] for name in names}
    assert len(required) >= 20

    for path, message in required.items():
        assert client.post(path, json={}).json()["message"] == message, path


@pytest.mark.parametrize(
    ("method", "path", "tell"),
    [("POST", "/api/v6/assets_generated", "pagination"), ("GET", "/api/agents/v1/models", "meta")],
)
def test_documented_pages_are_those_that_are_checked(
    client: TestClient, document: dict[str, Any], method: str, path: str, tell: str
) -> None:
    operation = document["paths"][path][method.lower()]
    if method == "POST":
        field = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]["per_page"]
    else:
        field = {each["name"]: each["schema"] for each in operation["parameters"]}["per_page"]

    assert client.request(method, path).json()[tell]["per_page"] == field["default"]
    assert client.request(method, path, params={"per_page": field["maximum"]}).json()[tell]["per_page"] == field["maximum"]
    assert client.request(method, path, params={"per_page": field["maximum"] + 1}).json()["status"] == "error"


def test_each_generation_is_described_as_it_is(client: TestClient, document: dict[str, Any]) -> None:
    paths = document["paths"]
    for path in CREATE_PATHS:
        check_description(client, path, paths[path]["post"]["requestBody"]["content"]["application/json"])


def check_description(client: TestClient, path: str, content: dict[str, Any]) -> None:
    """Its example is accepted, and its defaults are the real ones."""
    fields, required = content["schema"]["properties"], content["schema"]["required"]
    pictured = {name: INITS[name] for name in required if name in INITS}
    example = client.post(path, json=content["example"] | pictured).json()
    meta = client.post(path, json={"prompt": "a red cat"} | pictured).json()["meta"]

    words = {"width": "W", "height": "H", "num_inference_steps": "steps"} if "W" in meta else {}
    echoed = {name: field["default"] for name, field in fields.items() if words.get(name, name) in meta and "default" in field}
    assert example["status"] == "processing", path
    assert all(field["description"] for field in fields.values()), path
    assert len(echoed) >= 11, path
    assert {name: meta[words.get(name, name)] for name in echoed if name not in UNTOLD} == {
        name: default for name, default in echoed.items() if name not in UNTOLD
    }, path


@pytest.fixture
def standard_fields(client: TestClient, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    content = document["paths"][VIDEOS]["post"]["requestBody"]["content"]
    assert list(content) == ["application/json", "multipart/form-data"]
    assert client.post(VIDEOS, json=content["application/json"]["example"]).status_code == 200
    return content["application/json"]["schema"]["properties"]


def test_documented_ranges_and_choices_of_the_standard_are_those_that_are_checked(
    client: TestClient, standard_fields: dict[str, dict[str, Any]]
) -> None:
    numbers = {name: field for name, field in standard_fields.items() if "minimum" in field}
    assert len(numbers) == 8

    def status_of(name: str, value: object) -> int:
        return client.post(VIDEOS, json={"prompt": "a", "model": "plain", name: value}).status_code

    for name, field in numbers.items():
        unset = int(number[1]) if (number := UNSET.search(field["description"])) else None
        below = field["minimum"] - (1 if field["minimum"] - 1 != unset else 2)
        statuses = [status_of(name, value) for value in (field["minimum"], below, field["maximum"] + 1, unset)]
        assert statuses == [200, 400, 400, 200], name
    for name in ("scheduler", "output_type"):
        assert {status_of(name, choice) for choice in standard_fields[name]["enum"]} == {200}


def test_documented_defaults_of_the_standard_are_those_that_are_used(
    client: TestClient, standard_fields: dict[str, dict[str, Any]]
) -> None:
    video = client.post(VIDEOS, json={"prompt": "a"}).json() | {"input_reference": None}
    defaults = {name: field["default"] for name, field in standard_fields.items() if field.get("default") is not None}

    assert len(defaults) == 11
    assert {name: video[name] for name in defaults} == defaults | {"seconds": str(defaults["seconds"])}
