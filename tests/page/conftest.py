"""The page in a real browser, over a real service. Starting both takes seconds, so all tests share one of each.

A test fails if the page logs an error, breaks its content security policy, or asks another origin for anything.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.flows.service import Service
from tests.waiting import LONGEST_SECONDS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LONGEST = LONGEST_SECONDS * 1000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Keeps its port, so that a page finds it again after a restart."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    service = Service(tmp_path_factory.mktemp("page"), port=port)
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for longer: until playwright is stopped, its event loop counts as running, and other tests could start none."""
    if CHROMIUM is None:
        reason = "the page is tested in Chromium: apt-get install chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A browser's window with the page, and what went wrong in it. `expected`: parts of messages that are no fault."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.faults: list[str] = []
        self.expected: list[str] = []
        context.on("console", self._hear)
        context.on("request", self._see)
        context.on("weberror", lambda error: self.faults.append(str(error.error)))

    def open(self, path: str = "/") -> Page:
        page = self.context.new_page()
        page.set_default_timeout(LONGEST)
        page.goto(self.url + path)
        return page

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(part in message.text for part in self.expected):
            self.faults.append(f"{message.type}: {message.text} {message.location}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", f"blob:{self.url}/")):
            self.faults.append(f"a request to {request.url}")


Windows = Callable[..., Watched]


@pytest.fixture
def windows(browser: Browser, service: Service) -> Iterator[Windows]:
    """Opens windows of a browser: each with its own cookies."""
    opened: list[Watched] = []

    def open_window(*, width: int = 1280, height: int = 900, **options: Any) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        opened.append(Watched(context, service.url))
        return opened[-1]

    yield open_window
    for window in opened:
        window.context.close()
    assert [fault for window in opened for fault in window.faults] == []


@pytest.fixture
def window(windows: Windows) -> Watched:
    return windows()


@pytest.fixture
def page(window: Watched) -> Page:
    return window.open()


AXE = Path(__file__).parent / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def faults_of(page: Page) -> list[str]:
    """What breaks WCAG 2.2 AA in what the page shows now."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}})", RULES)
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}" for each in found["violations"] for node in each["nodes"]
    ]
