"""What a handler is given: the parts that bootstrap built, as far as the one who asks may reach them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import cast

from fastapi import Request

from promptreel.api.authentication import Authenticator
from promptreel.api.body_memory import BodyMemory
from promptreel.encoding.decoder import Decoder
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.keys import Caller
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.store import JobStore
from promptreel.jobs.views import OwnJobs, PublicJobs
from promptreel.models.registry import ModelRegistry
from promptreel.storage.local import LocalStorage
from promptreel.version import installed_version


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
    authenticator: Authenticator
    body_memory: BodyMemory = field(default_factory=BodyMemory)


@dataclass(frozen=True, kw_only=True)
class Services(Shared):
    """What a handler works with: the caller's own jobs."""

    jobs: OwnJobs
    caller: Caller


@dataclass(frozen=True, kw_only=True)
class OpenServices(Shared):
    """What a handler works with that needs no key."""

    jobs: PublicJobs


def parts_of(request: Request) -> AppParts:
    """For what stands before the handlers: who asks, and whether a body may come in."""
    return cast("AppParts", request.app.state.parts)
