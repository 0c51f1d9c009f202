"""A body in, fields by name out: JSON, a form or a multipart form, each with a bound on what it may be made of.

What a parser builds may take a hundred times the bytes that it reads. So the marks that begin a value, a field or a part are
counted first, which takes a thousandth of the time, and a body with more than any client sends is not parsed at all.
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
"""Of values in JSON."""

MAX_DEPTH = 200
"""Of lists and objects in JSON."""

MAX_FIELDS = 1000
"""Of a form, of a multipart form, and of a query string."""

MAX_ESCAPES = 2_000_000
"""Of %41 and the like in a form: a picture or video in base64 needs half as many."""

_SMALL_BYTES = 256 * 1024
_PIECE_BYTES = 1024 * 1024
_ESCAPE_BYTES = 3  # %41
_FIRST = re.compile(rb"\s*(\S?)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_object = TypeAdapter(dict[str, Any])


class MalformedRequest(PromptreelError):
    """The body of the request is neither a JSON object nor a form, or made of more parts than any client sends."""

    code = "malformed_request"


def parse_body(body: bytes | bytearray, content_type: str, *, with_files: bool) -> dict[str, Any]:
    """The fields; of a multipart form's files, the bytes, or nothing. Raises MalformedRequest."""
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
    """For a query string, or a form. Raises MalformedRequest."""
    if query.count(b"&") >= MAX_FIELDS:
        raise MalformedRequest(f"The request has more than {MAX_FIELDS} fields.")


def _parse_json(body: bytes | bytearray) -> dict[str, Any]:
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise MalformedRequest(f"The body of the request has more than {MAX_VALUES} values.")
    try:
        # A long one is read as it is: json would need it as text too, of up to four times as many bytes.
        fields = _object.validate_json(body) if len(body) > _SMALL_BYTES else json.loads(_to_text(body).strip())
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("The body of the request is not a valid JSON object.") from error
    if not isinstance(fields, dict):
        raise MalformedRequest("The body of the request is not a JSON object.")
    if _is_deep(fields):
        raise MalformedRequest(f"The body of the request is nested more than {MAX_DEPTH} deep.")
    return fields


def _is_deep(value: object) -> bool:
    """Whether it is nested deeper than what is done with it later can follow."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not inner:
            return False
        level = [each for values in inner for each in values]
    return True


def _parse_form(body: bytes | bytearray) -> dict[str, Any]:
    """As urllib.parse.parse_qsl does, which takes thirty times a body's size where much of it is escaped."""
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
        if end < len(spaced):  # an escape stays whole
            cut = spaced.rfind(b"%", end - _ESCAPE_BYTES + 1, end)
            end = end if cut < 0 else cut
        plain += unquote_to_bytes(bytes(spaced[start:end]))
        start = end
    return _to_text(plain)


class _Part:
    """Of a multipart form."""

    def __init__(self) -> None:
        self.disposition = b""
        self.data = bytearray()


class _PartReader:
    """What python_multipart tells, as parts. It names a header piece by piece."""

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
    """Text is UTF-8, or what else its bytes may be."""
    if body.count(b"\r\n--") > 2 * MAX_FIELDS:  # what begins as a boundary does takes the parser a thousand times as long
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
    for part in reader.parts:
        options = parse_options_header(part.disposition)[1]
        if b"name" not in options:
            raise MalformedRequest("A part of the form has no name.")
        name = _to_text(options[b"name"])
        if b"filename" not in options:
            fields[name] = _to_text(part.data)
        elif with_files:
            fields[name] = bytes(part.data)
    return fields


def _to_text(data: bytes | bytearray) -> str:
    """UTF-8, or else Latin-1, which PowerShell, older pages and some clients of Java send without a word."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
