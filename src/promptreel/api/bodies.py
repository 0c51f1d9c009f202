"""Receives the bodies of requests in bounded memory and time.

A body longer than SHORT_BYTES needs a place in memory (body_memory.py). A body longer than MAX_BODY_BYTES is parsed only with a
valid API key. Clients of the hosted service send the key in the body. So if neither the query nor a header has a valid key, the
unparsed body is searched for one.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from fastapi import Depends, Request

from promptreel.api.body_memory import MEGABYTE, Place
from promptreel.api.body_parser import MalformedRequest, parse_body
from promptreel.api.cookies import read_session
from promptreel.api.foreign_pages import refuse_foreign_pages
from promptreel.api.parts import parts_of
from promptreel.errors import InvalidApiKey, PromptreelError

MAX_BODY_BYTES = 256 * 1024
# An image of 5 MB and a video of 20 MB in base64, percent-encoded in a form.
MAX_INIT_BODY_BYTES = 36 * MEGABYTE
# A client whose connection is closed while it sends may never read the error. So this much more is read and discarded.
_MAX_DISCARDED_BYTES = 16 * MEGABYTE
SHORT_BYTES = 16 * 1024
"""A body up to this length needs no place, and is parsed on the event loop. Parsing a longer one there would delay others."""

SLOWEST_BYTES_A_SECOND = 64 * 1024
"""Half a megabit per second. A body that arrives more slowly than this, after some grace, is refused."""

_KEYS = {
    b'"key"': re.compile(rb'"key"(?:\s*:\s*"|\r\n(?:[^\r\n]{1,200}\r\n){0,4}\r\n)([^"\r\n]{1,200})'),
    b"name=key": re.compile(rb"name=key\r\n(?:[^\r\n]{1,200}\r\n){0,4}\r\n([^\r\n]{1,200})"),
    b"key=": re.compile(rb"(?:^|(?<=&))key=([^&\s]{1,200})"),
}
"""How to find a key in JSON, a multipart form and a form. Base64 cannot contain these marks, so there are few matches."""
_MAX_MARKS = 1000
_MAX_KEYS = 4


class BodyTooLarge(PromptreelError):
    """The body of the request is larger than its endpoint accepts."""

    code = "body_too_large"


class BodyTooSlow(PromptreelError):
    """The body of the request did not arrive in time."""

    code = "body_too_slow"


async def read_fields(request: Request) -> dict[str, Any]:
    """The fields of a request's query string and body, with unchecked values. The body overrides the query string.

    Raises MalformedRequest, BodyTooLarge, BodyTooSlow, NoRoom, InvalidApiKey and ForeignPage.
    """
    return await _read_fields(request, MAX_BODY_BYTES)


async def read_fields_with_init(request: Request) -> dict[str, Any]:
    """`read_fields` for an endpoint that takes an init image or video: its body may be MAX_INIT_BODY_BYTES long."""
    return await _read_fields(request, MAX_INIT_BODY_BYTES)


async def read_fields_with_files(request: Request) -> dict[str, Any]:
    """`read_fields_with_init`, in which the files of a multipart form are fields, too, as bytes."""
    return await _read_fields(request, MAX_INIT_BODY_BYTES, with_files=True)


async def read_any_fields(request: Request) -> dict[str, Any]:
    """The fields that were already read, or else those of `read_fields`. Ignores a body that is malformed or too large."""
    try:
        return await read_fields(request)
    except (MalformedRequest, BodyTooLarge):
        request.state.fields = dict(request.query_params)
        return dict(request.query_params)


Fields = Annotated[dict[str, Any], Depends(read_fields)]
FieldsWithInit = Annotated[dict[str, Any], Depends(read_fields_with_init)]
FieldsWithFiles = Annotated[dict[str, Any], Depends(read_fields_with_files)]


async def _read_fields(request: Request, maximum: int, *, with_files: bool = False) -> dict[str, Any]:
    if hasattr(request.state, "fields"):  # a body can be read only once
        return dict(request.state.fields)
    body = await _Receipt(request, maximum).receive()
    content_type = request.headers.get("content-type", "")
    if len(body) <= SHORT_BYTES:
        sent = parse_body(body, content_type, with_files=with_files)
    else:
        reader = parts_of(request).body_memory.reader
        loop = asyncio.get_running_loop()
        sent = await loop.run_in_executor(reader, lambda: parse_body(body, content_type, with_files=with_files))
    request.state.fields = dict(request.query_params) | sent
    return dict(request.state.fields)


class _Receipt:
    """Receives one body."""

    def __init__(self, request: Request, maximum: int) -> None:
        self._request = request
        self._maximum = maximum
        self._parts = parts_of(request)
        self._place: Place | None = None
        self._is_known = False

    async def receive(self) -> bytearray:
        try:
            async with asyncio.timeout(None) as limit:
                body = await self._receive(limit)
        except TimeoutError as error:
            raise BodyTooSlow(
                "The body of the request came too slowly, or other requests waited for its memory. Send it again with the API "
                "key in a header, which arrives before the body."
            ) from error
        finally:
            if self._place is not None:
                self._place.hurry = None
        await self._refuse_unknown(body)
        return body

    async def _receive(self, limit: asyncio.Timeout) -> bytearray:
        body, received = bytearray(), 0
        started = asyncio.get_running_loop().time()
        grace = self._parts.body_memory.grace_seconds
        limit.reschedule(started + grace)
        async for chunk in self._request.stream():
            received += len(chunk)
            if received > self._maximum + _MAX_DISCARDED_BYTES:
                break
            if received > self._maximum:
                body.clear()
                continue
            if received > SHORT_BYTES and self._place is None:
                started += await self._enter(received, limit)
            body += chunk
            limit.reschedule(started + grace + received / SLOWEST_BYTES_A_SECOND)
        if received > self._maximum:
            kilobytes = self._maximum // 1024
            size = f"{kilobytes} kB" if kilobytes < 1024 else f"{kilobytes // 1024} MB"
            raise BodyTooLarge(f"The body of the request is larger than {size}: send a shorter one.")
        return body

    async def _enter(self, received: int, limit: asyncio.Timeout) -> float:
        """Takes a place for the whole body, and returns the seconds spent waiting. access.py releases it with the answer."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        limit.reschedule(None)
        self._is_known = await _is_known(self._request)
        memory = self._parts.body_memory
        headers = self._request.headers
        # A chunked body may have any length, whatever Content-Length says.
        declared = self._maximum if "transfer-encoding" in headers else int(headers.get("content-length", self._maximum))
        size = min(max(declared, received), self._maximum)
        self._place = await (memory.of_known if self._is_known else memory.of_unknown).take(size)
        self._request.state.place = self._place
        if not self._is_known:
            self._place.hurry = lambda: limit.reschedule(loop.time())
        return loop.time() - asked_at

    async def _refuse_unknown(self, body: bytearray) -> None:
        """Raises InvalidApiKey for a long body without a valid key. Called before parsing."""
        if self._is_known or len(body) <= MAX_BODY_BYTES:
            return
        keys = await asyncio.get_running_loop().run_in_executor(self._parts.body_memory.reader, _find_keys, body)
        if not await self._parts.authenticator.know(keys):
            raise InvalidApiKey("Invalid API key")


async def _is_known(request: Request) -> bool:
    """Whether the caller needs no key, or sent a valid one outside the body. Raises ForeignPage."""
    parts = parts_of(request)
    if await parts.authenticator.know_everyone():
        refuse_foreign_pages(request, parts)
        return True
    session = read_session(request)
    if session is not None and await parts.authenticator.knows_id(session):
        return True
    return await parts.authenticator.know(keys_beside_body(request))


def keys_beside_body(request: Request) -> list[str]:
    """The keys outside the body, in order of precedence: query, header `key`, Bearer token."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token if scheme.lower() == "bearer" else ""
    sent = (request.query_params.get("key", ""), request.headers.get("key", ""), bearer)
    return [key.strip() for key in sent if key.strip()]


def _find_keys(body: bytearray) -> list[str]:
    """The first few texts in an unparsed body that may be API keys, in no order."""
    found: set[bytes] = set()
    for mark, pattern in _KEYS.items():
        at = body.find(mark)
        for _ in range(_MAX_MARKS):
            if at < 0 or len(found) == _MAX_KEYS:
                break
            if match := pattern.match(body, at):
                found.add(match[1].strip())
            at = body.find(mark, at + 1)
    return [key.decode("latin-1") for key in found if key]
