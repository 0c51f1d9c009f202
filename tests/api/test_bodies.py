"""Bodies of requests: limits on their size, time and number of parts, and who may send long ones."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from promptreel.api.access import AccessLog
from promptreel.api.app import AppParts, create_app
from promptreel.api.bodies import MAX_BODY_BYTES, MAX_INIT_BODY_BYTES
from promptreel.api.body_memory import HURRIED_SECONDS, WAIT_SECONDS, BodyMemory, Budget, NoRoom
from promptreel.api.body_parser import MAX_DEPTH, MAX_ESCAPES, MAX_FIELDS, MAX_VALUES, MalformedRequest, parse_body
from promptreel.jobs.keys import KeyStore
from tests.api.conftest import SUBMIT
from tests.api.test_keys import INVALID
from tests.api.test_openai import VIDEOS, error_of

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
REMIX = f"{VIDEOS}/video_1/remix"
LONG = "x" * (MAX_BODY_BYTES + 1)


def part(name: str, value: str, *headers: str) -> str:
    return "\r\n".join(["--x", f"Content-Disposition: form-data; name={name}", *headers, "", value, ""])


def long_bodies(key: str) -> dict[str, tuple[str, str]]:
    """The ways in which clients put a key into a body, each with its Content-Type."""
    return {
        "first": (json.dumps({"key": key, "prompt": "a", "unknown": LONG}), "application/json"),
        "last": (json.dumps({"prompt": "a", "unknown": LONG, "key": f" {key} "}), "application/json"),
        "indented": (json.dumps({"unknown": LONG, "prompt": "a", "key": key}, indent=4), "text/plain"),
        "behind another": (json.dumps({"unknown": {"key": "k"}, "x": LONG, "key": key, "prompt": "key"}), "application/json"),
        "form": (f"prompt=a&monkey=b&unknown={LONG}&key={key}", FORM),
        "start of a form": (f"key={key}&unknown={LONG}&prompt=a", FORM),
        "multipart": (part('"prompt"', "a") + part('"unknown"', LONG) + part('"key"', key) + "--x--\r\n", MULTIPART),
        "typed part": (
            part('"prompt"', "a") + part("key", key, "Content-Type: text/plain") + part("u", LONG) + "--x--",
            MULTIPART,
        ),
    }


@pytest.mark.parametrize("way", long_bodies(""))
def test_long_body_may_hold_its_key_anywhere(client: TestClient, keys: KeyStore, way: str) -> None:
    _, key = keys.create("k")

    def ask(key: str) -> Any:
        content, kind = long_bodies(key)[way]
        return client.post(SUBMIT, content=content, headers={"Content-Type": kind}).json()

    assert ask(key)["status"] == "processing"
    assert ask("pr_wrong") == INVALID


@pytest.mark.parametrize("where", ["query", "header", "bearer"])
def test_long_body_of_an_unknown_caller_is_not_parsed(client: TestClient, keys: KeyStore, where: str) -> None:
    _, key = keys.create("k")
    broken = "[" * (MAX_BODY_BYTES + 1)

    def ask(key: str) -> Any:
        beside = {
            "query": {"params": {"key": key}},
            "header": {"headers": {"key": key}},
            "bearer": {"headers": {"Authorization": f"Bearer {key}"}},
        }
        return client.post(VIDEOS, content=broken, **beside[where])

    assert error_of(ask(key), 400)["code"] == "malformed_request"
    assert error_of(ask("pr_wrong"), 401)["code"] == "invalid_api_key"


def test_long_body_of_a_foreign_page_is_not_parsed(client: TestClient) -> None:
    answer = client.post(VIDEOS, content="[" * (MAX_BODY_BYTES + 1), headers={"Origin": "https://evil.example"})

    assert error_of(answer, 403)["code"] == "foreign_page"


def test_key_in_the_body_overrides_others(client: TestClient, keys: KeyStore) -> None:
    (_, first), (second, key) = keys.create("first"), keys.create("second")

    made = client.post(VIDEOS, json={"prompt": "a", "unknown": LONG, "key": key}, headers={"key": first})

    assert made.status_code == 200
    keys.revoke(str(second.id))
    assert client.get(VIDEOS, headers={"key": first}).json()["data"] == []


def values(number: int) -> bytes:
    return b'{"a": [' + b"1," * (number - 2) + b"1]}"


def parts(number: int) -> bytes:
    return (part('"a"', "b") * number + "--x--\r\n").encode()


@pytest.mark.parametrize(
    ("make", "most", "kind"),
    [
        (values, MAX_VALUES, "application/json"),
        (lambda number: b"&".join([b"a=b"] * number), MAX_FIELDS, FORM),
        (lambda number: b"a=" + b"%41" * number, MAX_ESCAPES, FORM),
        (parts, MAX_FIELDS, MULTIPART),
    ],
)
def test_parts_of_a_body_are_limited(make: Callable[[int], bytes], most: int, kind: str) -> None:
    assert parse_body(make(most), kind, with_files=False).keys() == {"a"}
    with pytest.raises(MalformedRequest, match="more than"):
        parse_body(make(most + 1), kind, with_files=False)


def test_fields_of_a_query_are_limited(client: TestClient) -> None:
    assert client.get(f"{VIDEOS}?{'&'.join(['a=b'] * MAX_FIELDS)}").status_code == 200
    assert error_of(client.get(f"{VIDEOS}?{'&'.join(['a=b'] * (MAX_FIELDS + 1))}"), 400)["code"] == "malformed_request"
    assert client.get(f"{SUBMIT}?{'&' * MAX_FIELDS}").json()["message"] == "Invalid API Request"


@given(st.lists(st.sampled_from(["a", "%41", "%e9", "%f0%9f%98%80", "%", "%zz", "+", "=", "&", "é", "😀", ";", " ", "%2"])))
def test_form_is_read_as_python_reads_it(pieces: list[str]) -> None:
    """Except for bytes that are not UTF-8: they are read as Latin-1."""
    text = "a=" + "".join(pieces)
    pairs = parse_qsl(text.strip(), keep_blank_values=True, errors="surrogateescape")

    assert parse_body(text.encode(), FORM, with_files=False) == {utf8_or_latin1(name): utf8_or_latin1(v) for name, v in pairs}


def utf8_or_latin1(text: str) -> str:
    raw = text.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@pytest.mark.slow
def test_escapes_of_a_long_form_stay_whole() -> None:
    text = "é😀 x" * 300_000
    escaped = "".join(f"%{byte:02X}" for byte in text.encode())

    assert len(escaped) > 3 * 1024 * 1024
    for shift in range(3):
        sent = f"{'a' * shift}={escaped}".encode()
        assert parse_body(sent[: MAX_ESCAPES * 3], FORM, with_files=False)["a" * shift][:900_000] == text[:900_000]


@pytest.mark.parametrize("size", [100, MAX_BODY_BYTES])
@pytest.mark.parametrize("body", ['{"a": 1, "a": NaN, "b": [Infinity], "c": "😀\\u00e9"%s}', '\ufeff {"c": "x"%s}\n'])
def test_json_is_read_the_same_at_any_length(size: int, body: str) -> None:
    sent = (body % f', "unknown": "{"x" * size}"').encode()

    assert repr(parse_body(sent, "", with_files=False)) == repr(json.loads(sent.decode("utf-8-sig")))


@pytest.mark.parametrize("body", ["[1]", "{", '{"a": 1} x', '{"a": 01}', '{"a": "\x01"}', "1", '{"a": ' + "9" * 5000 + "}"])
def test_body_that_is_not_a_json_object_is_malformed_at_any_length(body: str) -> None:
    for sent in (body.encode(), body.encode().ljust(MAX_BODY_BYTES + 1)):
        with pytest.raises(MalformedRequest):
            parse_body(sent, "", with_files=False)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_newcomer_waits_in_line_for_memory_and_then_gives_up() -> None:
    async def run() -> None:
        clock = Clock()
        budget = Budget(100, now=clock)
        first = await budget.take(60)
        large = asyncio.create_task(budget.take(50))
        await asyncio.sleep(0)
        small = asyncio.create_task(budget.take(10))  # would fit, but came later
        await asyncio.sleep(0.1)
        assert not large.done()
        assert not small.done()

        first.leave()
        first.leave()
        places = [await large, await small]
        late = asyncio.create_task(budget.take(41))
        await asyncio.sleep(0)
        clock.seconds += WAIT_SECONDS + 1
        with pytest.raises(NoRoom):
            await late
        for place in places:
            place.leave()
        await budget.take(100)

    asyncio.run(run())


def test_slow_body_is_hurried_when_others_wait_for_its_memory() -> None:
    async def run() -> None:
        clock = Clock()
        budget = Budget(100, now=clock)
        slow = await budget.take(100)
        slow.hurry = slow.leave
        clock.seconds += HURRIED_SECONDS + 1
        await budget.take(100)

    asyncio.run(run())


def test_place_is_left_when_the_request_is_answered(services: AppParts) -> None:
    """The memory holds only one such body at a time."""
    memory = BodyMemory(known=400_000, unknown=1)
    client = TestClient(create_app(replace(services, body_memory=memory)))

    for content in (json.dumps({"prompt": "a", "unknown": LONG}), "[" * (MAX_BODY_BYTES + 1), "[" * (MAX_INIT_BODY_BYTES + 1)):
        client.post(SUBMIT, content=content, headers={"Content-Length": str(len(content))})
        asyncio.run(memory.of_known.take(400_000)).leave()


def test_chunked_body_takes_the_maximum_of_memory(services: AppParts) -> None:
    """Content-Length is ignored."""
    seconds = itertools.count(step=WAIT_SECONDS)
    memory = BodyMemory()
    memory.of_known = Budget(100_000, now=lambda: float(next(seconds)))
    client, said = TestClient(create_app(replace(services, body_memory=memory))), {"Content-Length": "20000"}

    assert client.post(REMIX, content=b" " * 20_000, headers=said).status_code == 404
    answer = client.post(REMIX, content=b" " * 20_000, headers=said | {"Transfer-Encoding": "chunked"})
    assert error_of(answer, 503)["code"] == "no_room"


def test_place_is_left_when_the_answer_begins() -> None:
    """The answer may be endless, such as a stream of events."""
    left: list[str] = []

    class Place:
        def leave(self) -> None:
            left.append("the place")

    async def endless(scope: Any, _receive: Any, send: Any) -> None:
        scope["state"]["place"] = Place()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert left == ["the place"]

    async def ignore(_message: Any) -> None:
        return None

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(AccessLog(endless, real_status_codes=())(scope, ignore, ignore))


def test_depth_of_json_is_limited() -> None:
    def nested(depth: int, size: int) -> bytes:
        return (b'{"a": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}").ljust(size)

    for size in (0, MAX_BODY_BYTES + 1):
        assert parse_body(nested(MAX_DEPTH - 1, size), "", with_files=False)
        with pytest.raises(MalformedRequest):
            parse_body(nested(MAX_DEPTH + 1, size), "", with_files=False)


def test_no_room_is_answered_with_retry_after(services: AppParts) -> None:
    seconds = itertools.count(step=WAIT_SECONDS)
    memory = BodyMemory()
    memory.of_known = Budget(1, now=lambda: float(next(seconds)))
    answer = TestClient(create_app(replace(services, body_memory=memory))).post(VIDEOS, content=LONG)

    assert error_of(answer, 503)["code"] == "no_room"
    assert answer.headers["Retry-After"] == "5"
