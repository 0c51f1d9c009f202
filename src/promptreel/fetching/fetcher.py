"""The HTTP client for URLs that clients send. It prevents SSRF: such a URL must not reach private networks through us."""

from __future__ import annotations

import copy
import logging
import ssl
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address

import httpcore2

from promptreel.errors import UrlUnusable
from promptreel.fetching.addresses import Network, Resolve, refused_addresses, resolve
from promptreel.fetching.connections import Deadline, OnWait, PinnedBackend
from promptreel.fetching.shares import Shares
from promptreel.fetching.urls import DEFAULT_PORTS, Target, follow_redirect, read_url

AT_ONCE = 64
BYTES_PER_FETCH = 4 * 1024 * 1024
"""Memory budget per concurrent fetch, on average. It may be below the size limit, because few files are large."""

MAX_CHUNKS = 30_000
"""Limits the chunks of an answer's body, because each costs time. A 20 MB file needs fewer, even at one packet per chunk."""

MAX_REDIRECTS = 3
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
TIMEOUTS = {"connect": 5.0, "read": 10.0, "write": 10.0}  # seconds, for each connect, read or write
MAX_IGNORED_BYTES = 8192
"""How much of a webhook's answer is read, though it is ignored: then most receivers see no broken connection."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """The file that a URL led to."""

    content: bytes


@dataclass(frozen=True)
class Answer:
    """An answer that is being received. Header names are in lower case. `target` is where the last redirect led."""

    target: Target
    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class SafeFetcher:
    """Sends GET and POST to URLs on the public internet. `allow_hosts`, `allow_networks` and `allow_ports` permit more.

    `seconds` limits a whole request, including redirects and name lookups. At most `at_once` fetches run at a time, each in
    its caller's thread. At most `at_once` names are looked up at a time.

    No API key can take all places or all memory: shares.py divides them. A key also gets only a few places per host, so a
    slow host blocks only part of the key's share. `for_key` says whose share a fetch counts against.

    `resolve` looks up the addresses of a name, `network` opens connections, `ssl_context` holds the trusted certificates.
    """

    def __init__(
        self,
        *,
        allow_hosts: Collection[str] = (),
        allow_networks: Sequence[Network] = (),
        allow_ports: Collection[int] = (),
        seconds: float = 20.0,
        at_once: int = AT_ONCE,
        resolve: Resolve = resolve,
        network: httpcore2.NetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in allow_hosts)
        self._networks = tuple(allow_networks)
        self._ports = frozenset({*DEFAULT_PORTS.values(), *allow_ports})
        self._seconds = seconds
        self._api_key_id: int | None = None
        self._fetch_places = Shares(at_once)
        self._host_places = Shares(2 * at_once, at_most=max(1, at_once // 8))
        self._memory = Shares(at_once * BYTES_PER_FETCH)
        self._lookup_places = Shares(at_once)
        self._resolve = resolve
        self._resolvers = ThreadPoolExecutor(at_once, thread_name_prefix="resolve")
        self._network = network or httpcore2.SyncBackend()
        self._certificates = _Certificates(ssl_context)

    def for_key(self, api_key_id: int | None) -> SafeFetcher:
        """This fetcher, with its fetches counted against the share of an API key."""
        fetcher = copy.copy(self)
        fetcher._api_key_id = api_key_id
        return fetcher

    def get(self, url: str, *, max_bytes: int, accept: Collection[str]) -> Fetched:
        """Fetches the URL's file, up to `max_bytes`. `accept` goes into the Accept header; the answer's type is not checked.

        Blocks, so call it from a thread, not from an event loop. Raises UrlUnusable. Its message goes to the sender of the URL,
        so it reveals no resolved address, and nothing of the answer's content.
        """
        with _holding(self._fetch_places, self._api_key_id, "URLs"):
            deadline = Deadline(self._seconds)
            target = read_url(url, ports=self._ports)
            for _ in range(1 + MAX_REDIRECTS):
                with (
                    _holding(self._host_places, (self._api_key_id, target.authority), f"URLs of {target.authority}"),
                    _translated_errors(target.host),
                ):
                    addresses = self._find_addresses(target, deadline)
                    answer = self._ask(target, PinnedBackend(addresses, deadline, self._network), max_bytes, accept)
                if isinstance(answer, Fetched):
                    return answer
                target = follow_redirect(target, answer, ports=self._ports)
            raise _redirects_too_often()

    @contextmanager
    def stream(self, url: str, *, headers: Mapping[str, str], seconds: float, on_wait: OnWait) -> Iterator[Answer]:
        """Sends GET, follows redirects, and yields the answer while its connection is open, whatever its status.

        `seconds` limits the whole request, in place of the fetcher's own limit. `on_wait` is called while nothing arrives; it
        may raise. Errors that the block meets while it reads the answer become UrlUnusable, as in `get`.
        """
        with _holding(self._fetch_places, self._api_key_id, "URLs"):
            deadline = Deadline(seconds)
            target = read_url(url, ports=self._ports)
            for _ in range(1 + MAX_REDIRECTS):
                with (
                    _holding(self._host_places, (self._api_key_id, target.authority), f"URLs of {target.authority}"),
                    _translated_errors(target.host),
                ):
                    backend = PinnedBackend(self._find_addresses(target, deadline), deadline, self._network, on_wait)
                    with self._open(target, backend, "GET", headers) as response:
                        told = _read_headers(response)
                        if response.status not in REDIRECT_STATUSES or "location" not in told:
                            yield Answer(target, response.status, told, response.iter_stream())
                            return
                target = follow_redirect(target, told["location"], ports=self._ports)
            raise _redirects_too_often()

    def post(self, url: str, body: bytes, *, headers: Mapping[str, str]) -> int:
        """Sends the body and returns the status of the answer, whatever it is. Discards the answer's body.

        Follows no redirect: the body is meant for this URL only. Blocks. Does not limit concurrent calls. Raises UrlUnusable
        if no answer comes.
        """
        deadline = Deadline(self._seconds)
        target = read_url(url, ports=self._ports)
        with _translated_errors(target.host):
            addresses = self._find_addresses(target, deadline)
            backend = PinnedBackend(addresses, deadline, self._network)
            sent = {**headers, "Content-Length": str(len(body))}
            with self._open(target, backend, "POST", sent, body) as response:
                _drain_a_little(response)
                return response.status

    def check(self, url: str) -> None:
        """Raises UrlUnusable for a bad URL or a forbidden address. Sends nothing: not even the name is looked up."""
        target = read_url(url, ports=self._ports)
        if _is_address(target.host):
            self._check_addresses(target, [target.host])

    def _find_addresses(self, target: Target, deadline: Deadline) -> Sequence[str]:
        """All addresses of the host. Raises UrlUnusable if any is forbidden or the host is unknown, and TimeoutError."""
        if _is_address(target.host):
            addresses: Sequence[str] = [target.host]
        else:
            try:
                addresses = self._look_up(target).result(deadline.left())
            except TimeoutError:
                raise
            except OSError as error:
                raise UrlUnusable(f"The host {target.host} was not found. Check the URL's spelling.") from error
        self._check_addresses(target, addresses)
        return addresses

    def _look_up(self, target: Target) -> Future[Sequence[str]]:
        """Looks the host up in a thread, because the system's resolver has no timeout.

        The lookup holds its place until the resolver returns, even if nobody waits for the result any more.
        """
        api_key_id = self._api_key_id
        if not self._lookup_places.take(api_key_id):
            raise UrlUnusable(_too_many("names"))
        addresses = self._resolvers.submit(self._resolve, target.host, target.port)
        addresses.add_done_callback(lambda _: self._lookup_places.give_back(api_key_id))
        return addresses

    def _check_addresses(self, target: Target, addresses: Sequence[str]) -> None:
        """Raises UrlUnusable if any address of the target is forbidden."""
        forbidden = [] if target.host in self._hosts else refused_addresses(addresses, self._networks)
        if forbidden:
            _log.warning("refused to connect to %s: %s is neither public nor allowed", target.authority, ", ".join(forbidden))
            raise UrlUnusable(
                f"{target.host} is not on the public internet, so the service does not connect to it. Its operator can allow "
                "it with PROMPTREEL_FETCH_ALLOW_HOSTS or PROMPTREEL_FETCH_ALLOW_NETWORKS."
            )

    def _ask(self, target: Target, backend: PinnedBackend, max_bytes: int, accept: Collection[str]) -> Fetched | str:
        """Sends one request. Returns the file, or the location of a redirect."""
        with self._open(target, backend, "GET", {"Accept": ", ".join([*sorted(accept), "*/*;q=0.1"])}) as response:
            headers = _read_headers(response)
            if response.status in REDIRECT_STATUSES and "location" in headers:
                return headers["location"]
            check_answer(target.host, response.status, headers)
            return Fetched(self._read_content(response, headers, max_bytes))

    def _read_content(self, response: httpcore2.Response, headers: dict[str, str], max_bytes: int) -> bytes:
        too_large = UrlUnusable(f"The URL's file is too large: {max_bytes} bytes at most.")
        if int(headers.get("content-length", 0)) > max_bytes:
            raise too_large
        content = bytearray()
        try:
            for number, chunk in enumerate(response.iter_stream()):
                if len(content) + len(chunk) > max_bytes:
                    raise too_large
                if number >= MAX_CHUNKS:
                    raise UrlUnusable("The URL's host sends the file in too many small chunks. Use another host.")
                if not self._memory.take(self._api_key_id, len(chunk)):
                    raise UrlUnusable(_too_many("large files"))
                content += chunk
            return bytes(content)
        finally:
            self._memory.give_back(self._api_key_id, len(content))

    @contextmanager
    def _open(
        self, target: Target, backend: PinnedBackend, method: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[httpcore2.Response]:
        """Sends a request and keeps the connection open during the block. Ignores the environment's proxies."""
        url = httpcore2.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        ssl_context = self._certificates.context if target.scheme == "https" else None
        ours = {"Host": target.authority, "User-Agent": "promptreel", "Accept-Encoding": "identity"}
        sent = list({**ours, **headers}.items())
        with (
            httpcore2.HTTPConnection(url.origin, ssl_context=ssl_context, network_backend=backend) as connection,
            connection.stream(method, url, headers=sent, content=body, extensions={"timeout": TIMEOUTS}) as response,
        ):
            yield response


class _Certificates:
    """The trusted certificates. The system's are slow to load, so the first https URL loads them."""

    def __init__(self, given: ssl.SSLContext | None) -> None:
        self._given = given

    @cached_property
    def context(self) -> ssl.SSLContext:
        return self._given or httpcore2.default_ssl_context()


@contextmanager
def _holding(places: Shares, holder: Hashable, what: str) -> Iterator[None]:
    """Holds a place during the block. Raises UrlUnusable if this holder's share is used up."""
    if not places.take(holder):
        raise UrlUnusable(_too_many(what))
    try:
        yield
    finally:
        places.give_back(holder)


def _too_many(what: str) -> str:
    return f"Too many {what} are being fetched at the moment. Try again in a few seconds."


def _redirects_too_often() -> UrlUnusable:
    return UrlUnusable(f"The URL redirects more than {MAX_REDIRECTS} times. Use the file's own URL.")


def _read_headers(response: httpcore2.Response) -> dict[str, str]:
    return {name.lower().decode("latin-1"): value.decode("utf-8", "replace") for name, value in response.headers}


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def check_answer(host: str, status: int, headers: Mapping[str, str]) -> None:
    """Raises UrlUnusable unless the status is 200 and the body is uncompressed. Content-Type is ignored: the file shows it."""
    if status != 200:
        raise UrlUnusable(f"{host} answered with status {status}. Check that the URL can be opened by anyone.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UrlUnusable(f"{host} compressed its answer, which is not supported. Use a URL that answers with the file itself.")


def _drain_a_little(response: httpcore2.Response) -> None:
    """Reads up to MAX_IGNORED_BYTES. Ignores errors, because the status is already known."""
    received = 0
    try:
        for chunk in response.iter_stream():
            received += len(chunk)
            if received >= MAX_IGNORED_BYTES:
                return
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError):
        return


@contextmanager
def _translated_errors(host: str) -> Iterator[None]:
    try:
        yield
    except (TimeoutError, httpcore2.TimeoutException) as error:
        raise UrlUnusable(f"{host} took too long to answer. Try again, or use another host.") from error
    except httpcore2.NetworkError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise UrlUnusable(f"No secure connection to {host} is possible. Check its certificate.") from error
        raise UrlUnusable(f"{host} could not be reached, or closed the connection. Try again, or use another host.") from error
    except httpcore2.ProtocolError as error:
        raise UrlUnusable(f"{host} did not answer in valid HTTP. Use another host.") from error
