"""The parts of the service that handlers work with, limited to what their caller may reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from threading import BoundedSemaphore
from typing import cast

from fastapi import Request

from promptreel.api.authentication import Authenticator
from promptreel.api.body_memory import BodyMemory
from promptreel.api.sessions import SessionMaker
from promptreel.api.shared_looks import SharedLooks
from promptreel.encoding.decoder import Decoder
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.changes import ChangeLog
from promptreel.jobs.keys import Caller
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.store import JobStore
from promptreel.jobs.views import OwnChanges, OwnImports, OwnJobs, OwnTrainings, PublicJobs
from promptreel.models.registry import ModelRegistry
from promptreel.storage.local import LocalStorage
from promptreel.version import installed_version

GATHERING_AT_ONCE = 4
"""Each request for a training may wait minutes for its examples, and holds one of the threads that serve all requests."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The parts that are the same for every caller, and the settings that shape answers.

    `may_import`: whether requests may import models, and `may_use_hub`: from a hub, too. `may_train`: whether they may train
    models. `slice_seconds`: how long a training makes a video wait at most. `gathering`: places for
    requests that bring examples. `public_url` has no trailing slash;
    None means that links use the scheme and host that the client used. `is_stopping` says whether the process is shutting
    down, so that endless answers end. `has_page`: whether / is the page for people. `looks`: what the streams of events share.
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
    may_import: bool = True
    may_use_hub: bool = False
    may_train: bool = True
    slice_seconds: float = 60.0
    gathering: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(GATHERING_AT_ONCE))
    has_page: bool = True
    is_stopping: Callable[[], bool] = lambda: False
    looks: SharedLooks = field(default_factory=SharedLooks)
    version: str = field(default_factory=installed_version)


@dataclass(frozen=True, kw_only=True)
class AppParts(Shared):
    """All parts, as bootstrap passes them to `create_app`. No handler gets them, because `jobs` holds everyone's jobs."""

    jobs: JobStore
    changes: ChangeLog
    authenticator: Authenticator
    sessions: SessionMaker
    body_memory: BodyMemory = field(default_factory=BodyMemory)


@dataclass(frozen=True, kw_only=True)
class Services(Shared):
    """The parts for a handler that serves one caller.

    `jobs`, `imports`, `trainings`, `changes` and `models` hold only what this caller may see.
    """

    jobs: OwnJobs
    imports: OwnImports
    trainings: OwnTrainings
    changes: OwnChanges
    caller: Caller


@dataclass(frozen=True, kw_only=True)
class OpenServices(Shared):
    """The parts for a handler that needs no key."""

    jobs: PublicJobs


def parts_of(request: Request) -> AppParts:
    """All parts, for code that runs before the handlers: authentication and the reading of bodies."""
    return cast("AppParts", request.app.state.parts)
