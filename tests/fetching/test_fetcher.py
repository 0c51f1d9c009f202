from __future__ import annotations

import logging
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from threading import Semaphore

import pytest

from promptreel.bootstrap import build_fetcher
from promptreel.errors import UrlUnusable
from promptreel.fetching.fetcher import Fetched, SafeFetcher
from promptreel.settings import load_settings
from tests.fetching.conftest import PICTURE, PUBLIC, RecordedNetwork, Site, names
from tests.waiting import wait_for

PICTURES = ("image/png", "image/jpeg")
NO_CHECK_TIME = 0x200000  # OpenSSL's; a certificate made just now is not valid yet when the clock is set back by a second


@dataclass
class Fetch:
    """Fetches a page of the site, with limits that a picture fits."""

    fetcher: SafeFetcher
    site: Site

    def __call__(self, page: str, *, host: str = "media.test", max_bytes: int = 10_000) -> Fetched:
        return self.fetcher.get(f"http://{host}:{self.site.port}{page}", max_bytes=max_bytes, accept=PICTURES)


@pytest.fixture
def fetch(fetcher: SafeFetcher, site: Site) -> Fetch:
    return Fetch(fetcher, site)


def test_allowed_host_is_fetched_by_its_name(fetch: Fetch, site: Site, network: RecordedNetwork) -> None:
    assert fetch("/picture?a=%2F") == Fetched(PICTURE)

    ((path, headers),) = site.asked
    assert path == "/picture?a=%2F"
    assert headers["Host"] == f"media.test:{site.port}"
    assert headers["Accept-Encoding"] == "identity"
    assert network.connected == ["127.0.0.1"]


def test_public_host_needs_no_permission(fetch: Fetch, network: RecordedNetwork) -> None:
    assert fetch("/picture", host="www.test").content == PICTURE
    assert network.connected == [PUBLIC]


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "metadata.test", "mixed.test", "0.0.0.0"],
)
def test_host_that_is_not_public_is_never_connected_to(site: Site, network: RecordedNetwork, host: str) -> None:
    addresses = names(localhost="::1 127.0.0.1", metadata_test="169.254.169.254", mixed_test=f"{PUBLIC} 10.0.0.1")
    fetch = Fetch(SafeFetcher(allow_ports=[site.port], resolve=addresses, network=network), site)

    with pytest.raises(UrlUnusable, match="PROMPTREEL_FETCH_ALLOW_HOSTS"):
        fetch("/picture", host=host)

    assert network.connected == []


def test_dns_rebinding_is_defeated(site: Site, network: RecordedNetwork) -> None:
    answers = [[PUBLIC], ["127.0.0.1"]]
    fetch = Fetch(SafeFetcher(allow_ports=[site.port], resolve=lambda *_: answers.pop(0), network=network), site)

    fetch("/picture", host="rebinding.test")
    assert network.connected == [PUBLIC]
    assert answers == [["127.0.0.1"]]

    with pytest.raises(UrlUnusable):
        fetch("/picture", host="rebinding.test")
    assert network.connected == [PUBLIC]


def test_address_that_does_not_answer_gives_way_to_the_next(site: Site) -> None:
    network = RecordedNetwork(stands_for="127.0.0.2")
    fetch = Fetch(SafeFetcher(allow_hosts=["two.test"], allow_ports=[site.port], resolve=names(two_test="::1 127.0.0.2"),
                              network=network), site)  # fmt: skip

    assert fetch("/picture", host="two.test").content == PICTURE
    assert network.connected == ["::1", "127.0.0.2"]


def test_redirect_to_a_host_that_is_not_allowed_is_refused(fetch: Fetch, site: Site, network: RecordedNetwork) -> None:
    for address in (f"http://127.0.0.1:{site.port}/picture", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"):
        with pytest.raises(UrlUnusable):
            fetch(f"/to?{address}", host="www.test")

    assert set(network.connected) == {PUBLIC}
    assert not any(path == "/picture" for path, _ in site.asked)


def test_redirects_are_followed_three_times_at_most(fetch: Fetch, site: Site) -> None:
    assert fetch("/to?/to?/to?/picture").content == PICTURE

    site.asked.clear()
    with pytest.raises(UrlUnusable, match="more than 3 times"):
        fetch("/again")
    assert len(site.asked) == 4


@pytest.mark.parametrize(
    ("page", "max_bytes", "message"),
    [
        ("/picture", len(PICTURE) - 1, "too large: 1999 bytes at most"),
        ("/unending", 100_000, "too large"),
        ("/compressed", 10_000, "compressed"),
        ("/missing", 1000, "status 404"),
        ("/rubbish", 1000, "valid HTTP"),
    ],
)
def test_answer_that_cannot_be_used_is_refused_and_not_repeated(fetch: Fetch, page: str, max_bytes: int, message: str) -> None:
    with pytest.raises(UrlUnusable, match=message) as caught:
        fetch(page, max_bytes=max_bytes)

    assert "secret" not in str(caught.value)


def test_content_type_is_ignored(fetch: Fetch) -> None:
    assert fetch("/page").content


def test_file_of_exactly_the_largest_size_is_accepted(fetch: Fetch) -> None:
    assert fetch("/picture", max_bytes=len(PICTURE)).content == PICTURE


def test_host_that_sends_byte_by_byte_hits_the_deadline(site: Site, seconds_taken: Callable[[], float]) -> None:
    with pytest.raises(UrlUnusable, match="took too long"):
        Fetch(SafeFetcher(allow_hosts=["127.0.0.1"], allow_ports=[site.port], seconds=0.3), site)("/drip", host="127.0.0.1")

    assert seconds_taken() < 60


def test_hanging_resolver_hits_the_deadline_and_fetches_at_once_are_limited(
    site: Site, seconds_taken: Callable[[], float]
) -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(*_: object) -> list[str]:
        asked.set()
        over.wait(60)
        raise OSError

    patient, hasty = (
        Fetch(SafeFetcher(allow_ports=[site.port], resolve=hang, seconds=seconds, at_once=1), site) for seconds in (60, 0.5)
    )
    with ThreadPoolExecutor(1) as other:
        first = other.submit(patient, "/picture")
        asked.wait(60)
        with pytest.raises(UrlUnusable, match="Too many URLs"):
            patient("/picture")
        with pytest.raises(UrlUnusable, match="took too long"):
            hasty("/picture")
        assert seconds_taken() < 20
        over.set()
        with pytest.raises(UrlUnusable, match="not found"):
            first.result(60)
    wait_for(lambda: "Too many names" not in refusal_of(hasty))  # the abandoned lookup ends soon


def refusal_of(fetch: Fetch) -> str:
    with pytest.raises(UrlUnusable) as refused:
        fetch("/picture")
    return refused.value.message


@contextmanager
def hanging_fetches(fetcher: SafeFetcher, urls: Sequence[str]) -> Iterator[list[Future[Fetched]]]:
    """Runs fetches of these URLs during the block."""
    with ThreadPoolExecutor(len(urls)) as threads:
        yield [threads.submit(fetcher.get, url, max_bytes=10_000, accept=PICTURES) for url in urls]


def test_slow_hosts_block_neither_other_hosts_nor_other_callers(site: Site) -> None:
    over, hung = threading.Event(), Semaphore(0)

    def resolve(host: str, _port: int) -> list[str]:
        if host.startswith("slow"):
            hung.release()
            over.wait(60)
        return ["127.0.0.1"]

    fetcher = SafeFetcher(allow_networks=[ip_network("127.0.0.1")], allow_ports=[site.port], resolve=resolve, seconds=60)
    greedy, other = fetcher.for_key(1), fetcher.for_key(2)
    urls = [f"http://slow{number}.test:{site.port}/picture" for number in range(16)]
    with hanging_fetches(greedy, urls) as slow:
        for _ in slow:
            assert hung.acquire(timeout=60)
        for whose in (greedy, other):
            assert Fetch(whose, site)("/picture", host="good.test").content == PICTURE
        over.set()
        assert [future.result(60).content for future in slow] == [PICTURE] * 16


def test_caller_beyond_its_share_is_refused_and_others_are_not(site: Site) -> None:
    over, hung = threading.Event(), Semaphore(0)

    def resolve(host: str, _port: int) -> list[str]:
        if host.startswith("slow"):
            hung.release()
            over.wait(60)
        return ["127.0.0.1"]

    allowed = {"allow_networks": [ip_network("127.0.0.1")], "allow_ports": [site.port], "seconds": 60}
    fetcher = SafeFetcher(**allowed, resolve=resolve, at_once=4)
    greedy, other = Fetch(fetcher.for_key(1), site), Fetch(fetcher.for_key(2), site)
    urls = [f"http://slow{number}.test:{site.port}/picture" for number in range(2)]
    with hanging_fetches(greedy.fetcher, urls) as slow:
        for _ in slow:
            assert hung.acquire(timeout=60)
        assert "Too many URLs are being fetched" in refusal_of(greedy)
        assert other("/picture").content == PICTURE
        over.set()
    assert greedy("/picture").content == PICTURE


def test_each_caller_has_few_places_per_host(site: Site) -> None:
    over, hung = threading.Event(), Semaphore(0)

    def resolve(host: str, _port: int) -> list[str]:
        if not over.is_set() and host == "slow.test":
            hung.release()
            over.wait(60)
        return ["127.0.0.1"]

    allowed = {"allow_networks": [ip_network("127.0.0.1")], "allow_ports": [site.port], "seconds": 60}
    fetcher = SafeFetcher(**allowed, resolve=resolve, at_once=16)
    with hanging_fetches(fetcher.for_key(1), [f"http://slow.test:{site.port}/picture"] * 2) as slow:
        for _ in slow:
            assert hung.acquire(timeout=60)
        with pytest.raises(UrlUnusable, match=r"Too many URLs of slow\.test:\d+ are being fetched"):
            Fetch(fetcher.for_key(1), site)("/picture", host="slow.test")
        assert Fetch(fetcher.for_key(1), site)("/picture", host="good.test").content == PICTURE
        over.set()
        assert Fetch(fetcher.for_key(2), site)("/picture", host="slow.test").content == PICTURE


def test_large_files_of_one_caller_leave_memory_to_others(site: Site) -> None:
    fetcher = SafeFetcher(allow_hosts=["media.test"], allow_ports=[site.port], resolve=names(media_test="127.0.0.1"), at_once=1)

    with pytest.raises(UrlUnusable, match="Too many large files"):
        Fetch(fetcher, site)("/unending", max_bytes=100_000_000)
    assert Fetch(fetcher, site)("/picture").content == PICTURE  # the memory was given back


def test_unknown_host_and_closed_port_say_so(fetch: Fetch, fetcher: SafeFetcher) -> None:
    with pytest.raises(UrlUnusable, match=r"nowhere\.test was not found"):
        fetch("/picture", host="nowhere.test")

    with socket.socket() as silent:  # reserves the port, but does not listen
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        closed = SafeFetcher(allow_networks=[ip_network("127.0.0.0/8")], allow_ports=[port])
        with pytest.raises(UrlUnusable, match="could not be reached"):
            closed.get(f"http://127.0.0.1:{port}/", max_bytes=10, accept=PICTURES)


def test_settings_allow_networks_and_no_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    given = {"fetch_allow_networks": "127.0.0.0/8", "fetch_allow_ports": str(site.port)}

    assert Fetch(build_fetcher(load_settings(**given)), site)("/picture", host="127.0.0.1").content == PICTURE


def test_refusal_is_logged_with_the_address_and_without_path_and_query(fetch: Fetch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="promptreel")

    with pytest.raises(UrlUnusable) as caught:
        fetch(f"/to?http://127.0.0.1:{fetch.site.port}/picture?token=secret")

    (record,) = [record for record in caplog.records if record.name.startswith("promptreel")]
    assert record.getMessage() == f"refused to connect to 127.0.0.1:{fetch.site.port}: 127.0.0.1 is neither public nor allowed"
    assert "secret" not in str(caught.value)


def test_certificate_is_checked_against_the_name_and_not_the_address(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=secure.test", "-addext", "subjectAltName=DNS:secure.test", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("the program openssl, which makes the certificate, is not installed")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    asked_for: list[str | None] = []
    serving.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    site = Site()
    site.socket = serving.wrap_socket(site.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    resolve, network = names(secure_test=PUBLIC, other_test=PUBLIC), RecordedNetwork()
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.verify_flags |= NO_CHECK_TIME

    def fetch(host: str, trusted: ssl.SSLContext | None) -> Fetched:
        fetcher = SafeFetcher(allow_ports=[site.port], resolve=resolve, network=network, ssl_context=trusted)
        return fetcher.get(f"https://{host}:{site.port}/picture", max_bytes=10_000, accept=PICTURES)

    try:
        assert fetch("secure.test", trusting).content == PICTURE
        for host, trusted in (("other.test", trusting), ("secure.test", None)):
            with pytest.raises(UrlUnusable, match="Check its certificate"):
                fetch(host, trusted)
    finally:
        site.shutdown()
        site.server_close()

    assert asked_for == ["secure.test", "other.test", "secure.test"]
    assert set(network.connected) == {PUBLIC}
