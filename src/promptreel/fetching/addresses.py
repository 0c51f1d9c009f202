"""Which addresses are on the public internet."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

# Not public, although Python's `is_global` says so: from IANA's special-purpose registries, and addresses that clouds use.
_NOT_PUBLIC: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments; a cloud's metadata is at 192.0.0.192
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("168.63.129.16/32"),  # a cloud's internal services
    IPv4Network("224.0.0.0/4"),  # multicast
    IPv6Network("2001::/23"),  # protocol assignments, including Teredo, which embeds IPv4 addresses
    IPv6Network("2002::/16"),  # 6to4, which embeds IPv4 addresses
    IPv6Network("3fff::/20"),  # documentation
)
_IPV6_IN_USE = IPv6Network("2000::/3")  # all global unicast addresses that IANA has allocated
_NAT64 = IPv6Network("64:ff9b::/96")


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, in the order to try them. Raises OSError when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def refused_addresses(addresses: Iterable[str], allowed: Sequence[Network]) -> list[str]:
    """The addresses that are neither public nor in an allowed network."""
    return [text for text in addresses if not _is_public(where := _reached(text)) and not any(where in net for net in allowed)]


def _reached(text: str) -> Address:
    """The address that packets reach: the IPv4 address behind an IPv4-mapped or NAT64 (RFC 6052) one."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _IPV6_IN_USE:
        return False
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)
