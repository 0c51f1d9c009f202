"""A body in, fields by name out: JSON, a form or a multipart form, each with limits on its number of parts.

Parsed objects may take a hundred times the memory of the body. So the marks that begin a value, a field or a part are counted
first, which takes a thousandth of the time. A body with more of them than any client sends is not parsed.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic import TypeAdapter
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from promptreel.errors import PromptreelError

MAX_VALUES = 50_000
"""In a JSON body."""

MAX_DEPTH = 200
"""Of nested lists and objects in JSON."""

MAX_FIELDS = 1000
"""In a form, a multipart form or a query string."""

MAX_ESCAPES = 2_000_000
"""Of escapes such as %41 in a form. A picture or video in base64 needs half as many."""

_SMALL_BYTES = 256 * 1024
_PIECE_BYTES = 1024 * 1024
_ESCAPE_BYTES = 3  # %41
_FIRST = re.compile(rb"\s*(\S?)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_object = TypeAdapter(dict[str, Any])


class MalformedRequest(PromptreelError):
    """The body of the request is neither a JSON object nor a form, or has more parts than any client sends."""

    code = "malformed_request"


def parse_body(body: bytes | bytearray, content_type: str, *, with_files: bool) -> dict[str, Any]:
    """The fields by name. `with_files` adds the files of a multipart form, as bytes; several of one name as a list.

    Raises MalformedRequest.
    """
    if content_type.lower().startswith("multipart/form-data"):
        return _parse_multipart(body, content_type, with_files=with_files)
    if body.startswith(_BYTE_ORDER_MARK):
        body = body[len(_BYTE_ORDER_MARK) :]
    match = _FIRST.match(body)
    first = match[1] if match else b""
    if not first:
        return {}
    return _parse_json(body) if first in b'{["' or b"=" not in body else _parse_form(body)


def refuse_many_fields(query: bytes | bytearray) -> None:
    """Checks a query string or a form against MAX_FIELDS. Raises MalformedRequest."""
    if query.count(b"&") >= MAX_FIELDS:
        raise MalformedRequest(f"The request has more than {MAX_FIELDS} fields.")


def _parse_json(body: bytes | bytearray) -> dict[str, Any]:
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise MalformedRequest(f"The body of the request has more than {MAX_VALUES} values.")
    try:
        # Pydantic parses a long body's bytes directly. json would first make a text of them, up to four times as large.
        fields = _object.validate_json(body) if len(body) > _SMALL_BYTES else json.loads(_to_text(body).strip())
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("The body of the request is not a valid JSON object.") from error
    if not isinstance(fields, dict):
        raise MalformedRequest("The body of the request is not a JSON object.")
    if _is_deep(fields):
        raise MalformedRequest(f"The body of the request is nested more than {MAX_DEPTH} deep.")
    return fields


def _is_deep(value: object) -> bool:
    """Whether it is nested deeper than MAX_DEPTH. Later recursive code could not follow."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not inner:
            return False
        level = [each for values in inner for each in values]
    return True


def _parse_form(body: bytes | bytearray) -> dict[str, Any]:
    """Like urllib.parse.parse_qsl, which takes thirty times the body's size when much of it is escaped."""
    refuse_many_fields(body)
    if body.count(b"%") > MAX_ESCAPES:
        raise MalformedRequest(f"The form has more than {MAX_ESCAPES} escaped bytes.")
    pairs = (field.partition(b"=") for field in body.strip().split(b"&") if field)
    return {_unescape(name): _unescape(value) for name, _, value in pairs}


def _unescape(text: bytes | bytearray) -> str:
    spaced = text.replace(b"+", b" ")
    if b"%" not in spaced:
        return _to_text(spaced)
    plain, start = bytearray(), 0
    while start < len(spaced):
        end = start + _PIECE_BYTES
        if end < len(spaced):  # cut between escapes, not inside one
            cut = spaced.rfind(b"%", end - _ESCAPE_BYTES + 1, end)
            end = end if cut < 0 else cut
        plain += unquote_to_bytes(bytes(spaced[start:end]))
        start = end
    return _to_text(plain)


class _Part:
    """One part of a multipart form."""

    def __init__(self) -> None:
        self.disposition = b""
        self.data = bytearray()


class _PartReader:
    """Collects the callbacks of python_multipart as parts. Header names and values arrive in pieces."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self._header = (bytearray(), bytearray())

    def on_part_begin(self) -> None:
        if len(self.parts) >= MAX_FIELDS:
            raise MalformedRequest(f"The request has more than {MAX_FIELDS} fields.")
        self.parts.append(_Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self.parts[-1].disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += memoryview(data)[start:end]


def _parse_multipart(body: bytes | bytearray, content_type: str, *, with_files: bool) -> dict[str, Any]:
    if body.count(b"\r\n--") > 2 * MAX_FIELDS:  # the parser is a thousand times slower on what looks like a boundary
        raise MalformedRequest(f"The request has more than {MAX_FIELDS} fields.")
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedRequest("The multipart form has no boundary.")
    reader = _PartReader()
    names = ("on_part_begin", "on_header_field", "on_header_value", "on_header_end", "on_part_data")
    try:
        parser = MultipartParser(boundary, {name: getattr(reader, name) for name in names})  # type: ignore[arg-type]
        for start in range(0, len(body), _PIECE_BYTES):
            parser.write(bytes(body[start : start + _PIECE_BYTES]))
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise MalformedRequest("The body of the request is not a valid form.") from error
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    for part in reader.parts:
        options = parse_options_header(part.disposition)[1]
        if b"name" not in options:
            raise MalformedRequest("A part of the form has no name.")
        name = _to_text(options[b"name"])
        if b"filename" not in options:
            fields[name] = _to_text(part.data)
        elif with_files:
            files.setdefault(name, []).append(bytes(part.data))
    return fields | {name: sent[0] if len(sent) == 1 else sent for name, sent in files.items()}


def _to_text(data: bytes | bytearray) -> str:
    """Decodes UTF-8, or else Latin-1, which PowerShell, older pages and some Java clients send without declaring it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
