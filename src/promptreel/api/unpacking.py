"""Bodies that a client has compressed: their readers see the bytes as they were before, a piece at a time.

A few bytes may stand for a gigabyte. So no more is unpacked than is asked for, and whoever reads a body counts what comes out.
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
    """The body of the request is compressed in a way that is not read, or is not what its header says."""

    code = "unknown_encoding"


class Unpacking:
    """Middleware for bodies under `Content-Encoding: gzip` and `deflate`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        packed = Headers(scope=scope).get("content-encoding", "") if scope["type"] == "http" else ""
        if packed.strip().lower() not in {"", "identity"}:
            # What is left is as long as it will be.
            headers = [pair for pair in scope["headers"] if pair[0] not in {b"content-encoding", b"content-length"}]
            scope, receive = {**scope, "headers": headers}, _Unpacked(receive, packed.strip().lower()).receive
        await self._app(scope, receive, send)


class _Unpacked:
    """A request's messages, with its body unpacked."""

    def __init__(self, receive: Receive, encoding: str) -> None:
        self._receive = receive
        self._encoding = encoding
        self._unpacker = zlib.decompressobj(_ANY_HEADER)
        self._packed = b""
        self._has_more = True  # to receive
        self._is_full = False  # the last piece: the unpacker may hold more
        self._is_empty = True
        self._is_done = False

    async def receive(self) -> Message:
        """Raises UnknownEncoding."""
        if self._encoding not in {"gzip", "x-gzip", "deflate"}:
            raise UnknownEncoding(
                f"Bodies under Content-Encoding: {self._encoding[:40]} are not read: send gzip, or the body as it is."
            )
        while self._has_more and not self._packed and not self._is_full:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._packed = message.get("body", b"")
            self._has_more = message.get("more_body", False)
            self._is_empty = self._is_empty and not self._packed
        if self._is_done:
            return await self._receive()  # that the client hung up
        await asyncio.sleep(0)  # others have their turn between two pieces
        body = self._unpack()
        self._is_done = not (self._has_more or self._packed or self._is_full)
        if self._is_done and not self._unpacker.eof and not self._is_empty:
            raise UnknownEncoding(f"The body of the request is not whole: its {self._encoding} has no end.")
        return {"type": "http.request", "body": body, "more_body": not self._is_done}

    def _unpack(self) -> bytes:
        try:
            body = self._unpacker.decompress(self._packed, _PIECE_BYTES)
        except zlib.error as error:
            raise UnknownEncoding(f"The body of the request is not {self._encoding}, as its Content-Encoding says.") from error
        if self._unpacker.unused_data:
            raise UnknownEncoding(f"The body of the request goes on after the end of its {self._encoding}: send one piece.")
        self._packed = self._unpacker.unconsumed_tail
        self._is_full = len(body) == _PIECE_BYTES
        return body
