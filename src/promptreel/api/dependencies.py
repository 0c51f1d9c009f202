"""FastAPI dependencies of the handlers: the caller, and services limited to that caller."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Annotated, Any

from fastapi import Depends, Request

from promptreel.api.bodies import keys_beside_body, read_any_fields
from promptreel.api.cookies import read_session
from promptreel.api.foreign_pages import refuse_foreign_pages
from promptreel.api.parts import AppParts, OpenServices, Services, Shared, parts_of
from promptreel.errors import InvalidParams
from promptreel.jobs.keys import LOCAL_CALLER, Caller
from promptreel.jobs.views import Idempotency, OwnChanges, OwnImports, OwnJobs, OwnTrainings, PublicJobs

MAX_IDEMPOTENCY_KEY = 255


async def find_caller(request: Request) -> Caller:
    """Who sent the request. Reads the body only if a key is needed. Raises InvalidApiKey, RateLimitExceeded and ForeignPage."""
    parts = parts_of(request)
    if await parts.authenticator.know_everyone():
        refuse_foreign_pages(request, parts)
        return LOCAL_CALLER
    key = await _read_key(request)
    session = read_session(request) if key is None else None
    return await (parts.authenticator.find(key) if session is None else parts.authenticator.find_by_id(session))


Authenticated = Annotated[Caller, Depends(find_caller)]


def watch_caller(request: Request, caller: Authenticated) -> Callable[[], Awaitable[bool]]:
    """For an endless answer: a function that tells whether the caller's key is still valid."""
    authenticator = parts_of(request).authenticator
    return lambda: authenticator.still_knows(caller)


StillKnown = Annotated[Callable[[], Awaitable[bool]], Depends(watch_caller)]


async def get_services(request: Request, caller: Authenticated) -> Services:
    parts = parts_of(request)
    idempotency = await _read_idempotency(request, parts)
    own = {**_shared(parts), "fetcher": parts.fetcher.for_key(caller.api_key_id), "models": parts.models.seen_by(caller)}
    jobs, imports = OwnJobs(parts.jobs, caller, idempotency), OwnImports(parts.jobs, caller, idempotency)
    trainings, changes = OwnTrainings(parts.jobs, caller, idempotency), OwnChanges(parts.changes, caller)
    return Services(**own, jobs=jobs, imports=imports, trainings=trainings, changes=changes, caller=caller)


async def get_open_services(request: Request) -> OpenServices:
    parts = parts_of(request)
    return OpenServices(**_shared(parts) | {"models": parts.models.seen_by(LOCAL_CALLER)}, jobs=PublicJobs(parts.jobs))


# A handler's parameters list fields before services: the first reader sets the body limit.
ServicesOfApp = Annotated[Services, Depends(get_services)]
OpenServicesOfApp = Annotated[OpenServices, Depends(get_open_services)]


def _shared(parts: AppParts) -> dict[str, Any]:
    return {each.name: getattr(parts, each.name) for each in fields(Shared)}


async def _read_key(request: Request) -> str | None:
    """The API key, in order of precedence: field `key` of the body, of the query, header `key`, Bearer token."""
    in_fields = (await read_any_fields(request)).get("key")
    if isinstance(in_fields, str) and in_fields.strip():
        return in_fields.strip()
    return next(iter(keys_beside_body(request)), None)


async def _read_idempotency(request: Request, parts: AppParts) -> Idempotency | None:
    """The header `Idempotency-Key`, else the field `track_id` if the settings make it idempotent. Raises InvalidParams."""
    sent = request.headers.get("idempotency-key")
    if sent is None and not parts.track_id_is_idempotent:
        return None
    told = await read_any_fields(request)
    if sent is not None:
        if not 1 <= len(sent) <= MAX_IDEMPOTENCY_KEY:
            raise InvalidParams({"Idempotency-Key": [f"The Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} characters."]})
        return Idempotency(f"key {sent}", request.url.path, told)
    track_id = told.get("track_id")
    if track_id is None or track_id in ("", "null"):
        return None
    return Idempotency(f"track_id {json.dumps(track_id, default=repr)}", request.url.path, told)
