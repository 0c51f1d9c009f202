"""A lenient reader of fields: numbers may be strings, booleans may be yes or no, null means the default."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from promptreel.errors import InvalidParams
from promptreel.jobs.params import MAX_FRAMES

_INTEGER = re.compile(r"[+-]?[0-9]{1,30}(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_YES = frozenset({"yes", "true", "1", "on"})
_NO = frozenset({"no", "false", "0", "off"})
_NULL = frozenset({"", "null", "none", "undefined"})

MOST_IGNORED_NAMED = 8

D = TypeVar("D")


@dataclass(frozen=True)
class Limits:
    """The range of a number, both ends included. A number outside is refused. If `clamps`, it becomes the nearer end instead.

    `unset` is a number outside the range that means "not given": clients send the length 0, or the seed -1.
    """

    minimum: float
    maximum: float
    clamps: bool = False
    unset: float | None = None

    @property
    def pattern(self) -> str:
        """A regular expression for whole numbers as text. Stricter than the parser: every match is valid."""
        lengths = [n for n in range(1, 10) if self.clamps or (10 ** (n - 1) >= self.minimum and 10**n <= self.maximum + 1)]
        if not lengths:
            return f"^[{self.minimum:g}-{self.maximum:g}]$"
        return f"^[1-9][0-9]{{{lengths[0] - 1},{lengths[-1] - 1}}}$"


class FieldReader:
    """Reads fields one by one and collects their errors, so that one answer names them all.

    A wrong field reads as its default. `raise_errors` reports it at the end. Messages are worded like Laravel's, because
    clients of the hosted service search for such words. `clamped` has the numbers that were moved into their range.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._errors: dict[str, list[str]] = {}
        self._asked: set[str] = set()
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

    def _get(self, name: str) -> Any:
        self._asked.add(name)
        return self._fields.get(name)

    def name_ignored(self, *, but: Collection[str] = ()) -> list[str]:
        """The first few fields that were sent but not read, each with a similar known name if there is one.

        If `field` was read, `field[part]` counts as read, too. `but`: the fields that are read elsewhere.
        """
        known = self._asked | set(but)
        sent = [name for name, value in self._fields.items() if value is not None]
        ignored = [name for name in sent if name not in known and name.partition("[")[0] not in known]
        told = []
        for name in ignored[:MOST_IGNORED_NAMED]:
            shown = name[:40] if name.isprintable() else ascii(name[:40])
            close = difflib.get_close_matches(name[:40].lower(), sorted(name for name in known if "[" not in name), n=1)
            told.append(f"{shown} (did you mean {close[0]}?)" if close else shown)
        return told if len(ignored) <= len(told) else [*told, f"{len(ignored) - len(told)} more"]

    def given(self, name: str) -> Any:
        """The field as it was sent. None for null, "", and words such as "none" and "undefined"."""
        value = self._get(name)
        return None if isinstance(value, str) and _word(value) in _NULL else value

    def is_set(self, name: str) -> bool:
        """Whether a number was sent, where 0 means that none was."""
        return self.given(name) not in (None, 0, "0")

    def text(self, name: str, *, maximum: int) -> str | None:
        """The text, unchanged. None if it is null or wrong. "" stays "", because it may be intended."""
        value = self._get(name)
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
        value = self._get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            self.reject(name, f"The {label(name)} field is required.")
            return ""
        return self.text(name, maximum=maximum) or ""

    def scalar(self, name: str, *, maximum: int) -> str | None:
        """A string, number or boolean, as text."""
        value = self._get(name)
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
        word = json.dumps(value) if isinstance(value, bool | int) else _word(value) if isinstance(value, str) else value
        if word is None:
            return default
        if not isinstance(word, str) or word not in _YES | _NO:
            self.reject(name, f"The {label(name)} must be yes or no.")
            return default
        return word in _YES

    def choice(self, name: str, choices: Collection[str], *, default: str) -> str:
        value = self.given(name)
        if value is None:
            return default
        if isinstance(value, str):
            word = value.strip()[:100].lower()
            spelled = next((choice for choice in choices if choice.lower() == word), None)
            if spelled is not None:
                return spelled
        self.reject(name, f"The selected {label(name)} is invalid. Use one of: {', '.join(choices)}.")
        return default


def count_frames(reader: FieldReader, seconds: int, fps: int) -> int:
    """The number of frames in `seconds`. Rejects the field `seconds` if there are more than MAX_FRAMES."""
    if seconds * fps > MAX_FRAMES:
        longest = MAX_FRAMES // fps
        why = f"a video has at most {MAX_FRAMES} frames, which are {longest} seconds at {fps} fps."
        reader.reject("seconds", f"The seconds must not be greater than {longest}: {why}")
    return seconds * fps


def _word(text: str) -> str:
    """The start of a text in lower case, to compare with short words. Lowering all of a huge text would take much memory."""
    return text.strip()[:16].lower()


def label(name: str) -> str:
    return name.replace("_", " ")


def as_sent(value: Any, text: str | None) -> Any:
    """The value with the JSON type that was sent. Its text for NaN and infinity, which JSON lacks."""
    return text if isinstance(value, float) and not math.isfinite(value) else value


def is_url(value: object) -> bool:
    """Whether it is an absolute http or https URL."""
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
