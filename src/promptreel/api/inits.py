"""`init_image` and `init_video` of a request: what a client sent, as checked bytes. They are stored before the job is."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence

from promptreel.api.parsing import FieldReader, is_url, label
from promptreel.encoding.inits import check_init, recognise
from promptreel.errors import InitUnusable, UrlUnusable
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.media import INIT_TYPES, Init, InitKind

FIELDS: Mapping[str, InitKind] = {"init_image": "image", "init_video": "video"}
MAX_MEGABYTES: Mapping[InitKind, int] = {"image": 5, "video": 20}
_MEGABYTE = 1024 * 1024
_HEADER = re.compile(r"data:([a-z]+/[a-z0-9.+-]+)(?:;[^,;]*)*;base64", re.IGNORECASE)
_ALIASES = {"image/jpg": "image/jpeg"}
# What servers call a file whose type they do not know.
_UNTYPED = frozenset({"application/octet-stream", "binary/octet-stream"})


def read_init(reader: FieldReader, fetcher: SafeFetcher) -> Init | None:
    """What the clip shall start from. None if that was not asked for, or is wrong: then the field is rejected.

    To be read after the other fields: what a URL names is only fetched when none of them is wrong.
    """
    given = {name: value for name in FIELDS if (value := reader.given(name)) is not None}
    if len(given) > 1:
        reader.reject("init_video", "Send init_image or init_video, not both.")
        return None
    for name, value in given.items():
        try:
            if not is_url(value):
                return _checked(_read_data_uri(name, value))
            if not reader.has_errors:
                return _checked(_fetch(name, value, fetcher))
        except (InitUnusable, UrlUnusable) as error:
            reader.reject(name, error.message)
    return None


def _checked(init: Init) -> Init:
    check_init(init)
    return init


def _fetch(name: str, url: str, fetcher: SafeFetcher) -> Init:
    """The file behind a URL; its first bytes say what it is. Raises UrlUnusable and InitUnusable."""
    kind = FIELDS[name]
    types = [*INIT_TYPES[kind].values(), *_ALIASES, *_UNTYPED]
    data = fetcher.get(url, max_bytes=MAX_MEGABYTES[kind] * _MEGABYTE, accept=types).content
    ending = recognise(data)
    if ending is None or ending not in INIT_TYPES[kind]:
        raise InitUnusable(f"The {label(name)} must be one of {', '.join(INIT_TYPES[kind].values())}.")
    return Init(kind, ending, data)


def _read_data_uri(name: str, value: object) -> Init:
    """`data:<media type>;base64,<data>` (RFC 2397). A plus that a form made a space, and line breaks, are put right."""
    kind = FIELDS[name]
    header, comma, text = value.strip().partition(",") if isinstance(value, str) else ("", "", "")
    match = _HEADER.fullmatch(header[:200])
    if match is None or not comma:
        raise InitUnusable(
            f"The {label(name)} must be a URL or a data: URI, such as data:{next(iter(INIT_TYPES[kind].values()))};base64,..."
        )
    media_type = _ALIASES.get(match[1].lower(), match[1].lower())
    ending = next((ending for ending, known in INIT_TYPES[kind].items() if known == media_type), None)
    if ending is None:
        raise InitUnusable(f"The {label(name)} must be one of {', '.join(INIT_TYPES[kind].values())}.")
    data = _decode_base64(name, text)
    if len(data) > MAX_MEGABYTES[kind] * _MEGABYTE:
        raise InitUnusable(f"The {label(name)} must not be greater than {MAX_MEGABYTES[kind]} MB.")
    return Init(kind, ending, data)


def _decode_base64(name: str, text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.replace(" ", "+").replace("\r", "").replace("\n", ""), strict_mode=True)
    except ValueError as error:
        raise InitUnusable(f"The {label(name)} is not valid base64.") from error


def read_file(name: str, value: object, kinds: Sequence[InitKind], *, max_megabytes: int) -> Init:
    """A picture or video as a `data:` URI or as bare base64; its first bytes say what it is. A gif is of the first kind.

    Raises InitUnusable.
    """
    text = value.strip() if isinstance(value, str) else ""
    data = _decode_base64(name, text.partition(",")[2] if text[:5].lower() == "data:" else text)
    if len(data) > max_megabytes * _MEGABYTE:
        raise InitUnusable(f"The {label(name)} must not be greater than {max_megabytes} MB.")
    ending = recognise(data)
    kind = next((kind for kind in kinds if ending in INIT_TYPES[kind]), None)
    if ending is None or kind is None:
        types = dict.fromkeys(known for kind in kinds for known in INIT_TYPES[kind].values())
        raise InitUnusable(f"The {label(name)} must be a data: URI of one of {', '.join(types)}.")
    return _checked(Init(kind, ending, data))
