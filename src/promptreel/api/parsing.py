"""One lenient reader of requests: JSON, forms and query strings in; fields by name out, checked one by one.

Clients of the hosted service send forms under a JSON content type, numbers as strings and null for "the default".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from promptreel.errors import InvalidParams, PromptreelError
from promptreel.jobs.params import MAX_FRAMES

MAX_BODY_BYTES = 256 * 1024
# An image of 5 MB and a video of 20, in base64, which is percent-encoded where it travels in a form.
MAX_INIT_BODY_BYTES = 36 * 1024 * 1024
# A client that is cut off while it still sends may never read why, so somewhat more is read and thrown away.
_MAX_DISCARDED_BYTES = 16 * 1024 * 1024
_LONG_BODY_BYTES = 16 * 1024

_INTEGER = re.compile(r"[+-]?[0-9]{1,30}(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_YES = frozenset({"yes", "true", "1", "on"})
_NO = frozenset({"no", "false", "0", "off"})
_NULL = frozenset({"", "null", "none", "undefined"})

D = TypeVar("D")


class MalformedRequest(PromptreelError):
    """The body of the request is neither a JSON object nor a form."""

    code = "malformed_request"


class BodyTooLarge(PromptreelError):
    """The body of the request is larger than its endpoint takes."""

    code = "body_too_large"


async def read_fields(request: Request) -> dict[str, Any]:
    """The fields of a request, from its query string and its body; the body's go first.

    Raises MalformedRequest and BodyTooLarge. The values are not checked yet.
    """
    return await _read_fields(request, MAX_BODY_BYTES)


async def read_fields_with_init(request: Request) -> dict[str, Any]:
    """The same for an endpoint that takes an init image or video: its body may be MAX_INIT_BODY_BYTES long."""
    return await _read_fields(request, MAX_INIT_BODY_BYTES)


async def read_fields_with_files(request: Request) -> dict[str, Any]:
    """The same, and the files of a multipart form are fields too, as bytes."""
    return await _read_fields(request, MAX_INIT_BODY_BYTES, with_files=True)


async def read_any_fields(request: Request) -> dict[str, Any]:
    """The fields that the endpoint has read; where it reads none, those of a short body, and of none that cannot be read."""
    try:
        return await read_fields(request)
    except (MalformedRequest, BodyTooLarge):
        request.state.fields = dict(request.query_params)
        return dict(request.query_params)


Fields = Annotated[dict[str, Any], Depends(read_fields)]
FieldsWithInit = Annotated[dict[str, Any], Depends(read_fields_with_init)]


async def _read_fields(request: Request, maximum: int, *, with_files: bool = False) -> dict[str, Any]:
    if hasattr(request.state, "fields"):  # a body can be read once
        return dict(request.state.fields)
    body = await _read_body(request, maximum)
    fields: dict[str, Any] = dict(request.query_params)
    if body.strip():
        fields |= await _parse_body(body, request.headers, with_files=with_files)
    request.state.fields = fields
    return fields


async def _read_body(request: Request, maximum: int) -> bytes:
    body = bytearray()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= maximum:
            body += chunk
        elif received > maximum + _MAX_DISCARDED_BYTES:
            break
    if received > maximum:
        size = f"{maximum // 1024} kB" if maximum < 1024 * 1024 else f"{maximum // 1024**2} MB"
        raise BodyTooLarge(f"The body of the request is larger than {size}: send a shorter one.")
    return bytes(body)


async def _parse_body(body: bytes, headers: Headers, *, with_files: bool) -> dict[str, Any]:
    if headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _parse_multipart(body, headers, with_files=with_files)
    if len(body) > _LONG_BODY_BYTES:
        return await run_in_threadpool(_parse_text, body)  # it would hold up all other requests
    return _parse_text(body)


def _parse_text(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise MalformedRequest("The body of the request is not UTF-8.") from error
    if text.startswith(("{", "[", '"')) or "=" not in text:
        return _parse_json(text)
    return dict(parse_qsl(text, keep_blank_values=True))


def _parse_json(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("The body of the request is not valid JSON.") from error
    if not isinstance(fields, dict):
        raise MalformedRequest("The body of the request is not a JSON object.")
    return fields


async def _parse_multipart(body: bytes, headers: Headers, *, with_files: bool) -> dict[str, Any]:
    """The text fields of a multipart form. Files are left out, or read as bytes, for the endpoints where a field takes one."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(headers, stream(), max_part_size=len(body)).parse()
    except (MultiPartException, ValueError) as error:
        raise MalformedRequest("The body of the request is not a valid form.") from error
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            fields[name] = value
        elif with_files:
            fields[name] = await value.read()
    await form.close()
    return fields


@dataclass(frozen=True)
class Limits:
    """The range of a number, both ends included. A number outside is refused, or, if it `clamps`, moved to the nearer end.

    `unset` is a number outside that means "not given": clients send 0 for a length that nobody chose, and -1 for any seed.
    """

    minimum: float
    maximum: float
    clamps: bool = False
    unset: float | None = None

    @property
    def pattern(self) -> str:
        """A regular expression of whole numbers as text, each of which is taken; not of all that are."""
        lengths = [n for n in range(1, 10) if self.clamps or (10 ** (n - 1) >= self.minimum and 10**n <= self.maximum + 1)]
        if not lengths:
            return f"^[{self.minimum:g}-{self.maximum:g}]$"
        return f"^[1-9][0-9]{{{lengths[0] - 1},{lengths[-1] - 1}}}$"


class FieldReader:
    """Reads fields one by one and collects what is wrong with them, so that the client hears of everything at once.

    A wrong field reads as its default; `raise_errors` speaks at the end. Messages are worded as Laravel does, because
    clients of the hosted service look for them. `clamped` are the numbers that were moved into their range.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._errors: dict[str, list[str]] = {}
        self.clamped: dict[str, float] = {}

    def reject(self, name: str, message: str) -> None:
        self._errors.setdefault(name, []).append(message)

    @property
    def has_errors(self) -> bool:
        return bool(self._errors)

    def raise_errors(self) -> None:
        """Raises InvalidParams if any field was wrong."""
        if self._errors:
            raise InvalidParams(self._errors)

    def given(self, name: str) -> Any:
        """The field as it was sent; None for null, "", and the words by which forms of several languages spell null."""
        value = self._fields.get(name)
        return None if isinstance(value, str) and value.strip().lower() in _NULL else value

    def text(self, name: str, *, maximum: int) -> str | None:
        """The text, unchanged. None if it is null or wrong; "" stays "", for it may be meant."""
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.reject(name, f"The {label(name)} must be a string.")
        elif len(value) > maximum:
            self.reject(name, f"The {label(name)} must not be greater than {maximum} characters.")
        elif not _is_storable(value):
            self.reject(name, f"The {label(name)} must be valid Unicode text without null characters.")
        else:
            return value
        return None

    def required_text(self, name: str, *, maximum: int) -> str:
        value = self._fields.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            self.reject(name, f"The {label(name)} field is required.")
            return ""
        return self.text(name, maximum=maximum) or ""

    def scalar(self, name: str, *, maximum: int) -> str | None:
        """A string, number or boolean, as text."""
        value = self._fields.get(name)
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        if value is not None and not isinstance(value, str):
            self.reject(name, f"The {label(name)} must be a string or a number.")
            return None
        return self.text(name, maximum=maximum)

    def whole(self, name: str, limits: Limits, *, default: D) -> int | D:
        return self._number(name, limits, default=default, read=_to_whole, kind="an integer")

    def number(self, name: str, limits: Limits, *, default: D) -> float | D:
        return self._number(name, limits, default=default, read=_to_number, kind="a number")

    def _number(self, name: str, limits: Limits, *, default: D, read: Callable[[Any], Any], kind: str) -> Any | D:
        value = self.given(name)
        if value is None:
            return default
        number = read(value)
        if number is None:
            self.reject(name, f"The {label(name)} must be {kind}.")
        elif number == limits.unset:
            return default
        elif limits.minimum <= number <= limits.maximum:
            return number
        elif limits.clamps:
            self.clamped[name] = limits.minimum if number < limits.minimum else limits.maximum
            return self.clamped[name]
        elif number < limits.minimum:
            self.reject(name, f"The {label(name)} must be at least {limits.minimum:g}.")
        else:
            self.reject(name, f"The {label(name)} must not be greater than {spell(limits.maximum)}.")
        return default

    def yes_no(self, name: str, *, default: bool) -> bool:
        value = self.given(name)
        word = json.dumps(value) if isinstance(value, bool | int) else value
        if word is None:
            return default
        if not isinstance(word, str) or word.strip().lower() not in _YES | _NO:
            self.reject(name, f"The {label(name)} must be yes or no.")
            return default
        return word.strip().lower() in _YES

    def choice(self, name: str, choices: Collection[str], *, default: str) -> str:
        value = self.given(name)
        if value is None:
            return default
        if isinstance(value, str):
            spelled = next((choice for choice in choices if choice.casefold() == value.strip().casefold()), None)
            if spelled is not None:
                return spelled
        self.reject(name, f"The selected {label(name)} is invalid. Use one of: {', '.join(choices)}.")
        return default


def count_frames(reader: FieldReader, seconds: int, fps: int) -> int:
    """The frames of a video of `seconds`; the field is rejected when there are more than a video may have."""
    if seconds * fps > MAX_FRAMES:
        longest = MAX_FRAMES // fps
        why = f"a video has at most {MAX_FRAMES} frames, which are {longest} seconds at {fps} fps."
        reader.reject("seconds", f"The seconds must not be greater than {longest}: {why}")
    return seconds * fps


def label(name: str) -> str:
    return name.replace("_", " ")


def is_url(value: object) -> bool:
    """Whether it is a whole http or https address."""
    if not isinstance(value, str) or len(value) > 2048 or not value.isprintable() or " " in value.strip():
        return False
    try:
        parts = urlsplit(value.strip())
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _is_storable(text: str) -> bool:
    """Lone surrogates have no UTF-8 form, and PostgreSQL stores no null characters."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _to_whole(value: object) -> int | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value.strip().split(".")[0])
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _to_number(value: object) -> float | None:
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return math.inf
    return None if math.isnan(number) else number


def spell(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)
