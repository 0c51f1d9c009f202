"""Signing in: a cookie in place of a key, for the service's own page alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import create_app
from promptreel.api.parts import AppParts
from promptreel.api.sessions import SECONDS, SessionMaker
from promptreel.jobs.keys import KeyStore
from tests.api.test_inits import PNG
from tests.api.test_openai import VIDEOS

SESSION = "/v1/session"
HERE = "http://video.test:8000"
OWN = {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def key(keys: KeyStore) -> str:
    return keys.create("k")[1]


@pytest.fixture
def page(client: TestClient, key: str) -> TestClient:
    """A browser that has signed in."""
    client.post(SESSION, headers={"Authorization": f"Bearer {key}", **OWN}).raise_for_status()
    return client


def test_cookie_stands_for_the_key(page: TestClient) -> None:
    made = page.post(VIDEOS, json={"prompt": "a red cat"}, headers=OWN)

    assert made.status_code == 200
    assert page.get(f"{VIDEOS}/{made.json()['id']}").status_code == 200
    assert page.get(VIDEOS, headers={"Sec-Fetch-Site": "none"}).status_code == 200  # an address that somebody opens


def test_cookie_is_out_of_reach_of_scripts_and_of_other_sites(client: TestClient, key: str) -> None:
    answer = client.post(SESSION, headers={"Authorization": f"Bearer {key}", **OWN})
    cookie = answer.headers["Set-Cookie"]

    assert answer.json() == {"object": "session", "signed_in": True}
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={SECONDS}"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert key not in cookie


def test_cookie_is_for_https_alone_where_the_service_is(services: AppParts, key: str) -> None:
    app = create_app(replace(services, public_url="https://video.example.com"))
    headers = {"key": key, "Origin": "https://video.example.com"}

    assert "Secure" in TestClient(app).post(SESSION, headers=headers).headers["Set-Cookie"].split("; ")


@pytest.mark.parametrize(
    "foreign",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://video.test:9000", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": HERE, "Sec-Fetch-Site": "cross-site"},
        {},
    ],
)
def test_cookie_counts_for_nobody_elses_page(page: TestClient, key: str, foreign: dict[str, str]) -> None:
    assert page.post(VIDEOS, json={"prompt": "a red cat"}, headers=foreign).status_code == 401
    assert page.delete(SESSION, headers=foreign).status_code == 401
    assert page.post(SESSION, headers={"key": key, **foreign}).status_code == 403
    if foreign:
        assert page.get(VIDEOS, headers=foreign).status_code == 401


def test_cookie_is_ignored_by_sites_that_may_call(services: AppParts, key: str) -> None:
    site = "https://app.example.com"
    with TestClient(create_app(replace(services, cors_origins=(site,))), base_url=HERE) as client:
        client.post(SESSION, headers={"key": key, **OWN}).raise_for_status()
        refused = client.get(VIDEOS, headers={"Origin": site})

    assert refused.status_code == 401
    assert "Access-Control-Allow-Credentials" not in refused.headers


def test_signing_out_removes_the_cookie(page: TestClient) -> None:
    assert page.delete(SESSION, headers=OWN).json() == {"object": "session", "signed_in": False}
    assert page.get(VIDEOS).status_code == 401


def test_revoked_key_ends_its_sessions(services: AppParts, page: TestClient, keys: KeyStore) -> None:
    keys.create("other")
    keys.revoke("1")
    fresh = TestClient(create_app(replace(services, authenticator=type(services.authenticator)(keys, serves_local=True))))
    fresh.cookies = page.cookies

    assert fresh.get(VIDEOS).status_code == 401


def test_large_picture_may_be_sent_with_the_cookie(page: TestClient) -> None:
    padded = PNG + bytes(300_000)
    form = {"files": {"input_reference": ("a.png", padded)}, "data": {"prompt": "a red cat"}}

    assert page.post(VIDEOS, headers=OWN, **form).status_code in {200, 400}  # it was parsed
    assert page.post(VIDEOS, headers={"Origin": "https://evil.example"}, **form).status_code == 401


@pytest.fixture
def maker() -> SessionMaker:
    return SessionMaker(secret=b"one", now=lambda: 1000.0)


def test_only_our_own_unexpired_values_are_read(maker: SessionMaker) -> None:
    value = maker.make(7)
    key_id, until, signature = value.split(".")

    assert maker.read(value) == 7
    for forged in (f"8.{until}.{signature}", f"{key_id}.{int(until) + 1}.{signature}", value[:-1], f"{value}0", "", "1.1.a"):
        assert maker.read(forged) is None, forged
    assert SessionMaker(secret=b"other", now=maker.now).read(value) is None
    assert SessionMaker(secret=b"one", now=lambda: 1000.0 + SECONDS).read(value) is None
    assert SessionMaker(secret=b"other").cookie != maker.cookie


def test_local_service_needs_no_cookie(client: TestClient) -> None:
    answer = client.post(SESSION, headers=OWN)

    assert answer.json() == {"object": "session", "signed_in": False}
    assert client.get(VIDEOS).status_code == 200
