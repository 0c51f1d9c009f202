"""Whatever a client sends to a documented endpoint, the answer is JSON in a shape that clients know."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_from_bytes, urlencode

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from promptreel.api.problems import speaks_openai
from tests.api.conftest import SUBMIT
from tests.api.test_openai import VIDEOS

# Each example goes to all of over forty paths, and `make fuzz` makes up thousands more.
RUN = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
# All others answer 200 to everything.
REAL_STATUSES = ("/api/v7/", "/v1/")
KINDS = [
    "application/json",
    "application/json; charset=utf-16",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "text/html",
    "",
]
CONTENT_TYPES = st.sampled_from(KINDS).map(str.encode) | st.binary(max_size=30)
TEXTS = st.text(max_size=30)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)
IDS = st.sampled_from(["1", "video_1", "cutout"]) | TEXTS.filter(lambda text: text not in {"", ".", ".."} and "/" not in text)


@pytest.fixture
def posts(document: dict[str, Any]) -> dict[str, list[str]]:
    """Every path that takes a POST, with its documented fields."""
    return {path: fields_of(operations["post"]) for path, operations in document["paths"].items() if "post" in operations}


def fields_of(operation: dict[str, Any]) -> list[str]:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return [*schema.get("properties", {}), *(each["name"] for each in operation.get("parameters", []) if each["in"] == "query")]


def check_answer(client: TestClient, path: str, url: str, content: bytes, content_type: bytes) -> None:
    answer = client.post(url, content=content, headers={"Content-Type": content_type})

    assert answer.headers["Content-Type"] == "application/json", url
    assert answer.status_code in ({200, 400, 404, 501} if path.startswith(REAL_STATUSES) else {200}), (url, answer.text)
    assert "Something went wrong" not in answer.text, url
    body = answer.json()
    if speaks_openai(path):
        assert "object" in body or set(body["error"]) == {"message", "type", "param", "code"}, url
    else:
        assert isinstance(body, list) or body["status"] in {"processing", "success", "error", "failed", "ok", "degraded"}, url


def fill(path: str, part: str) -> str:
    """The path with `part` in place of each parameter."""
    return "/".join(quote(part, safe="") if name.startswith("{") else name for name in path.split("/"))


@pytest.mark.slow
@RUN
@given(
    body=st.binary(max_size=300),
    content_type=CONTENT_TYPES,
    query=st.binary(max_size=100).map(quote_from_bytes) | st.dictionaries(TEXTS, TEXTS, max_size=3).map(urlencode),
    part=IDS,
)
@example(body=b"[" * 9999, content_type=b"application/json", query="key=%ff&=&&prompt", part="9" * 40)
@example(body=b"prompt=%ff%00&seed=" + b"9" * 5000, content_type=b"multipart/form-data; boundary=", query="", part="\x00")
def test_any_bytes_are_answered_with_json(
    client: TestClient, posts: dict[str, list[str]], body: bytes, content_type: bytes, query: str, part: str
) -> None:
    for path in posts:
        check_answer(client, path, f"{fill(path, part)}?{query}", body, content_type)


@pytest.mark.slow
@RUN
@given(data=st.data(), in_query=st.booleans(), part=IDS)
def test_any_values_of_the_documented_fields_are_answered_with_json(
    client: TestClient, posts: dict[str, list[str]], data: st.DataObject, in_query: bool, part: str
) -> None:
    """Endpoints get their documented fields, so that the values reach as much code as possible."""
    names = sorted({name for fields in posts.values() for name in fields})
    sent = data.draw(st.dictionaries(st.sampled_from(names), JSON_VALUES, max_size=8))
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in sent.items()}
    content, query = (b"", urlencode(texts)) if in_query else (json.dumps(sent).encode(), "")
    for path in posts:
        check_answer(client, path, f"{fill(path, part)}?{query}", content, b"application/json")


def test_every_endpoint_that_takes_a_post_is_among_them(posts: dict[str, list[str]]) -> None:
    assert posts.keys() >= {SUBMIT, VIDEOS, "/api/v7/video-fusion/fetch/{job_id}", "/api/v3/load_model"}
    assert len(posts) >= 40
    assert "init_image" in posts[SUBMIT]


@settings(RUN, max_examples=60)
@given(query=st.dictionaries(st.sampled_from(["after", "limit", "order"]), TEXTS))
def test_any_page_is_answered_in_openais_shape(client: TestClient, query: dict[str, str]) -> None:
    answer = client.get(VIDEOS, params=query)

    assert answer.status_code in {200, 400}
    assert ("data" in answer.json()) is (answer.status_code == 200)
