"""Hostile HTTP: bodies that grow when parsed, aliases of this machine, floods, and silent connections."""

from __future__ import annotations

import gzip
import json
import re
import resource
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import httpx

from promptreel.jobs.keys import KeyLimits
from tests.flows.service import SHORT, TEXT2VIDEO, Service
from tests.hostile.case import HostileCase
from tests.waiting import LONGEST_SECONDS

MEGABYTE = 1024 * 1024
LARGE = 33 * MEGABYTE
VIDEOS = "/v1/videos"
FETCH = "/api/v4/dreambooth/fetch"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
END = b"\r\n--x--\r\n"
WIDE = "😀".encode()
# More than 1,024, the usual limit of open files per process.
MANY = 1124


def body_case(
    name: str,
    make: Callable[[], bytes],
    said: str,
    *,
    kind: str = "application/json",
    path: str = VIDEOS,
    encoding: str = "identity",
) -> HostileCase:
    """A body that must be refused, with these words in the answer."""
    headers = {"Content-Type": kind, "Content-Encoding": encoding}

    def attack(service: Service) -> None:
        answer = service.client.post(service.url + path, content=make(), headers=headers)
        assert said in answer.text, answer.text[:300]
        assert answer.status_code < 500

    return HostileCase(name, attack)


def fill(pattern: bytes, size: int = LARGE) -> bytes:
    return pattern * (size // len(pattern))


def packed(size: int) -> bytes:
    """This many equal bytes, compressed piece by piece."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    piece = b"a" * MEGABYTE
    return b"".join(packer.compress(piece) for _ in range(size // MEGABYTE)) + packer.flush()


def in_prompt(text: bytes) -> bytes:
    return b'{"prompt": "' + text + b'"}'


def foreign_picture() -> bytes:
    return b'{"prompt": "a", "input_reference": "data:image/png;base64,' + WIDE + fill(b"A") + b'"}'


JSON_BODIES = [
    body_case("body of empty lists", lambda: b"[" + fill(b"[],") + b"[]]", "more than 50000 values"),
    body_case("body of numbers", lambda: b'{"prompt": [' + fill(b"1,") + b"1]}", "more than 50000 values"),
    body_case("body of fields", lambda: b"{" + fill(b'"a":1,') + b'"b":1}', "more than 50000 values"),
    body_case("body of open lists", lambda: fill(b"["), "more than 50000 values"),
    body_case("body as deep as it may be", lambda: b'{"a":' + b"[" * 49_000 + b"]" * 49_000 + b"}", "not a valid JSON object"),
    body_case("number of a million digits", lambda: b'{"seed":' + b"9" * MEGABYTE + b"}", "not a valid JSON object"),
    body_case("fraction of 33 million digits", lambda: b'{"prompt": 0.' + fill(b"7") + b"}", "must be a string"),
    body_case("text that takes four bytes for each of its own", lambda: in_prompt(WIDE + fill(b"a")), "not be greater than"),
    body_case("text of escapes", lambda: in_prompt(fill(rb"\u00e9")), "not be greater than"),
    body_case("picture that takes four bytes for each of its own", foreign_picture, "must be a URL or a data"),
    body_case("body of spaces", lambda: fill(b" "), "The prompt field is required"),
    body_case("body of bytes that are no text", lambda: in_prompt(fill(b"\xff")), "not a valid JSON object"),
    body_case("body of nulls", lambda: fill(b"\x00"), "not a valid JSON object"),
    body_case(
        "lists where no picture is taken", lambda: b"[" + fill(b"[],", 250_000) + b"[]]", "Invalid API Request", path=FETCH
    ),
    body_case("body that is compressed and does not say so", lambda: gzip.compress(fill(b"a")), "The prompt field is required"),
    body_case("body with an unknown compression", lambda: fill(b"a"), "br is not supported", encoding="br"),
    body_case("gigabyte in a megabyte", lambda: packed(1024 * MEGABYTE), "larger than 36 MB", encoding="gzip"),
    body_case(
        "bytes after the end of the compressed ones",
        lambda: packed(MEGABYTE) + fill(b"a"),
        "goes on after the end of its gzip",
        encoding="gzip",
    ),
    body_case("compressed lists", lambda: gzip.compress(b"[" + fill(b"[],") + b"[]]"), "more than 50000", encoding="gzip"),
    body_case("body that ends amid its compression", lambda: packed(MEGABYTE)[:500], "is incomplete", encoding="gzip"),
]


FORM_BODIES = [
    body_case("form of 16 million fields", lambda: b"prompt=a" + fill(b"&b"), "more than 1000 fields", kind=FORM),
    body_case("form of escapes", lambda: b"prompt=" + fill(b"%41"), "more than 2000000 escaped", kind=FORM),
    body_case(
        "form of as many escapes as it may have",
        lambda: b"prompt=" + b"%41" * 2_000_000 + fill(b"A", 25 * MEGABYTE),
        "not be greater than",
        kind=FORM,
    ),
    body_case("form of spaces", lambda: b"prompt=" + fill(b"+"), "field is required", kind=FORM),
    body_case("form of a million parts", lambda: PART + fill(b"a\r\n" + PART) + END, "more than 1000 fields", kind=MULTIPART),
    body_case("form of almost boundaries", lambda: PART + fill(b"\r\n--xx") + END, "more than 1000 fields", kind=MULTIPART),
    body_case("form of line ends", lambda: PART + fill(b"\r\n") + END, "field is required", kind=MULTIPART),
    body_case("form of one large text", lambda: PART + fill(b"a") + END, "not be greater than", kind=MULTIPART),
    body_case("part of headers", lambda: b"--x\r\n" + fill(b"a:b\r\n") + PART + b"a" + END, "not a valid form", kind=MULTIPART),
    body_case(
        "part of one large header", lambda: b"--x\r\na:" + fill(b"b") + b"\r\n\r\n" + END, "not a valid form", kind=MULTIPART
    ),
    body_case("form without an end", lambda: PART + fill(b"-"), "not be greater than", kind=MULTIPART),
]


def address_of(service: Service) -> tuple[str, int]:
    parts = urlsplit(service.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


@contextmanager
def connections(service: Service, number: int, first_words: bytes) -> Iterator[list[socket.socket]]:
    """Opens this many connections, each of which has sent `first_words`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as opened:
        held = []
        for _ in range(number):
            held.append(opened.enter_context(socket.create_connection(address_of(service), timeout=LONGEST_SECONDS)))
            with suppress(ConnectionError):  # the service closed it to make room for others
                held[-1].sendall(first_words)
        yield held


def ask_raw(service: Service, request: bytes) -> bytes:
    """The answer to these bytes, possibly cut short by the service closing the connection."""
    answer = b""
    with socket.create_connection(address_of(service), timeout=LONGEST_SECONDS) as connection, suppress(ConnectionError):
        connection.sendall(request)
        while not _is_whole(answer) and (more := connection.recv(65536)):
            answer += more
    return answer


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
    return length is not None and len(body) >= int(length[1])


def assert_well(service: Service) -> None:
    assert httpx.get(f"{service.url}/health", trust_env=False, timeout=LONGEST_SECONDS).json()["workers"] == 1


def held_case(name: str, first_words: bytes, number: int = MANY) -> HostileCase:
    """Connections that keep the service waiting; other clients must still be served."""

    def attack(service: Service) -> None:
        with connections(service, number, first_words):
            for _ in range(3):
                assert_well(service)

    return HostileCase(name, attack)


HEAD = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\n"

HELD = [
    held_case("connections that say nothing", b""),
    held_case("headers that do not end", b"GET /health HTTP/1.1\r\nHost: a\r\n"),
    held_case("long headers that do not end", b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 60_000),
    held_case("small bodies that do not come", HEAD + b"Content-Length: 9\r\n\r\n{"),
    held_case("bodies that stop before they are whole", HEAD + b"Content-Length: 262144\r\n\r\n" + b" " * 200_000, number=300),
    held_case("large bodies that do not come", HEAD + b"Content-Length: 37000000\r\n\r\n" + b" " * 20_000, number=200),
    held_case("chunks that do not come", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n ", number=300),
    held_case("answers that nobody reads", b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 20, number=100),
    held_case("idle connections after an answer", b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"),
]


def raw_case(name: str, requests: Sequence[bytes], *statuses: int) -> HostileCase:
    """Bytes that must be answered with one of these statuses; 0: closed without an answer."""

    def attack(service: Service) -> None:
        for request in requests:
            answer = ask_raw(service, request)
            status = int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else 0
            assert status in statuses, (request[:200], answer[:300])
        assert_well(service)

    return HostileCase(name, attack)


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode("latin-1", errors="replace")


def hosts_case(name: str, hosts: Sequence[str], *statuses: int) -> HostileCase:
    return raw_case(name, [get(VIDEOS, f"Host: {host}") for host in hosts], *statuses)


NAMES = [
    hosts_case("names with odd characters", [f"a{odd}b.evil.example" for odd in "~!$&'()*+,;=`{}\"|^%<>[]@\\ "], 403, 400),
    hosts_case("names that end in an odd character", [f"evil.example{odd}" for odd in "~!$&'()*+,;=`{}\"%.:"], 403, 400),
    hosts_case(
        "addresses with a name behind them", ["127.0.0.1.evil.example", "[::1].evil.example", "[::1]evil.example:80"], 403
    ),
    hosts_case("addresses that are none", ["127.1", "0x7f.1", "2130706433.", "[::1", "::1", "[]", "[evil.example]"], 403, 200),
    hosts_case(
        "names with a port", ["evil.example:80", "evil.example:", "evil.example:x", "localhost:x", "localhost:999999"], 403
    ),
    hosts_case(
        "names of other scripts", ["b\u00fccher.evil.example", "\u00ff", "evil\u00b7example", "evil\u3002example"], 403, 400
    ),
    hosts_case("names with dots about them", ["", ".", "..", ".localhost.evil.example", "evil.example.."], 403),
    raw_case(
        "two names, and none",
        [get(VIDEOS, "Host: 127.0.0.1", "Host: evil.example"), get(VIDEOS), get(VIDEOS, "Host : 127.0.0.1")],
        400,
    ),
    raw_case("whole address as the path", [get(f"http://evil.example{VIDEOS}", "Host: 127.0.0.1")], 404),
    raw_case(
        "origins that are none",
        [get(VIDEOS, "Host: 127.0.0.1", f"Origin: {origin}") for origin in ("null", "", "http://", "//127.0.0.1.evil.example")],
        403,
    ),
    raw_case("no name and no origin", [get(VIDEOS, "Host:", "Origin: null")], 403),
]

WORDS = [
    raw_case("query of 30,000 fields", [get(f"{VIDEOS}?{'a&' * 30_000}", "Host: 127.0.0.1")] * 20, 400),
    raw_case("thousands of headers", [get("/health", "Host: a", *["a: b"] * 9000)] * 20, 200, 400, 431),
    raw_case("thousands of cookies", [get(VIDEOS, "Host: 127.0.0.1", f"Cookie: {'a=b; ' * 11_000}")] * 20, 200, 400, 431),
    raw_case("path of 60,000 characters", [get(f"/files/{'a/' * 30_000}", "Host: a")] * 20, 404),
    raw_case(
        "what is no HTTP",
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        400,
        404,
    ),
    raw_case("header of 140,000 characters", [get("/health", "Host: a", f"X: {'x' * 140_000}")], 400, 0),
]


def many_large_bodies(service: Service) -> None:
    """Twelve bodies of 30 MB at once: each is answered."""
    content = json.dumps(SHORT | {"prompt": "", "init_image": "data:image/png;base64," + "A" * 30_000_000}).encode()
    head = f"POST {TEXT2VIDEO} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n".encode()

    with ThreadPoolExecutor(12) as pool:
        for answer in pool.map(lambda _: ask_raw(service, head + content), range(12)):
            assert b"The prompt field is required" in answer or b"as many large requests" in answer, answer[:300]


def many_middling_bodies(service: Service) -> None:
    content = in_prompt(b"a" * 250_000)

    def send(_: int) -> int:
        return httpx.post(service.url + VIDEOS, content=content, trust_env=False, timeout=LONGEST_SECONDS).status_code

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(send, range(256))) == {400}


def endless_body(service: Service) -> None:
    """More than is accepted, without a Content-Length."""
    chunks = (b" " * MEGABYTE for _ in range(60))
    answer = service.client.post(service.url + VIDEOS, content=chunks)
    assert answer.status_code == 413


def chunks_of_a_byte(service: Service) -> None:
    body = b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n"
    assert b" 400 " in ask_raw(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)


def pipelined_requests(service: Service) -> None:
    with connections(service, 1, get("/nothing", "Host: a") * 1000) as (connection,):
        lines = 0
        with connection.makefile("rb") as answers:
            while lines < 1000:
                lines += b"HTTP/1.1 404" in answers.readline()


def connections_that_come_and_go(service: Service) -> None:
    for _ in range(10):
        with connections(service, 300, b"GET /"):
            pass
    assert_well(service)


@contextmanager
def keyed(service: Service) -> Iterator[str]:
    made = service.need_key(KeyLimits())
    try:
        yield service.key
    finally:
        service.revoke_key(made)


def large_bodies_without_a_key(service: Service) -> None:
    """None is parsed, and none is accepted."""
    wrong = b'{"key": "pr_wrong", "prompt": ' + b"[" + fill(b"[],") + b"[]]}"
    with keyed(service), ThreadPoolExecutor(6) as pool:
        post = partial(httpx.post, service.url + VIDEOS, content=wrong, trust_env=False, timeout=LONGEST_SECONDS)
        for answer in pool.map(lambda _: post(), range(6)):
            assert answer.status_code in {401, 408, 503}, answer.text[:300]


def room_taken_without_a_key(service: Service) -> None:
    """A client with a key in a header is served while strangers without one hold all of their room."""
    words = HEAD + b"Content-Length: 37000000\r\n\r\n" + b" " * 20_000
    content = json.dumps({"prompt": "a" * 3000, "unknown": "x" * MEGABYTE})
    with keyed(service) as key, connections(service, 50, words):
        answer = httpx.post(
            service.url + VIDEOS, content=content, headers={"key": key}, trust_env=False, timeout=LONGEST_SECONDS
        )
        assert "not be greater than" in answer.text


FLOODS = [
    HostileCase("twelve large bodies at once", many_large_bodies),
    HostileCase("hundreds of middling bodies at once", many_middling_bodies),
    HostileCase("body without an end", endless_body),
    HostileCase("chunks of a byte", chunks_of_a_byte),
    HostileCase("a thousand requests at once on one connection", pipelined_requests),
    HostileCase("connections that come and go", connections_that_come_and_go),
    HostileCase("large bodies without a key", large_bodies_without_a_key),
    HostileCase("room taken without a key", room_taken_without_a_key),
]

CASES: list[HostileCase] = [*JSON_BODIES, *FORM_BODIES, *HELD, *NAMES, *WORDS, *FLOODS]
