"""POST to a URL from a request: the same rules as for fetching, and only the answer's status is returned."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from promptreel.errors import UrlUnusable
from promptreel.fetching.fetcher import SafeFetcher
from tests.fetching.conftest import PUBLIC, RecordedNetwork, Site, names

BODY = '{"prompt": "ein Bär"}'.encode()
HEADERS = {"Content-Type": "application/json", "webhook-id": "msg_1"}

# Refused by form or address, before any name is resolved.
REFUSED_AT_ONCE = [
    "http://127.0.0.1/", "http://127.8.9.1/", "http://0.0.0.0/", "http://10.1.2.3/", "http://172.16.0.1/", "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/", "http://100.100.100.200/", "http://192.0.0.192/", "http://168.63.129.16/",
    "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[fd00:ec2::254]/",
    "http://[fe80::1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://017700000001/", "http://127.1/", "http://0177.0.0.1/",
    "http://①②⑦.⓪.⓪.①/",
    "file:///etc/passwd", "gopher://example.com:70/_GET", "ftp://example.com/", "dict://example.com:11211/stats",
    "//example.com/", "http://user:password@example.com/", "http://example.com:22/", "http://example.com:6379/",
    "http://exa mple.com/",
]  # fmt: skip
REFUSED_WHEN_CALLED = {
    "localhost": "127.0.0.1 ::1",
    "localhost.localdomain": "127.0.0.1",
    "ip6-localhost": "::1",
    "metadata.google.internal": "169.254.169.254",
    "router.test": "192.168.0.1",
    "mixed.test": f"{PUBLIC} 127.0.0.1",
    "mapped.test": "::ffff:10.0.0.1",
}


def post(fetcher: SafeFetcher, url: str) -> int:
    return fetcher.post(url, BODY, headers=HEADERS)


def test_body_and_headers_arrive_and_the_status_comes_back(fetcher: SafeFetcher, site: Site) -> None:
    assert post(fetcher, f"http://media.test:{site.port}/picture?a=1") == 200

    ((path, headers),) = site.asked
    assert (path, site.bodies) == ("/picture?a=1", [BODY])
    assert headers["Host"] == f"media.test:{site.port}"
    assert (headers["Content-Type"], headers["webhook-id"]) == ("application/json", "msg_1")


@pytest.mark.parametrize(("page", "status"), [("/missing", 404), ("/page", 200), ("/unending", 200)])
def test_answer_is_ignored_whatever_its_type_and_size(fetcher: SafeFetcher, site: Site, page: str, status: int) -> None:
    assert post(fetcher, f"http://media.test:{site.port}{page}") == status


@pytest.mark.parametrize("where", ["/picture", "http://127.0.0.1/", "http://169.254.169.254/latest/", "file:///etc/passwd"])
def test_redirect_is_not_followed(fetcher: SafeFetcher, site: Site, network: RecordedNetwork, where: str) -> None:
    assert post(fetcher, f"http://www.test:{site.port}/to?{where}") == 302

    assert network.connected == [PUBLIC]
    assert len(site.asked) == 1


@pytest.mark.parametrize("url", REFUSED_AT_ONCE)
def test_forbidden_url_is_refused_with_a_reason_before_any_lookup(url: str) -> None:
    network = RecordedNetwork()
    fetcher = SafeFetcher(network=network, resolve=names())

    for refused in (fetcher.check, lambda url: post(fetcher, url)):
        with pytest.raises(UrlUnusable) as caught:
            refused(url)
        assert len(str(caught.value)) > 30
        assert "not found" not in str(caught.value)
    assert network.connected == []


@pytest.mark.parametrize("host", REFUSED_WHEN_CALLED)
def test_name_of_a_private_address_is_refused_when_called(host: str) -> None:
    network = RecordedNetwork()
    fetcher = SafeFetcher(network=network, resolve=lambda name, _: REFUSED_WHEN_CALLED[name].split())
    url = f"http://{host}/hook"

    fetcher.check(url)
    with pytest.raises(UrlUnusable, match="is not on the public internet, so the service does not connect to it"):
        post(fetcher, url)
    assert network.connected == []


def test_dns_rebinding_is_defeated(site: Site, network: RecordedNetwork) -> None:
    answers = [[PUBLIC], ["127.0.0.1"]]
    fetcher = SafeFetcher(allow_ports=[site.port], resolve=lambda *_: answers.pop(0), network=network)
    url = f"http://rebinding.test:{site.port}/picture"

    assert post(fetcher, url) == 200
    with pytest.raises(UrlUnusable, match="not on the public internet"):
        post(fetcher, url)
    assert network.connected == [PUBLIC]
    assert len(site.bodies) == 1


def test_what_is_allowed_passes_the_check() -> None:
    fetcher = SafeFetcher(allow_hosts=["10.0.0.1"], allow_networks=[ip_network("192.168.0.0/16")], allow_ports=[9000])

    for url in ("http://10.0.0.1/", "http://192.168.7.7:9000/x", f"https://{PUBLIC}/", "https://hooks.example.com/a?b=c"):
        fetcher.check(url)


@pytest.mark.parametrize(("page", "seconds", "message"), [("/drip", 0.3, "took too long"), ("/rubbish", 60, "valid HTTP")])
def test_host_without_an_answer_hits_the_deadline(
    site: Site, seconds_taken: Callable[[], float], page: str, seconds: float, message: str
) -> None:
    fetcher = SafeFetcher(allow_hosts=["127.0.0.1"], allow_ports=[site.port], seconds=seconds)
    with pytest.raises(UrlUnusable, match=message):
        post(fetcher, f"http://127.0.0.1:{site.port}{page}")

    assert seconds_taken() < 60
