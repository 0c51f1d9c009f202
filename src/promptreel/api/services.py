"""What the API works with, built by bootstrap and handed to `create_app`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, cast

from fastapi import Depends, Request

from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.store import JobStore
from promptreel.models.registry import ModelRegistry
from promptreel.storage.local import LocalStorage


def installed_version() -> str:
    try:
        return version("promptreel")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of the service that answers need, and the settings that shape the answers.

    `public_url` has no slash at its end; None: links use the scheme and host that the client used. `is_stopping` says whether
    the process is to end, so that answers without an end of their own end too.
    """

    jobs: JobStore
    models: ModelRegistry
    storage: LocalStorage
    fetcher: SafeFetcher
    public_url: str | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    real_status_codes: tuple[str, ...] = ()
    is_stopping: Callable[[], bool] = lambda: False
    version: str = field(default_factory=installed_version)


async def get_services(request: Request) -> Services:
    """Async, because a plain function would be run in a thread of the pool, at each request, only to look this up."""
    return cast("Services", request.app.state.services)


ServicesOfApp = Annotated[Services, Depends(get_services)]
