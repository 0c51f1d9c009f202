"""Decompresses the bodies of requests piece by piece, so that their readers see plain bytes.

A few bytes may expand to a gigabyte. So a piece is decompressed only when the reader asks for it, and the reader counts the
bytes.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptreel.errors import PromptreelError

_PIECE_BYTES = 256 * 1024
_ANY_HEADER = zlib.MAX_WBITS | 32  # gzip's or zlib's


class UnknownEncoding(PromptreelError):
    """The body's compression is not supported, or not what its header says."""

    code = "unknown_encoding"


class Unpacking:
    """Middleware for bodies under `Content-Encoding: gzip` and `deflate`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        packed = Headers(scope=scope).get("content-encoding", "") if scope["type"] == "http" else ""
        if packed.strip().lower() not in {"", "identity"}:
            # The decompressed length is unknown.
            headers = [pair for pair in scope["headers"] if pair[0] not in {b"content-encoding", b"content-length"}]
            scope, receive = {**scope, "headers": headers}, _Unpacked(receive, packed.strip().lower()).receive
        await self._app(scope, receive, send)


class _Unpacked:
    """A request's messages, with the body decompressed."""

    def __init__(self, receive: Receive, encoding: str) -> None:
        self._receive = receive
        self._encoding = encoding
        self._unpacker = zlib.decompressobj(_ANY_HEADER)
        self._packed = b""
        self._has_more = True  # messages to receive
        self._is_full = False  # the last piece was full: the unpacker may hold more
        self._is_empty = True
        self._is_done = False

    async def receive(self) -> Message:
        """Raises UnknownEncoding."""
        if self._encoding not in {"gzip", "x-gzip", "deflate"}:
            raise UnknownEncoding(
                f"Content-Encoding: {self._encoding[:40]} is not supported: send the body with gzip, or uncompressed."
            )
        while self._has_more and not self._packed and not self._is_full:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._packed = message.get("body", b"")
            self._has_more = message.get("more_body", False)
            self._is_empty = self._is_empty and not self._packed
        if self._is_done:
            return await self._receive()  # the client's disconnect
        await asyncio.sleep(0)  # lets other requests run between two pieces
        body = self._unpack()
        self._is_done = not (self._has_more or self._packed or self._is_full)
        if self._is_done and not self._unpacker.eof and not self._is_empty:
            raise UnknownEncoding(f"The body of the request is incomplete: its {self._encoding} data has no end.")
        return {"type": "http.request", "body": body, "more_body": not self._is_done}

    def _unpack(self) -> bytes:
        try:
            body = self._unpacker.decompress(self._packed, _PIECE_BYTES)
        except zlib.error as error:
            raise UnknownEncoding(f"The body of the request is not {self._encoding}, as its Content-Encoding says.") from error
        if self._unpacker.unused_data:
            raise UnknownEncoding(
                f"The body of the request goes on after the end of its {self._encoding} data: compress it as one stream."
            )
        self._packed = self._unpacker.unconsumed_tail
        self._is_full = len(body) == _PIECE_BYTES
        return body
