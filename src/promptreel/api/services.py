"""What the API works with: the parts that bootstrap built, as far as the one who asks may reach them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from promptreel.api.bodies import read_any_fields
from promptreel.api.callers import Callers
from promptreel.api.pages import refuse_foreign_pages
from promptreel.api.rooms import BodyRooms
from promptreel.encoding.decoder import Decoder
from promptreel.errors import InvalidParams
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.callers import Idempotency, JobsForAnyone, JobsOfCaller
from promptreel.jobs.keys import LOCAL_CALLER, Caller
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.store import JobStore
from promptreel.models.registry import ModelRegistry
from promptreel.storage.local import LocalStorage
from promptreel.version import installed_version

MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The parts of the service that are the same whoever asks, and the settings that shape the answers.

    `public_url` has no slash at its end; None: links use the scheme and host that the client used. `is_stopping` says whether
    the process is to end, so that answers without an end of their own end too.
    """

    models: ModelRegistry
    storage: LocalStorage
    fetcher: SafeFetcher
    decoder: Decoder
    link_maker: LinkMaker
    public_url: str | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    cors_origins: tuple[str, ...] = ()
    real_status_codes: tuple[str, ...] = ()
    track_id_is_idempotent: bool = False
    is_stopping: Callable[[], bool] = lambda: False
    version: str = field(default_factory=installed_version)


@dataclass(frozen=True, kw_only=True)
class AppParts(Shared):
    """All of it, as bootstrap hands it to `create_app`. No handler sees this: it holds everyone's jobs."""

    jobs: JobStore
    callers: Callers
    rooms: BodyRooms = field(default_factory=BodyRooms)


@dataclass(frozen=True, kw_only=True)
class Services(Shared):
    """What a handler works with: the caller's own jobs."""

    jobs: JobsOfCaller
    caller: Caller


@dataclass(frozen=True, kw_only=True)
class OpenServices(Shared):
    """What a handler works with that needs no key."""

    jobs: JobsForAnyone


async def find_caller(request: Request) -> Caller:
    """Who asks. Raises InvalidApiKey, RateLimitExceeded and ForeignPage."""
    parts = _parts_of(request)
    caller = await parts.callers.find(request)
    if caller == LOCAL_CALLER:
        refuse_foreign_pages(request, parts)
    return caller


CallerOfRequest = Annotated[Caller, Depends(find_caller)]


async def get_services(request: Request, caller: CallerOfRequest) -> Services:
    parts = _parts_of(request)
    jobs = JobsOfCaller(parts.jobs, caller, await _read_idempotency(request, parts))
    own = {**_shared(parts), "fetcher": parts.fetcher.of(caller.api_key_id)}
    return Services(**own, jobs=jobs, caller=caller)


async def get_open_services(request: Request) -> OpenServices:
    parts = _parts_of(request)
    return OpenServices(**_shared(parts), jobs=JobsForAnyone(parts.jobs))


# Fields come before services among a handler's parameters: the first that is read decides how large a body may be.
ServicesOfApp = Annotated[Services, Depends(get_services)]
OpenServicesOfApp = Annotated[OpenServices, Depends(get_open_services)]


def _parts_of(request: Request) -> AppParts:
    return cast("AppParts", request.app.state.parts)


def _shared(parts: AppParts) -> dict[str, Any]:
    return {each.name: getattr(parts, each.name) for each in fields(Shared)}


async def _read_idempotency(request: Request, parts: AppParts) -> Idempotency | None:
    """From the header `Idempotency-Key`; if that is set so, from the field `track_id` too. Raises InvalidParams."""
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
