from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.jobs.keys import KeyStore
from tests.api.conftest import SUBMIT

FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "video.example.com"}
PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def link(services: AppParts, *, peer: str = "192.0.2.9", headers: dict[str, str] | None = None, **settings: Any) -> str:
    client = TestClient(create_app(replace(services, **settings)), base_url="http://localhost:8000", client=(peer, 4000))
    return client.post(SUBMIT, json={"prompt": "a cat"}, headers=headers).json()["fetch_result"].split("/api/")[0]


def test_links_use_the_host_that_the_client_used(services: AppParts) -> None:
    assert link(services, headers={"Host": "my-laptop.local:9000"}) == "http://my-laptop.local:9000"
    assert link(services, headers={"Host": "[::1]:9000"}) == "http://[::1]:9000"


@pytest.mark.parametrize("host", ["evil.com/path", "a b", 'x"><script>', "user@evil.com", "x:port", ""])
def test_invalid_host_stays_out_of_links(services: AppParts, keys: KeyStore, host: str) -> None:
    _, key = keys.create("k")  # without a key, such a Host is refused

    assert link(services, headers={"Host": host, "key": key}) == "http://localhost:8000"


@pytest.mark.parametrize("peer", ["10.1.2.3", "::1", "::ffff:10.1.2.3"])
def test_forwarded_headers_of_a_trusted_proxy_count(services: AppParts, peer: str) -> None:
    assert link(services, peer=peer, headers=FORWARDED, trusted_proxies=PROXIES) == "https://video.example.com"


@pytest.mark.parametrize("peer", ["192.0.2.9", "127.0.0.1", "testclient"])
def test_forwarded_headers_of_others_do_not_count(services: AppParts, peer: str) -> None:
    assert link(services, peer=peer, headers=FORWARDED, trusted_proxies=PROXIES) == "http://localhost:8000"
    assert link(services, peer=peer, headers=FORWARDED) == "http://localhost:8000"


def test_first_of_several_forwarded_values_counts(services: AppParts) -> None:
    headers = {"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "video.example.com, inner"}

    assert link(services, peer="10.0.0.1", headers=headers, trusted_proxies=PROXIES) == "https://video.example.com"


def test_forwarded_scheme_must_be_http_or_https(services: AppParts) -> None:
    headers = {"X-Forwarded-Proto": "javascript"}

    assert link(services, peer="10.0.0.1", headers=headers, trusted_proxies=PROXIES) == "http://localhost:8000"


def test_public_url_overrides_everything(services: AppParts) -> None:
    assert (
        link(services, peer="10.0.0.1", headers=FORWARDED, trusted_proxies=PROXIES, public_url="https://p.example/v")
        == "https://p.example/v"
    )
