"""What `promptreel serve` tells of its page."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest

from promptreel.errors import BadConfiguration
from promptreel.service import open_page, page_of, run_service
from promptreel.settings import load_settings
from promptreel.supervisor import Stop
from tests.waiting import wait_for


def test_page_is_opened_in_the_users_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # the module reads BROWSER once

    open_page("http://127.0.0.1:8000/")

    assert wait_for(lambda: opened.exists() and opened.read_text()) == "http://127.0.0.1:8000/\n"


def test_address_is_one_that_a_browser_can_open() -> None:
    assert page_of("http://127.0.0.1:8000") == "http://127.0.0.1:8000/"
    assert page_of("http://0.0.0.0:8000") == "http://127.0.0.1:8000/"
    assert page_of("http://[::]:8000") == "http://[::1]:8000/"


def test_page_that_is_off_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="PROMPTREEL_PAGE is off"):
        run_service(load_settings(data_dir=tmp_path, page="off"), stop=Stop(), opens_page=True)
