"""The hub's own library against a host on loopback that is laid out as the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptreel.errors import UrlUnusable
from promptreel.fetching.hub import Hub, HubFile
from tests.fetching.file_host import COMMIT, FileHost, hash_of, hosting

pytestmark = pytest.mark.slow

WEIGHTS = os.urandom(25_000_000)  # the library writes ten megabytes at a time
REPO = "guoyww/animatediff-motion-adapter-v1-5-2"


@pytest.fixture
def host() -> Iterator[FileHost]:
    with hosting() as host:
        host.repositories[REPO] = {"config.json": b"{}", "sub/diffusion_pytorch_model.safetensors": WEIGHTS}
        yield host


def nothing(*_: object) -> None:
    return


def test_files_are_listed_and_downloaded(host: FileHost, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Hub(host.url).open() as hub:
        found = hub.list_files(REPO, None, on_wait=nothing)
        hub.download(found, "sub/diffusion_pytorch_model.safetensors", path, on_bytes=nothing)

    assert (found.commit, found.licence) == (COMMIT, "creativeml-openrail-m")
    assert found.files["sub/diffusion_pytorch_model.safetensors"] == HubFile(len(WEIGHTS), hash_of(WEIGHTS))
    assert path.read_bytes() == WEIGHTS


class Stopped(Exception):
    pass


def test_stopped_download_goes_on(host: FileHost, tmp_path: Path) -> None:
    def stop(_received: int) -> None:
        if host.is_holding.is_set() and path.stat().st_size > 0:
            raise Stopped

    path = tmp_path / "file"
    with Hub(host.url).open() as hub:
        found = hub.list_files(REPO, "main", on_wait=nothing)
        host.breaks, host.holds = [15_000_000], True
        with pytest.raises(Stopped):
            hub.download(found, "sub/diffusion_pytorch_model.safetensors", path, on_bytes=stop)
    with Hub(host.url).open() as hub:
        hub.download(found, "sub/diffusion_pytorch_model.safetensors", path, on_bytes=nothing)

    assert path.read_bytes() == WEIGHTS
    assert any(each for each in host.ranges_asked()), "it began anew"


@pytest.mark.parametrize(
    ("repo", "file", "says"),
    [("nobody/nothing", "x", "no repository nobody/nothing"), (REPO, "none.json", "no file none.json")],
)
def test_what_is_not_there_is_named(host: FileHost, tmp_path: Path, repo: str, file: str, says: str) -> None:
    with Hub(host.url).open() as hub, pytest.raises(UrlUnusable, match=says):
        hub.download(hub.list_files(repo, None, on_wait=nothing), file, tmp_path / "file", on_bytes=nothing)


def test_hub_that_is_down_is_told(tmp_path: Path) -> None:
    with Hub("http://127.0.0.1:9").open() as hub, pytest.raises(UrlUnusable, match="could not be reached"):
        hub.list_files(REPO, None, on_wait=nothing)
