"""Files that a client uploads to name them in a later request: stored under a name that nobody guesses."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from promptreel.api.inits import FIELDS
from promptreel.api.parsing import is_url
from promptreel.media import INIT_TYPES, Init
from promptreel.storage.local import LocalStorage

MAX_MEGABYTES = 5
# Above all ids of jobs, which are counted up, and still exact in JavaScript.
FIRST_ID = 2**52
LAST_ID = 2**53 - 1
MEDIA_TYPES = {ending: media_type for types in INIT_TYPES.values() for ending, media_type in types.items()}


def store_upload(storage: LocalStorage, init: Init) -> tuple[int, str]:
    """Stores the file; returns its id, by which it can be deleted, and the path of its link. Raises StorageFailed.

    The id is random (52 bits) and the file's name is its hash, so that no table has to remember which belongs to which.
    """
    upload_id = FIRST_ID + secrets.randbelow(LAST_ID - FIRST_ID + 1)
    key = _key(_name(upload_id), init.ending)
    storage.save_bytes(init.data, key)
    return upload_id, f"/{key}"


def read_upload(storage: LocalStorage, name: str, ending: str) -> bytes | None:
    """None when there is no such file."""
    return storage.read(_key(name, ending)) if ending in MEDIA_TYPES else None


def delete_upload(storage: LocalStorage, upload_id: int) -> bool:
    """Whether there was such a file. Raises StorageFailed."""
    keys = [_key(_name(upload_id), ending) for ending in MEDIA_TYPES]
    found = [key for key in keys if storage.path(key) is not None]
    for key in found:
        storage.delete(key)
    return bool(found)


def inline_uploads(fields: Mapping[str, Any], storage: LocalStorage) -> dict[str, Any]:
    """The fields of a request, with links to uploads of ours replaced by what is there, as `data:` URIs.

    They are known by their path, whose name nobody guesses: which host the client calls us by does not matter. Fetching them
    would be refused where we are on the client's machine or in a private network.
    """
    return {name: _inline(value, storage) if name in FIELDS else value for name, value in fields.items()}


def _inline(value: Any, storage: LocalStorage) -> Any:
    if not is_url(value):
        return value
    folder, _, file = urlsplit(value.strip()).path.rpartition("/")
    name, _, ending = file.partition(".")
    data = read_upload(storage, name, ending) if folder == "/uploads" else None
    return value if data is None else f"data:{MEDIA_TYPES[ending]};base64,{b64encode(data).decode()}"


def _name(upload_id: int) -> str:
    return hashlib.sha256(f"upload {upload_id}".encode()).hexdigest()[:32]


def _key(name: str, ending: str) -> str:
    return f"uploads/{name}.{ending}"
