"""Refuses web pages of other sites when the service has no keys.

A service without keys trusts everyone on its machine. Any page that is open in a browser there could abuse that: it may send
simple requests to any address (cross-site request forgery) and, if its own name resolves to 127.0.0.1, read the answers too
(DNS rebinding).
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

from promptreel.api.base_url import HOST, base_url, is_from_proxy
from promptreel.api.parts import Shared
from promptreel.errors import ForeignPage

# Nobody can register a name under these. Names without a dot are not public either.
_OWN_DOMAINS = frozenset({"localhost", "local", "internal", "test"})


def refuse_foreign_pages(request: Request, services: Shared) -> None:
    """Checks Origin and Host. Any Host passes behind a trusted proxy, which knows its own names. Raises ForeignPage."""
    host = request.headers.get("host", "").lower()
    origin = request.headers.get("origin")
    own = {host, _netloc(base_url(request, services))} - {""}
    if origin is not None and _netloc(origin) not in own and origin not in services.cors_origins:
        raise ForeignPage("Web pages of other sites need an API key. Send one, or name the site in PROMPTREEL_CORS_ORIGINS.")
    if not _is_own_host(host, services) and not is_from_proxy(request, services.trusted_proxies):
        raise ForeignPage(
            "Without API keys, the service answers only its own machine, and the Host of this request is not one of its names. "
            "Use 127.0.0.1, set PROMPTREEL_PUBLIC_URL, or make a key with `promptreel keys create NAME`."
        )


def is_from_own_page(request: Request, services: Shared) -> bool:
    """Whether a browser sent the request for this service's own page, or for somebody who opened its address.

    What changes something must say so in its Origin, which browsers send with every such request.
    """
    reads_only = request.method in {"GET", "HEAD"}
    site = request.headers.get("sec-fetch-site", "same-origin")  # browsers leave it out on plain http
    if site != "same-origin" and not (site == "none" and reads_only):
        return False
    origin = request.headers.get("origin")
    if origin is None:
        return reads_only
    return _netloc(origin) in {request.headers.get("host", "").lower(), _netloc(base_url(request, services))} - {""}


def _netloc(url: str) -> str:
    try:
        return urlsplit(url.lower()).netloc
    except ValueError:
        return ""


def _is_own_host(host: str, services: Shared) -> bool:
    """Whether a Host header holds an address, or a name that nobody else can own.

    False for malformed names: browsers send those, too.
    """
    if HOST.fullmatch(host) is None:
        return False
    if host.startswith("["):
        return _is_address(host[1:].partition("]")[0])
    name = host.partition(":")[0].removesuffix(".")
    is_reserved = bool(name) and ("." not in name or name.rpartition(".")[2] in _OWN_DOMAINS)
    return is_reserved or _is_address(name) or name == _hostname(services.public_url)


def _hostname(url: str | None) -> str | None:
    return urlsplit(url or "").hostname


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
