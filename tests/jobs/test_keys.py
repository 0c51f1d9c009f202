"""API keys: what is stored of them, and how they are found."""

from __future__ import annotations

import re
from base64 import b64decode

import pytest
from sqlalchemy import select

from promptreel.errors import ApiKeyNotFound, InvalidParams
from promptreel.jobs.database import Database, read_transaction
from promptreel.jobs.keys import KeyLimits, KeyStore
from promptreel.jobs.tables import api_keys
from tests.jobs.factories import START, Clock


@pytest.fixture
def keys(database: Database, clock: Clock) -> KeyStore:
    return KeyStore(database, now=clock)


def test_key_is_random_and_found_by_its_text_alone(keys: KeyStore) -> None:
    (made, key), (_, other) = keys.create("shop"), keys.create("shop")

    assert re.fullmatch(r"pr_[\w-]{43}", key)
    assert key != other
    assert keys.find(key) == made == keys.list()[0]
    assert [keys.find(wrong) for wrong in ("", key[:-1], key + "x", key.upper(), key[:11], "\ud800")] == [None] * 6


def test_nothing_in_the_database_is_the_key(keys: KeyStore, database: Database) -> None:
    _, key = keys.create("shop")

    with read_transaction(database) as connection:
        kept = str(connection.execute(select(api_keys)).one())

    assert key[:11] in kept
    assert key[:12] not in kept


def test_webhook_secret_has_the_standard_form(keys: KeyStore) -> None:
    made, _ = keys.create("shop")

    assert made.webhook_secret.startswith("whsec_")
    assert len(b64decode(made.webhook_secret.removeprefix("whsec_"), validate=True)) == 32
    assert made.webhook_secret not in repr(made)


def test_limits_are_kept(keys: KeyStore) -> None:
    limits = KeyLimits(max_running=1, max_queued=2, requests_a_minute=3, weight=0.5)

    assert keys.create("shop", limits)[0].limits == keys.list()[0].limits == limits
    assert keys.create("other")[0].limits == KeyLimits()


def test_revoked_key_is_not_found_and_stays_in_the_list(keys: KeyStore, clock: Clock) -> None:
    assert not keys.any_active()
    made, key = keys.create("shop")
    assert keys.any_active()

    revoked = keys.revoke(str(made.id))
    clock.advance(9)

    assert (keys.find(key), keys.any_active()) == (None, False)
    assert revoked.revoked_at == START
    assert keys.list() == [revoked] == [keys.revoke(key)]


def test_key_is_found_by_id_first_characters_or_itself(keys: KeyStore) -> None:
    made, key = keys.create("shop")
    keys.create("other")

    assert {keys.get(which) for which in (str(made.id), key[:11], key)} == {made}
    for which in ("99", "pr_", "", key[:-1] + "~", key[:11].swapcase(), "9" * 30, "%"):
        with pytest.raises(ApiKeyNotFound, match="There is no key"):
            keys.get(which)


def test_first_characters_of_several_keys_are_refused(keys: KeyStore) -> None:
    beginnings = [keys.create("shop")[1][:4] for _ in range(66)]  # of 64 that there are
    shared = next(each for each in beginnings if beginnings.count(each) > 1)

    with pytest.raises(ApiKeyNotFound, match="Give an id"):
        keys.revoke(shared)


@pytest.mark.parametrize(
    ("name", "why"), [("", "empty"), (" \t", "empty"), ("a\nb", "one line"), ("a\x1b[2J", "one line"), ("a" * 101, "101")]
)
def test_bad_names_are_refused(keys: KeyStore, name: str, why: str) -> None:
    with pytest.raises(InvalidParams, match=why):
        keys.create(name)

    assert not keys.any_active()


@pytest.mark.parametrize("name", ["x", "the shop's website", "Größe 京都", "a" * 100])
def test_name_may_be_any_line(keys: KeyStore, name: str) -> None:
    assert keys.create(name)[0].name == name
