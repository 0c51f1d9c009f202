"""The address at which the client reaches the service. Every link in an answer begins with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from fastapi import Request

from promptreel.api.parts import Shared
from promptreel.jobs.links import Links

# A name, an IPv4 address or an IPv6 address in brackets, with or without a port. Nothing else may enter a link.
HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")

Network = IPv4Network | IPv6Network


def links(request: Request, services: Shared) -> Links:
    """The links of one answer, at the address that this client used."""
    return services.link_maker.start(base_url(request, services))


def base_url(request: Request, services: Shared) -> str:
    """Scheme and host as the client used them, such as http://192.168.1.7:8000. A configured public URL wins.

    X-Forwarded-Proto and X-Forwarded-Host count only when they come from a trusted proxy.
    """
    if services.public_url is not None:
        return services.public_url
    scheme, host = request.url.scheme, request.headers.get("host", "")
    if is_from_proxy(request, services.trusted_proxies):
        forwarded_scheme = _first(request, "x-forwarded-proto").lower()
        scheme = forwarded_scheme if forwarded_scheme in {"http", "https"} else scheme
        host = _first(request, "x-forwarded-host") or host
    return f"{scheme}://{host if HOST.fullmatch(host) else _own_host(request)}"


def is_from_proxy(request: Request, proxies: Sequence[Network]) -> bool:
    """Whether a trusted proxy sent the request."""
    try:
        address = ip_address(request.client.host if request.client else "")
    except ValueError:  # a Unix socket has no address
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in proxies)


def _first(request: Request, header: str) -> str:
    """The header's first value. When several proxies add to it, that is the one nearest to the client."""
    return request.headers.get(header, "").split(",")[0].strip()


def _own_host(request: Request) -> str:
    host, port = request.scope.get("server") or ("localhost", None)
    return f"{host}:{port}" if port else str(host)
