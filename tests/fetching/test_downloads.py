from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from promptreel.errors import UrlUnusable
from promptreel.fetching.downloads import Downloaded, download
from promptreel.fetching.fetcher import SafeFetcher
from tests.fetching.file_host import FileHost, hosting

CONTENT = os.urandom(300_000)
PATH = "/files/toon%20v2.safetensors"


@pytest.fixture
def host() -> Iterator[FileHost]:
    with hosting() as host:
        host.files["/files/toon v2.safetensors"] = CONTENT
        yield host


class Stopped(Exception):
    pass


def fetch(
    host: FileHost, folder: Path, *, path: str = PATH, max_bytes: int = 1 << 20, stop_at: int | None = None
) -> Downloaded:
    def on_bytes(received: int, _total: int | None) -> None:
        if stop_at is not None and received >= stop_at:
            raise Stopped

    loopback = SafeFetcher(allow_networks=[ip_network("127.0.0.0/8")], allow_ports=[host.port])
    return download(host.url + path, folder, fetcher=loopback, max_bytes=max_bytes, on_bytes=on_bytes)


def test_file_is_written_to_disk_under_a_name_without_special_characters(host: FileHost, tmp_path: Path) -> None:
    got = fetch(host, tmp_path / "part")

    assert got.path.read_bytes() == CONTENT
    assert got.name == "toon-v2.safetensors"


def test_name_comes_from_the_server_if_it_tells_one(host: FileHost, tmp_path: Path) -> None:
    host.headers = {"Content-Disposition": 'attachment; filename="../../dream.safetensors"'}

    assert fetch(host, tmp_path).name == "dream.safetensors"


def test_broken_connection_goes_on_where_it_was(host: FileHost, tmp_path: Path) -> None:
    host.breaks = [100_000, 0, 50_000]

    assert fetch(host, tmp_path).path.read_bytes() == CONTENT
    assert host.ranges_asked() == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_stopped_download_goes_on_with_the_next_call(host: FileHost, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fetch(host, tmp_path, stop_at=100_000)
    kept = (tmp_path / "content").stat().st_size

    assert fetch(host, tmp_path).path.read_bytes() == CONTENT
    assert kept >= 100_000
    assert host.ranges_asked() == [None, f"bytes={kept}-"]
    assert fetch(host, tmp_path).path.read_bytes() == CONTENT
    assert len(host.asked) == 2, "a whole file is asked for again"


def test_changed_file_begins_anew(host: FileHost, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fetch(host, tmp_path, stop_at=100_000)
    other = os.urandom(200_000)
    host.files["/files/toon v2.safetensors"] = other

    assert fetch(host, tmp_path).path.read_bytes() == other


def test_file_that_became_shorter_than_what_was_received_begins_anew(host: FileHost, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fetch(host, tmp_path, stop_at=290_000)
    host.files["/files/toon v2.safetensors"] = CONTENT[:1000]

    assert fetch(host, tmp_path).path.read_bytes() == CONTENT[:1000]


def test_host_that_always_breaks_off_is_given_up(host: FileHost, tmp_path: Path) -> None:
    host.breaks = [1000] + [0] * 10

    with pytest.raises(UrlUnusable, match="goes on where it was"):
        fetch(host, tmp_path)
    assert len(host.asked) == 6


@pytest.mark.parametrize("size", [1 << 20, 400_000])
def test_too_large_file_is_refused(host: FileHost, tmp_path: Path, size: int) -> None:
    host.files["/large"] = bytes(size)

    with pytest.raises(UrlUnusable, match="too large"):
        fetch(host, tmp_path, path="/large", max_bytes=300_000)
    assert not (tmp_path / "content").exists() or (tmp_path / "content").stat().st_size <= 300_000


def test_web_page_is_refused(host: FileHost, tmp_path: Path) -> None:
    host.headers = {"Content-Type": "text/html; charset=utf-8"}

    with pytest.raises(UrlUnusable, match="web page"):
        fetch(host, tmp_path)


def test_missing_file_is_asked_for_once(host: FileHost, tmp_path: Path) -> None:
    with pytest.raises(UrlUnusable, match="404"):
        fetch(host, tmp_path, path="/none")
    assert len(host.asked) == 1


def test_two_downloads_of_one_file_take_turns(host: FileHost, tmp_path: Path) -> None:
    """The second one waits while the first one stands still, and then finds its file."""
    host.breaks, host.holds = [1000], True
    got: list[Downloaded] = []
    threads = [threading.Thread(target=lambda: got.append(fetch(host, tmp_path))) for _ in range(2)]
    threads[0].start()
    assert host.is_holding.wait(60)
    threads[1].start()
    host.released.set()
    for thread in threads:
        thread.join(60)

    assert [each.path.read_bytes() == CONTENT for each in got] == [True, True]
    assert [ranges for ranges in host.ranges_asked() if ranges is None] == [None]


def test_address_that_is_not_public_is_refused(host: FileHost, tmp_path: Path) -> None:
    fetcher = SafeFetcher(allow_ports=[host.port])

    with pytest.raises(UrlUnusable, match="not on the public internet"):
        download(host.url + PATH, tmp_path, fetcher=fetcher, max_bytes=1 << 20, on_bytes=lambda *_: None)
    assert host.asked == []
