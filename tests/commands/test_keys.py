"""`promptreel keys`, and a service that does not start without one where it needs one."""

from __future__ import annotations

import errno
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from promptreel.bootstrap import build_keys
from promptreel.cli import app
from promptreel.errors import ApiKeyNotFound, BadConfiguration
from promptreel.jobs.keys import KeyLimits
from promptreel.service import is_loopback, run_service
from promptreel.settings import load_settings
from promptreel.supervisor import Stop

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*arguments: str) -> str:
        ran = CliRunner().invoke(app, ["keys", *arguments, "--data-dir", str(tmp_path)], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    return run


def test_key_is_made_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    options = ["--max-running", "1", "--max-queued", "20", "--requests-a-minute", "120", "--weight", "2.5"]
    made = run("create", "the shop's website", *options)
    told = dict(line.split("\t") for line in made.splitlines())
    run("create", "other")

    assert list(told) == ["id", "key", "webhook secret"]
    store = build_keys(load_settings(data_dir=tmp_path))
    found = store.find(told["key"])
    assert found is not None
    assert found.limits == KeyLimits(max_running=1, max_queued=20, requests_a_minute=120, weight=2.5)
    beginning = told["key"][:11]
    assert [re.split("  +", line) for line in run("list").splitlines()] == [
        ["ID", "KEY", "STATE", "LIMITS", "NAME"],
        ["1", f"{beginning}...", "active", "1 running, 20 queued, 120 a minute, weight 2.5", "the shop's website"],
        ["2", f"{store.get('2').prefix}...", "active", "weight 1", "other"],
    ]
    assert [key["limits"]["weight"] for key in json.loads(run("list", "--json"))] == [2.5, 1.0]
    assert told["webhook secret"] not in run("list", "--json")
    assert told["key"] not in run("list")
    assert run("webhook-secret", "1") == told["webhook secret"] + "\n"

    assert re.search(rf"\n1 +{beginning}\.\.\. +revoked \d{{4}}-\d\d-\d\d ", run("revoke", beginning))
    assert store.find(told["key"]) is None
    with pytest.raises(ApiKeyNotFound):
        run("revoke", "3")


def test_service_that_others_could_reach_does_not_start_without_a_key(tmp_path: Path) -> None:
    settings = load_settings(host="0.0.0.0", port=0, data_dir=tmp_path)

    with pytest.raises(BadConfiguration, match="promptreel keys create NAME"):
        run_service(settings, stop=Stop())


def test_revoked_key_does_not_let_the_service_start(run: Run, tmp_path: Path) -> None:
    run("create", "k")
    run("revoke", "1")

    with pytest.raises(BadConfiguration, match="there is no API key"):
        run_service(load_settings(host="0.0.0.0", port=0, data_dir=tmp_path), stop=Stop())


@pytest.mark.parametrize(
    ("family", "host", "expected"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "127.0.0.2", True),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_INET6, "::", False),
    ],
)
def test_only_loopback_is_for_this_machine_alone(family: socket.AddressFamily, host: str, expected: bool) -> None:
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        if family is socket.AF_INET6 and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            pytest.skip(f"IPv6 is off here: {error.strerror}")
        raise
    with listener:
        assert is_loopback(listener) is expected
