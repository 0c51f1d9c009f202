"""Web pages of others, in a browser at this machine: without a key to tell them by, they are not served.

A service without keys trusts whoever is at its machine. Every page that a browser there has open could use that: it may send
simple requests to any address (cross-site request forgery), and if its name is made to mean 127.0.0.1, read the answers too
(DNS rebinding).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import Request

from promptreel.api.addresses import HOST, base_url, is_from_proxy
from promptreel.errors import ForeignPage

if TYPE_CHECKING:
    from promptreel.api.services import Shared

# Nobody can buy a name under these, and names without a dot are not public either.
_OWN_DOMAINS = frozenset({"localhost", "local", "internal", "test"})


def refuse_foreign_pages(request: Request, services: Shared) -> None:
    """Raises ForeignPage. A trusted proxy knows which names are its own."""
    host = request.headers.get("host", "").lower()
    origin = request.headers.get("origin")
    is_own = origin is None or _netloc(origin) in {host, _netloc(base_url(request, services))}
    if not is_own and origin not in services.cors_origins:
        raise ForeignPage("Web pages of other sites are served with an API key, or if PROMPTREEL_CORS_ORIGINS names them.")
    is_known = host == _netloc(services.public_url or "") or is_from_proxy(request, services.trusted_proxies)
    if not is_known and _is_public_name(host):
        raise ForeignPage(
            f"Without API keys, this machine alone is served, and it is not called {host}. Use 127.0.0.1, set "
            "PROMPTREEL_PUBLIC_URL, or make a key with `promptreel keys create NAME`."
        )


def _netloc(url: str) -> str:
    try:
        return urlsplit(url.lower()).netloc
    except ValueError:
        return ""


def _is_public_name(host: str) -> bool:
    """Whether a Host header holds a name that somebody may own. What is no host at all, no browser sends."""
    name = host.partition(":")[0].removesuffix(".")
    is_name = HOST.fullmatch(host) is not None and "." in name and not _is_address(name)
    return is_name and name.rpartition(".")[2] not in _OWN_DOMAINS


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
