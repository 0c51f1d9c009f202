"""Uploads: files that a client sends ahead and links in a later request. They are stored under unguessable names."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from promptreel.api.field_reader import is_url
from promptreel.api.init_fields import FIELDS
from promptreel.api.parts import Services
from promptreel.media import INIT_TYPES, Init, InitKind
from promptreel.storage.local import LocalStorage

MAX_MEGABYTES: Mapping[InitKind, int] = {"image": 5, "video": 5}
# Above all job ids, which count up from 1; still exact in JavaScript.
FIRST_ID = 2**52
LAST_ID = 2**53 - 1
MEDIA_TYPES = {ending: media_type for types in INIT_TYPES.values() for ending, media_type in types.items()}


@dataclass(frozen=True)
class Upload:
    """An uploaded file, and its name's ending."""

    ending: str
    data: bytes


def store_upload(services: Services, init: Init) -> tuple[int, str]:
    """Stores the file. Returns its id, with which the caller can delete it, and the path of its link. Raises StorageFailed.

    The file's name is derived from the id and the caller, so no table of owners is needed.
    """
    upload_id = FIRST_ID + secrets.randbelow(LAST_ID - FIRST_ID + 1)
    key = _key(services.link_maker.name_upload(upload_id, services.caller), init.ending)
    services.storage.save_bytes(init.data, key)
    return upload_id, f"/{key}"


def read_upload(storage: LocalStorage, name: str, ending: str) -> bytes | None:
    """None if there is no such file."""
    return storage.read(_key(name, ending)) if ending in MEDIA_TYPES else None


def delete_upload(services: Services, upload_id: int) -> bool:
    """Deletes the caller's file with this id. Returns whether there was one. Raises StorageFailed."""
    name = services.link_maker.name_upload(upload_id, services.caller)
    found = [key for key in (_key(name, ending) for ending in MEDIA_TYPES) if services.storage.path(key) is not None]
    for key in found:
        services.storage.delete(key)
    return bool(found)


def inline_uploads(fields: Mapping[str, Any], services: Services) -> dict[str, Any]:
    """Replaces links to uploads on this service by their files, as `data:` URIs. Raises LinkUnusable.

    The path alone identifies an upload, whatever the host, because its name is unguessable. Fetching the link would be refused
    when the service runs on the client's machine or in a private network.
    """
    return {name: _inline(value, services) if name in FIELDS else value for name, value in fields.items()}


def _inline(value: Any, services: Services) -> Any:
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list):  # init_fields.py refuses several
        return _inline(value[0], services)
    found = find_upload(value, services) if is_url(value) else None
    return value if found is None else f"data:{MEDIA_TYPES[found.ending]};base64,{b64encode(found.data).decode()}"


def find_upload(url: str, services: Services) -> Upload | None:
    """The upload that a link leads to; None if it leads elsewhere. Raises LinkUnusable."""
    link = urlsplit(url.strip())
    folder, _, file = link.path.rpartition("/")
    name, _, ending = file.partition(".")
    data = read_upload(services.storage, name, ending) if folder == "/uploads" else None
    if data is None:
        return None
    services.link_maker.check(link.path, dict(parse_qsl(link.query)))
    return Upload(ending, data)


def _key(name: str, ending: str) -> str:
    return f"uploads/{name}.{ending}"
