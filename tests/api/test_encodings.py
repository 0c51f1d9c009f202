"""Compressed bodies, and paths with surplus slashes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from promptreel.api.bodies import MAX_BODY_BYTES
from promptreel.jobs.store import JobStore
from tests.api.conftest import SUBMIT
from tests.api.test_generations import PICTURE
from tests.api.test_openai import VIDEOS, error_of

BODY = json.dumps({"prompt": "a red cat", "seed": 7, "init_image": PICTURE}).encode()
# One kilobyte per megabyte.
BOMB = gzip.compress(bytes(200 * 1024 * 1024))


@pytest.mark.parametrize(
    ("encoding", "content"),
    [("gzip", gzip.compress(BODY)), ("X-GZIP", gzip.compress(BODY)), ("deflate", zlib.compress(BODY)), ("identity", BODY)],
)
def test_compressed_body_is_read(client: TestClient, encoding: str, content: bytes) -> None:
    def in_pieces() -> Iterator[bytes]:
        for byte in content:
            yield bytes([byte])

    for sent in (content, in_pieces()):
        answer = client.post(SUBMIT, content=sent, headers={"Content-Encoding": encoding}).json()
        assert (answer["meta"]["prompt"], answer["meta"]["seed"], answer["meta"]["init_image"]) == ("a red cat", 7, "yes")
    multipart = client.build_request("POST", VIDEOS, data={"prompt": "a red cat"}, files={"input_reference": ("", b"GIF")})
    headers = {"Content-Type": multipart.headers["Content-Type"], "Content-Encoding": "gzip"}
    refused = client.post(VIDEOS, content=gzip.compress(multipart.read()), headers=headers)
    assert error_of(refused, 400)["param"] == "input_reference"


def test_decompressed_body_has_the_usual_limit(client: TestClient) -> None:
    """The last piece comes out after all input has gone in."""
    body = b'{"prompt": "a red cat"}'.ljust(MAX_BODY_BYTES)
    headers = {"Content-Encoding": "gzip"}

    assert client.post("/v1/videos/video_1/remix", content=gzip.compress(body), headers=headers).status_code == 404
    assert error_of(client.post("/v1/videos/video_1/remix", content=gzip.compress(body + b" "), headers=headers), 413)
    assert error_of(client.post(VIDEOS, content=BOMB, headers=headers), 413)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("encoding", "content", "words"),
    [
        ("br", BODY, "Content-Encoding: br is not supported: send the body with gzip"),
        ("gzip", BODY, "The body of the request is not gzip, as its Content-Encoding says."),
        ("gzip", gzip.compress(BODY)[:-9], "The body of the request is incomplete"),
        ("gzip", gzip.compress(BODY) + b"x", "The body of the request goes on after the end of its gzip"),
    ],
)
def test_body_that_cannot_be_decompressed_says_why(
    client: TestClient, jobs: JobStore, encoding: str, content: bytes, words: str
) -> None:
    headers = {"Content-Encoding": encoding}
    error = error_of(client.post(VIDEOS, content=content, headers=headers), 415)
    answer = client.post(SUBMIT, content=content, headers=headers)

    assert (error["code"], words in error["message"]) == ("unknown_encoding", True)
    assert (answer.status_code, words in answer.json()["message"]) == (200, True)
    assert jobs.list() == []


def test_empty_body_needs_no_decompression(client: TestClient) -> None:
    answer = client.post(SUBMIT, params={"prompt": "a red cat"}, content=b"", headers={"Content-Encoding": "gzip"})

    assert answer.json()["status"] == "processing"


def test_surplus_slash_has_no_effect(client: TestClient) -> None:
    host = "http://video.test:8000"
    urls = [f"{host}{SUBMIT}/", f"{host}/{SUBMIT}", f"{host}{SUBMIT.replace('/v4/', '//v4/')}"]
    answers = [client.post(url, json={"prompt": "a"}).json() for url in urls]
    video = client.post(f"{VIDEOS}/", json={"prompt": "a"}).json()

    assert [answer["status"] for answer in answers] == ["processing"] * 3
    assert client.get(f"{VIDEOS}//{video['id']}/").json() == video
    assert client.post(answers[0]["fetch_result"] + "/").json()["id"] == answers[0]["id"]
    assert "The id is missing" in client.post("/api/v7/video-fusion/fetch/").json()["message"]
    assert client.get("/health/").status_code == 200
    assert client.get(f"{host}//").text == client.get(host).text


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_body_may_be_latin_1_whatever_its_charset(client: TestClient, charset: str) -> None:
    prompt = "un café à Genève"
    raw, escaped = f"prompt={prompt}".encode(charset), f"prompt={quote(prompt, encoding=charset)}".encode()
    quoted = json.dumps({"prompt": prompt}, ensure_ascii=False).encode(charset)
    multipart = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + prompt.encode(charset) + b"\r\n--b--\r\n"
    form, of_parts = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"

    for kind, content in ((form, raw), (form, escaped), ("application/json", quoted), (of_parts, multipart)):
        answer = client.post(SUBMIT, content=content, headers={"Content-Type": kind}).json()
        assert answer["meta"]["prompt"] == prompt, kind
