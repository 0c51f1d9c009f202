"""The importer's own promises: what it leaves behind, and what it says when a disk is full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from promptreel.bootstrap import build_database, build_importer
from promptreel.errors import DiskFull, UrlUnusable
from promptreel.importing.importer import FORGOTTEN_SECONDS, Importer
from promptreel.importing.sources import HubSource, LocalSource, UrlSource, read_remote_source, suggest_id
from promptreel.jobs.import_params import ImportParams
from promptreel.settings import load_settings
from tests.models.repositories import tiny_adapter


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, content in tiny_adapter(tmp_path / "whole").items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def importer(tmp_path: Path) -> Importer:
    settings = load_settings(data_dir=tmp_path / "data")
    return build_importer(settings, build_database(settings))


def nothing(*_: object) -> None:
    return


def run(importer: Importer, path: Path) -> None:
    importer.run(ImportParams(model_id="motion", source=str(path)), LocalSource(path), api_key_id=None, on_bytes=nothing)


def test_what_another_import_takes_away_meanwhile_is_no_error(importer: Importer, adapter: Path) -> None:
    """A link to nothing is like a file that was listed and is gone."""
    (importer.folder / "another").mkdir(parents=True)
    (importer.folder / "another" / "gone").symlink_to("nowhere")
    run(importer, adapter)

    assert [path.name for path in importer.folder.iterdir()] == ["another"]


def test_import_leaves_the_source_as_it_was_and_nothing_else_in_scratch(importer: Importer, adapter: Path) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mode) for path in adapter.iterdir()}
    run(importer, adapter)

    assert {path.name: (path.read_bytes(), path.stat().st_mode) for path in adapter.iterdir()} == before
    assert list(importer.folder.iterdir()) == []


def test_full_disk_is_told_as_such(importer: Importer, adapter: Path) -> None:
    """The error comes where a write would raise it."""

    def full(_what: str, done: int, _total: int | None) -> None:
        if done:
            raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull):
        importer.run(ImportParams(model_id="motion", source="x"), LocalSource(adapter), api_key_id=None, on_bytes=full)
    assert importer.store.list() == []
    run(importer, adapter)


def test_leftovers_are_forgotten_after_a_week(importer: Importer) -> None:
    for name in ("old", "new"):
        (importer.folder / name).mkdir(parents=True)
    importer.forget_old(now=lambda: (importer.folder / "old").stat().st_mtime + FORGOTTEN_SECONDS - 60)
    kept = sorted(path.name for path in importer.folder.iterdir())
    os.utime(importer.folder / "old", (0, 0))
    importer.forget_old()

    assert kept == ["new", "old"]
    assert [path.name for path in importer.folder.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("text", "source", "model_id"),
    [
        ("https://a.example/toon%20you.safetensors?a=b", UrlSource("https://a.example/toon%20you.safetensors?a=b"), "toon-you"),
        ("https://a.example/", UrlSource("https://a.example/"), "model"),
        ("ours/name", HubSource("ours/name", None, None), "name"),
        ("ours/name@v1.0", HubSource("ours/name", "v1.0", None), "name"),
        ("ours/name:sub/mm_v3.safetensors", HubSource("ours/name", None, "sub/mm_v3.safetensors"), "mm_v3"),
        ("ours/name@v1:diffusion_pytorch_model.safetensors",
         HubSource("ours/name", "v1", "diffusion_pytorch_model.safetensors"), "name"),
        ("/etc/passwd", None, None),
        ("../up/there", None, None),
        ("ours/name/more", None, None),
        ("ours/name@ bad", None, None),
        ("name", None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_source_of_a_request_is_a_url_or_a_hub_id(text: str, source: object, model_id: str | None) -> None:
    read = read_remote_source(text)

    assert read == source
    assert read is None or suggest_id(read) == model_id


def test_address_of_this_network_is_not_imported_from(importer: Importer) -> None:
    source, params = UrlSource("http://127.0.0.1/x.safetensors"), ImportParams(model_id="m", source="x")
    with pytest.raises(UrlUnusable, match="not on the public internet"):
        importer.run(params, source, api_key_id=None, on_bytes=nothing)
