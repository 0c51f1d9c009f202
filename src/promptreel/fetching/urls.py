"""Parses a URL once, strictly. Later steps use only the parts, so no second parser can read the text differently."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import idna

from promptreel.errors import UrlUnusable

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_LENGTH = 8000
MAX_NAME_LENGTH = 253

_NETLOC = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]|\s")  # UTF-8 cannot encode lone surrogates
_PRINTABLE = bytes(range(0x21, 0x7F))


@dataclass(frozen=True)
class Target:
    """A parsed URL.

    `scheme` is http or https, `host` a lower-case ASCII name or an address without brackets, `path` the path with
    its query, in ASCII.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The host as in a URL or Host header: IPv6 in brackets, and the port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def read_url(url: str, *, ports: Collection[int]) -> Target:
    """Parses a URL.

    Raises UrlUnusable for a scheme but http and https, a port not in `ports`, a user name or password, and a host that is
    not a name, four decimal numbers, or IPv6 in brackets.
    """
    parts = _split(url.strip())
    netloc = _NETLOC.fullmatch(parts.netloc)
    if netloc is None:
        raise UrlUnusable("The URL's host cannot be read. Write it as http://host/path.")
    host = _read_ipv6(netloc["ipv6"]) if netloc["ipv6"] else _read_name(netloc["name"])
    port = int(netloc["port"] or DEFAULT_PORTS[parts.scheme])
    if port not in ports:
        raise UrlUnusable(
            f"URLs with port {port} are not used. Use port 80 or 443; the service's operator can allow others with "
            "PROMPTREEL_FETCH_ALLOW_PORTS."
        )
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return Target(parts.scheme, host, port, quote(path, safe=_PRINTABLE))


def follow_redirect(target: Target, location: str, *, ports: Collection[int]) -> Target:
    """The target of a redirect, relative or absolute. Raises UrlUnusable as `read_url` does, and from https to http."""
    try:
        url = urljoin(f"{target.scheme}://{target.authority}{target.path}", location)
    except ValueError as error:
        raise UrlUnusable(f"{target.host} redirects to an invalid URL. Use the file's own URL.") from error
    onward = read_url(url, ports=ports)
    if (target.scheme, onward.scheme) == ("https", "http"):
        raise UrlUnusable(f"{target.host} redirects from https to http, which is not followed. Use the file's own URL.")
    return onward


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL_LENGTH:
        raise UrlUnusable(f"The URL is too long: {MAX_URL_LENGTH} characters at most.")
    if _NOT_IN_A_URL.search(url):
        raise UrlUnusable("The URL contains a space, a backslash or another invalid character. Percent-encode it, as in %20.")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UrlUnusable("This is no URL. Write it as http://host/path.") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise UrlUnusable("Only URLs that begin with http:// or https:// are used.")
    if "@" in parts.netloc:
        raise UrlUnusable("URLs with a user name or a password are not used. Use a URL that needs none, such as a signed one.")
    return parts


def _read_ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except AddressValueError as error:
        raise UrlUnusable("The URL's IPv6 address cannot be read. Write it as in http://[2001:db8::1]/path.") from error


def _read_name(name: str) -> str:
    """A name in lower-case ASCII, or an IPv4 address.

    Resolvers also read "0x7f.1", "017700000001" and "2130706433" as addresses, but not all alike. So a name whose last label
    is a number must be four decimal numbers. Raises UrlUnusable.
    """
    unreadable = UrlUnusable("The URL's host is neither a name nor an address. Check its spelling.")
    if len(name) > MAX_NAME_LENGTH:
        raise unreadable
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise unreadable from error
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_NAME_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise unreadable
    if _NUMBER.fullmatch(labels[-1]):
        try:
            IPv4Address(name)
        except AddressValueError as error:
            raise UrlUnusable("Write the URL's IPv4 address as four decimal numbers, as in http://192.0.2.1/path.") from error
    return name
