"""Files that a client uploads to name them in a later request: stored under a name that nobody guesses."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from promptreel.api.field_reader import is_url
from promptreel.api.init_fields import FIELDS
from promptreel.api.parts import Services
from promptreel.media import INIT_TYPES, Init, InitKind
from promptreel.storage.local import LocalStorage

MAX_MEGABYTES: Mapping[InitKind, int] = {"image": 5, "video": 5}
# Above all ids of jobs, which are counted up, and still exact in JavaScript.
FIRST_ID = 2**52
LAST_ID = 2**53 - 1
MEDIA_TYPES = {ending: media_type for types in INIT_TYPES.values() for ending, media_type in types.items()}


def store_upload(services: Services, init: Init) -> tuple[int, str]:
    """Stores the file; returns its id, by which its caller can delete it, and the path of its link. Raises StorageFailed.

    The file's name follows from the id and the caller, so that no table has to remember which belongs to whom.
    """
    upload_id = FIRST_ID + secrets.randbelow(LAST_ID - FIRST_ID + 1)
    key = _key(services.link_maker.name_upload(upload_id, services.caller), init.ending)
    services.storage.save_bytes(init.data, key)
    return upload_id, f"/{key}"


def read_upload(storage: LocalStorage, name: str, ending: str) -> bytes | None:
    """None when there is no such file."""
    return storage.read(_key(name, ending)) if ending in MEDIA_TYPES else None


def delete_upload(services: Services, upload_id: int) -> bool:
    """Whether the caller had such a file. Raises StorageFailed."""
    name = services.link_maker.name_upload(upload_id, services.caller)
    found = [key for key in (_key(name, ending) for ending in MEDIA_TYPES) if services.storage.path(key) is not None]
    for key in found:
        services.storage.delete(key)
    return bool(found)


def inline_uploads(fields: Mapping[str, Any], services: Services) -> dict[str, Any]:
    """The fields of a request, with links to uploads of ours replaced by what is there, as `data:` URIs.

    They are known by their path, whose name nobody guesses: which host the client calls us by does not matter. Fetching them
    would be refused where we are on the client's machine or in a private network. Raises LinkUnusable.
    """
    return {name: _inline(value, services) if name in FIELDS else value for name, value in fields.items()}


def _inline(value: Any, services: Services) -> Any:
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list):  # of more, none is read (init_fields.py)
        return _inline(value[0], services)
    if not is_url(value):
        return value
    link = urlsplit(value.strip())
    folder, _, file = link.path.rpartition("/")
    name, _, ending = file.partition(".")
    data = read_upload(services.storage, name, ending) if folder == "/uploads" else None
    if data is None:
        return value
    services.link_maker.check(link.path, dict(parse_qsl(link.query)))
    return f"data:{MEDIA_TYPES[ending]};base64,{b64encode(data).decode()}"


def _key(name: str, ending: str) -> str:
    return f"uploads/{name}.{ending}"
