"""Web pages of other sites, in a browser at the machine of a service without keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.store import JobStore
from tests.api.conftest import SUBMIT
from tests.api.test_base_url import PROXIES
from tests.api.test_openai import VIDEOS, error_of

HERE = "127.0.0.1:8000"
PROMPT = {"prompt": "a red cat"}


def ask(services: AppParts, *, peer: str = "127.0.0.1", **headers: str | bytes) -> int:
    client = TestClient(create_app(services), base_url=f"http://{HERE}", client=(peer, 4000))
    return client.post(VIDEOS, json=PROMPT, headers=headers).status_code


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:3000", "http://[", ""])
def test_page_of_another_site_creates_nothing(services: AppParts, jobs: JobStore, origin: str) -> None:
    client = TestClient(create_app(services), base_url=f"http://{HERE}")
    simple = {"Content-Type": "text/plain", "Origin": origin}  # a browser sends this without a preflight

    refused = client.post(VIDEOS, content=b'{"prompt": "a"}', headers=simple)
    old = client.post(SUBMIT, content=b'{"prompt": "a"}', headers=simple)

    assert error_of(refused, 403)["code"] == "foreign_page"
    assert (old.status_code, old.json()["status"]) == (200, "error")
    assert jobs.list() == []


@pytest.mark.parametrize("host", ["rebound.evil.com", "evil.com:8000", "evil.com."])
def test_public_name_that_resolves_to_this_machine_reads_nothing(services: AppParts, host: str) -> None:
    assert ask(services, Host=host) == ask(services, Host=host, Origin=f"http://{host}") == 403


ODD = [f"a{odd}b.evil.example" for odd in "~!$&'()*+,;=`{}\"|^%<>@\\ "]


@pytest.mark.parametrize(
    "host", [*ODD, "evil.example~", "127.0.0.1~.evil.example", "[::1].evil.example", "[evil.example]", "[]"]
)
def test_malformed_name_is_not_this_machine(services: AppParts, host: str) -> None:
    """Browsers send such names: URLs allow them, and DNS can resolve them."""
    assert ask(services, Host=host) == ask(services, Host=host, Origin=f"http://{host}") == 403


@pytest.mark.parametrize("host", ["", ".", "..", "127.1", "localhost:x", "b\u00fccher.example", "1.2.3.4.5", "1.2.3.4.evil"])
def test_unknown_host_is_refused(services: AppParts, host: str) -> None:
    sent = host.encode("latin-1")

    assert ask(services, Host=sent) == ask(services, Host=sent, Origin="null") == ask(services, Host=sent, Origin="") == 403


@pytest.mark.parametrize(
    "host", [HERE, "localhost:8000", "[::1]:8000", "my-laptop.local", "workshop", "192.168.1.7", "LOCALHOST.", "[FE80::1]"]
)
def test_this_machine_and_its_own_pages_are_served(services: AppParts, host: str) -> None:
    assert ask(services, Host=host) == ask(services, Host=host, Origin=f"http://{host}") == 200


def test_known_names_are_served(services: AppParts) -> None:
    name = "video.example.com"
    public = replace(services, public_url=f"https://{name}")
    proxied = replace(services, trusted_proxies=PROXIES)

    assert ask(public, Host=f"{name}:8000") == 200
    assert ask(public, Host=name, Origin=f"https://{name}") == ask(public, Origin=f"https://{name}") == 200
    assert ask(proxied, peer="10.0.0.1", Host=name, Origin=f"https://{name}") == 200
    assert ask(proxied, Host=name) == ask(public, Host="evil.com") == 403


def test_named_sites_may_use_the_service_from_a_browser_and_no_others(services: AppParts) -> None:
    site, other = "https://app.example.com", "https://evil.example"
    client = TestClient(create_app(replace(services, cors_origins=(site,))), base_url=f"http://{HERE}")
    plain = TestClient(create_app(services), base_url=f"http://{HERE}")
    keys_sent = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,key"}

    def allowed(client: TestClient, origin: str) -> tuple[str | None, str | None]:
        asked = client.options(VIDEOS, headers={"Origin": origin, **keys_sent})
        answer = client.post(VIDEOS, json=PROMPT, headers={"Origin": origin})
        assert asked.headers["X-Request-Id"] != answer.headers["X-Request-Id"]
        name = "Access-Control-Allow-Origin"
        return asked.headers.get(name), answer.headers.get(name)

    assert allowed(client, site) == (site, site)
    assert allowed(client, other) == allowed(plain, site) == (None, None)
    assert client.post(VIDEOS, json=PROMPT, headers={"Origin": site}).status_code == 200


def test_key_admits_every_page(services: AppParts, keys: KeyStore) -> None:
    _, key = keys.create("a web page")

    assert ask(services, Host="evil.com", Origin="https://evil.example", key=key) == 200
