"""Reads the init that a request sends, as checked bytes. The caller stores them before the job."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptreel.api.field_reader import FieldReader, is_url, label
from promptreel.encoding import inits as encoded
from promptreel.encoding.decoder import Decoder
from promptreel.errors import InitUnusable, UrlUnusable
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.media import Init, InitKind

FIELDS: Mapping[str, InitKind] = {"init_image": "image", "init_video": "video"}
MAX_MEGABYTES: Mapping[InitKind, int] = {"image": 5, "video": 20}
_MEGABYTE = 1024 * 1024
_BLANKS = str.maketrans({" ": "+", "\r": None, "\n": None, "\t": None})
# A data: URI up to its base64. Its media type is ignored, because the file's first bytes are more reliable. Codec lists may
# contain commas.
_DATA_URI = re.compile(r"data:[^\n]{0,300}?;\s*base64\s*,|data:base64\s*,", re.IGNORECASE)


def read_init(reader: FieldReader, fetcher: SafeFetcher, decoder: Decoder) -> Init | None:
    """The init that the clip starts from. None if none was sent, or if it is wrong: then the field is rejected.

    Call it after all other fields are read: a URL is fetched only if none of them is wrong. Raises DecoderBusy.
    """
    given = [(name, value) for name in FIELDS for value in sent_inits(reader, name)]
    if not given:
        return None
    name, value = given[0]
    if given[-1][0] != name:
        reader.reject("init_video", "Send init_image or init_video, not both.")
        return None
    if len(given) > 1:
        reader.reject(name, f"Send only one {label(name)}: a clip starts from a single file.")
        return None
    return _read(reader, name, value, [FIELDS[name]], _Ways(fetcher, decoder))


def sent_inits(reader: FieldReader, name: str) -> list[object]:
    """The values that were sent in one of FIELDS. v7 sends an array."""
    value = reader.given(name)
    values = value if isinstance(value, list) else [value]
    return [each for each in values if each is not None and each != ""]


def read_any_init(reader: FieldReader, name: str, value: object, *, fetcher: SafeFetcher, decoder: Decoder) -> Init | None:
    """`read_init` for one field that takes either kind: as a URL, a `data:` URI, or the bytes of an uploaded file.

    A gif counts as a video. Raises DecoderBusy.
    """
    return None if value is None else _read(reader, name, value, ["video", "image"], _Ways(fetcher, decoder))


@dataclass(frozen=True)
class _Ways:
    """What fetches an init, and what checks it."""

    fetcher: SafeFetcher
    decoder: Decoder


def _read(reader: FieldReader, name: str, value: object, kinds: Sequence[InitKind], ways: _Ways) -> Init | None:
    try:
        if isinstance(value, bytes):
            init = _recognise(name, value, kinds)
        elif not is_url(value):
            wanted = f"a URL or a data: URI, such as data:{_types(kinds)[0]};base64,..."
            init = read_file(name, value, kinds, wanted=wanted)
        elif reader.has_errors:
            return None
        else:
            init = _fetch(name, str(value), kinds, ways.fetcher)
        ways.decoder.check(init)
    except (InitUnusable, UrlUnusable) as error:
        reader.reject(name, error.message)
        return None
    return init


def _fetch(name: str, url: str, kinds: Sequence[InitKind], fetcher: SafeFetcher) -> Init:
    """The file behind a URL. Raises UrlUnusable and InitUnusable."""
    most = max(MAX_MEGABYTES[kind] for kind in kinds)
    return _recognise(name, fetcher.get(url, max_bytes=most * _MEGABYTE, accept=_types(kinds)).content, kinds)


def read_file(
    name: str, value: object, kinds: Sequence[InitKind], *, most: Mapping[InitKind, int] = MAX_MEGABYTES, wanted: str = ""
) -> Init:
    """A picture or video as a `data:` URI (RFC 2397) or as bare base64. The decoder has not checked it yet.

    Its first bytes decide its type; a gif counts as the first of `kinds`. `most` is in megabytes. `wanted` describes for the
    error message what the field may hold. Raises InitUnusable.
    """
    return _recognise(name, decode_file(name, value, wanted=wanted), kinds, most)


def decode_file(name: str, value: object, *, wanted: str = "") -> bytes:
    """The bytes of a file as a `data:` URI (RFC 2397) or as bare base64. Raises InitUnusable. `wanted`: as in `read_file`."""
    text = value.strip() if isinstance(value, str) and value.isascii() else ""
    header = _DATA_URI.match(text)
    data = _decode_base64(text[header.end() :] if header else text)
    if wanted and not header and not data:
        raise InitUnusable(f"The {label(name)} must be {wanted}.")
    if data is None:
        raise InitUnusable(f"The {label(name)} is not valid base64.")
    return data


def _decode_base64(text: str) -> bytes | None:
    """None if it is not base64. Turns spaces back into the plus signs that a form decoder replaced; ignores line breaks."""
    try:
        return binascii.a2b_base64(text.translate(_BLANKS), strict_mode=True)
    except ValueError:
        return None


def _recognise(name: str, data: bytes, kinds: Sequence[InitKind], most: Mapping[InitKind, int] = MAX_MEGABYTES) -> Init:
    """Tells a file's type by its first bytes, and checks its size. Raises InitUnusable."""
    init = encoded.read_init(data, kinds, named=label(name))
    if len(init.data) > most[init.kind] * _MEGABYTE:
        raise InitUnusable(f"The {label(name)} must not be greater than {most[init.kind]} MB.")
    return init


def _types(kinds: Sequence[InitKind]) -> list[str]:
    """The media types of these kinds, without duplicates."""
    return list(dict.fromkeys(known for kind in kinds for known in encoded.readable_types(kind).values()))
