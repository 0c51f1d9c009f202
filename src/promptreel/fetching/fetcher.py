"""The HTTP client for URLs in requests. It guards against SSRF: a URL may point to what only this machine can reach."""

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
from promptreel.fetching.connections import Deadline, PinnedBackend
from promptreel.fetching.shares import Shares
from promptreel.fetching.urls import DEFAULT_PORTS, Target, follow_redirect, read_url

AT_ONCE = 64
BYTES_A_FETCH = 4 * 1024 * 1024
"""Memory budget per concurrent fetch, on average: most files are small, and large ones are soon done."""

MOST_PARTS = 30_000
"""Most chunks of an answer's body, since each costs time. 20 MB take fewer, even in chunks of one network packet."""

MAX_REDIRECTS = 3
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
TIMEOUTS = {"connect": 5.0, "read": 10.0, "write": 10.0}  # seconds, for each wait
MAX_IGNORED_BYTES = 8192
"""How much of an ignored answer is drained, so that most receivers see no broken connection."""

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
    """Sends GET and POST to URLs on the public internet, and to the hosts, networks and ports that are also allowed.

    `seconds` limits one request in all, including redirects and name lookups. At most `at_once` fetches run at a time, each in
    its caller's thread, and as many name lookups. API keys (`of`) share these places and the memory, and each key gets a few
    places per host, so one key's slow hosts do not block other keys (shares.py). `resolve` returns the addresses of a name,
    `network` opens connections, `ssl_context` holds the trusted certificates.
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
        self._for_whom: Hashable = None
        self._places = Shares(at_once)
        self._host_places = Shares(2 * at_once, at_most=max(1, at_once // 8))
        self._bytes = Shares(at_once * BYTES_A_FETCH)
        self._names = Shares(at_once)
        self._resolve = resolve
        self._resolvers = ThreadPoolExecutor(at_once, thread_name_prefix="resolve")
        self._network = network or httpcore2.SyncBackend()
        self._trusted = _Trusted(ssl_context)

    def of(self, for_whom: Hashable) -> SafeFetcher:
        """The same fetcher, with its fetches counted for `for_whom`: the id of an API key."""
        theirs = copy.copy(self)
        theirs._for_whom = for_whom
        return theirs

    def get(self, url: str, *, max_bytes: int, accept: Collection[str]) -> Fetched:
        """Fetches the URL's file, up to `max_bytes`. `accept` goes into the Accept header; the answer's type is not checked.

        Blocks, so call it from a thread, not an event loop. Raises UrlUnusable. Its message is for the sender of the URL: it
        never reveals the addresses of a name, and only the status of an answer.
        """
        with _taken(self._places, self._for_whom, "URLs"):
            deadline = Deadline(self._seconds)
            target = read_url(url, ports=self._ports)
            for _ in range(1 + MAX_REDIRECTS):
                with (
                    _taken(self._host_places, (self._for_whom, target.authority), f"URLs of {target.authority}"),
                    _translated_errors(target.host),
                ):
                    addresses = self._find_addresses(target, deadline)
                    answer = self._ask(target, PinnedBackend(addresses, deadline, self._network), max_bytes, accept)
                if isinstance(answer, Fetched):
                    return answer
                target = follow_redirect(target, answer, ports=self._ports)
            raise _redirects_too_often()

    @contextmanager
    def stream(self, url: str, *, headers: Mapping[str, str], seconds: float) -> Iterator[Answer]:
        """Sends GET, follows redirects, and yields the answer while its connection is open, whatever its status.

        `seconds` limits the whole, in place of the fetcher's own limit. Errors that the block meets while it reads the answer
        become UrlUnusable, as in `get`.
        """
        with _taken(self._places, self._for_whom, "URLs"):
            deadline = Deadline(seconds)
            target = read_url(url, ports=self._ports)
            for _ in range(1 + MAX_REDIRECTS):
                with (
                    _taken(self._host_places, (self._for_whom, target.authority), f"URLs of {target.authority}"),
                    _translated_errors(target.host),
                ):
                    backend = PinnedBackend(self._find_addresses(target, deadline), deadline, self._network)
                    with self._open(target, backend, "GET", headers) as response:
                        told = _read_headers(response)
                        if response.status not in REDIRECT_STATUSES or "location" not in told:
                            yield Answer(target, response.status, told, response.iter_stream())
                            return
                target = follow_redirect(target, told["location"], ports=self._ports)
            raise _redirects_too_often()

    def post(self, url: str, body: bytes, *, headers: Mapping[str, str]) -> int:
        """Sends the body and returns the answer's status, whatever it is. The answer's body is discarded.

        Redirects are not followed, since the sender of the URL named this address only. Blocks; the number of concurrent
        calls is not limited. Raises UrlUnusable, as `get` does, when there is no answer.
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
        """Raises UrlUnusable for a bad URL or a forbidden address. Resolves no name and connects nowhere."""
        target = read_url(url, ports=self._ports)
        if _is_address(target.host):
            self._refuse(target, [target.host])

    def _find_addresses(self, target: Target, deadline: Deadline) -> Sequence[str]:
        """All addresses of the host. Raises UrlUnusable unless all are allowed, and TimeoutError."""
        if _is_address(target.host):
            addresses: Sequence[str] = [target.host]
        else:
            try:
                addresses = self._look_up(target).result(deadline.left())
            except TimeoutError:
                raise
            except OSError as error:
                raise UrlUnusable(f"The host {target.host} was not found. Check the URL's spelling.") from error
        self._refuse(target, addresses)
        return addresses

    def _look_up(self, target: Target) -> Future[Sequence[str]]:
        """Resolves the host in a thread, as the system's resolver has no timeout. It keeps its place until it is done."""
        for_whom = self._for_whom
        if not self._names.take(for_whom):
            raise UrlUnusable(_too_many("names"))
        addresses = self._resolvers.submit(self._resolve, target.host, target.port)
        addresses.add_done_callback(lambda _: self._names.give_back(for_whom))
        return addresses

    def _refuse(self, target: Target, addresses: Sequence[str]) -> None:
        """Raises UrlUnusable unless all addresses of the target are allowed."""
        refused = [] if target.host in self._hosts else refused_addresses(addresses, self._networks)
        if refused:
            _log.warning("refused to connect to %s: %s is neither public nor allowed", target.authority, ", ".join(refused))
            raise UrlUnusable(
                f"{target.host} is not on the public internet, and is not connected to. The service's operator can allow "
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
                if number >= MOST_PARTS:
                    raise UrlUnusable("The URL's file comes in too many small parts. Use another host.")
                if not self._bytes.take(self._for_whom, len(chunk)):
                    raise UrlUnusable(_too_many("large files"))
                content += chunk
            return bytes(content)
        finally:
            self._bytes.give_back(self._for_whom, len(content))

    @contextmanager
    def _open(
        self, target: Target, backend: PinnedBackend, method: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[httpcore2.Response]:
        """Sends a request and keeps the connection open during the block. Ignores the environment's proxies."""
        url = httpcore2.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        trusted = self._trusted.context if target.scheme == "https" else None
        ours = {"Host": target.authority, "User-Agent": "promptreel", "Accept-Encoding": "identity"}
        sent = list({**ours, **headers}.items())
        with (
            httpcore2.HTTPConnection(url.origin, ssl_context=trusted, network_backend=backend) as connection,
            connection.stream(method, url, headers=sent, content=body, extensions={"timeout": TIMEOUTS}) as response,
        ):
            yield response


class _Trusted:
    """The trusted certificates: as given, or the system's, which are slow to load and so are loaded at the first https URL."""

    def __init__(self, given: ssl.SSLContext | None) -> None:
        self._given = given

    @cached_property
    def context(self) -> ssl.SSLContext:
        return self._given or httpcore2.default_ssl_context()


@contextmanager
def _taken(places: Shares, holder: Hashable, of_what: str) -> Iterator[None]:
    """Holds a place for the block. Raises UrlUnusable when there is none for this holder."""
    if not places.take(holder):
        raise UrlUnusable(_too_many(of_what))
    try:
        yield
    finally:
        places.give_back(holder)


def _too_many(of_what: str) -> str:
    return f"Too many {of_what} are being fetched at the moment. Try again in a few seconds."


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
    """Raises UrlUnusable unless it is an uncompressed 200. Content-Type is ignored: the file's own bytes tell its type."""
    if status != 200:
        raise UrlUnusable(f"{host} answered with status {status}. Check that the URL can be opened by anyone.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UrlUnusable(f"{host} sent a compressed answer, which is not read. Use a URL that answers with the file itself.")


def _drain_a_little(response: httpcore2.Response) -> None:
    """Reads up to MAX_IGNORED_BYTES and ignores errors: the status is already known."""
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
            raise UrlUnusable(f"No secure connection to {host} could be made: check its certificate.") from error
        raise UrlUnusable(f"{host} could not be connected to, or broke off. Try again, or use another host.") from error
    except httpcore2.ProtocolError as error:
        raise UrlUnusable(f"{host} did not answer in proper HTTP. Use another host.") from error
