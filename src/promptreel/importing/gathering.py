"""Brings the files of one model together in a folder of their own: copied, or downloaded. Hashes each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from os.path import commonpath
from pathlib import Path

from promptreel.errors import CheckpointUnusable, NotAvailable, UrlUnusable
from promptreel.fetching.downloads import download
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.fetching.hub import Hub, HubFile
from promptreel.importing.choosing import PICKLES, choose_files
from promptreel.importing.sources import HubSource, LocalSource, Source, UrlSource
from promptreel.models.json_files import shorten
from promptreel.models.stored_files import StoredFile, copy_hashed, hash_file

OnBytes = Callable[[str, int, int | None], None]
"""Gets what is being done, the bytes done so far, and all bytes, if known. Called often; it may raise to stop."""

MAX_FILES = 10_000
"""Files and folders of a folder on this machine that are looked at."""
HUB_OFF = (
    "Models are not imported by hub id here. The service's operator can allow it with PROMPTREEL_HUB=on; a URL of the file "
    "works without it."
)


@dataclass(frozen=True)
class Gathered:
    """A model's files: by the author's names, where each is, and its hash. `source`: what the record says of its origin."""

    paths: Mapping[str, Path]
    files: Mapping[str, StoredFile]
    source: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gatherer:
    """`hub`: None if hub ids are not allowed. `max_bytes`: of all files of a model together."""

    fetcher: SafeFetcher
    hub: Hub | None
    max_bytes: int

    def gather(self, source: Source, folder: Path, *, on_bytes: OnBytes) -> Gathered:
        """Raises CheckpointUnusable, UrlUnusable, NotAvailable, StorageFailed and DiskFull.

        What it leaves in the folder when it is stopped, the next call goes on with.
        """
        match source:
            case LocalSource():
                return self._copy(source, folder, on_bytes)
            case UrlSource():
                return self._download(source, folder, on_bytes)
            case HubSource():
                return self._download_from_hub(source, folder, on_bytes)

    def _copy(self, source: LocalSource, folder: Path, on_bytes: OnBytes) -> Gathered:
        found = find_local(source.path)
        total = sum(path.stat().st_size for path in found.values())
        self._check_size(total)
        paths, files, done = {}, {}, 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            on_bytes("copying", done, total)

        for name, path in found.items():
            paths[name] = folder / _local_name(name)
            files[name] = copy_hashed(path, paths[name], on_bytes=count)
        return Gathered(paths, files, str(source), _read_licence(source.path))

    def _download(self, source: UrlSource, folder: Path, on_bytes: OnBytes) -> Gathered:
        got = download(
            source.url,
            folder / "file",
            fetcher=self.fetcher,
            max_bytes=self.max_bytes,
            on_bytes=lambda done, total: on_bytes("downloading", done, total),
        )
        name = got.name if got.name.endswith((".safetensors", *PICKLES)) else f"{got.name}.safetensors"
        choose_files([name], name, of=str(source))
        return Gathered({name: got.path}, {name: _hash(got.path, on_bytes)}, str(source))

    def _download_from_hub(self, source: HubSource, folder: Path, on_bytes: OnBytes) -> Gathered:
        if self.hub is None:
            raise NotAvailable(HUB_OFF)
        with self.hub.open() as hub:
            repository = hub.list_files(source.repo, source.revision, on_wait=lambda: on_bytes("asking the hub", 0, None))
            chosen = choose_files(repository.files, source.file, of=source.repo)
            total = sum(repository.files[name].size for name in chosen)
            self._check_size(total)
            paths, files, before = {}, {}, 0
            for name in chosen:
                paths[name] = folder / _local_name(f"{repository.commit}/{name}")
                told = partial(_tell_sum, on_bytes, before, total)
                hub.download(repository, name, paths[name], on_bytes=told)
                files[name] = _check_told(repository.files[name], paths[name], name, partial(told, 0))
                before += files[name].size_bytes
        prefix = _common_folder(chosen)
        return Gathered(
            {name.removeprefix(prefix): path for name, path in paths.items()},
            {name.removeprefix(prefix): file for name, file in files.items()},
            f"{source.repo}@{repository.commit}" + (f":{source.file}" if source.file else ""),
            {"licence": repository.licence} if repository.licence else {},
        )

    def _check_size(self, total: int) -> None:
        if total > self.max_bytes:
            raise CheckpointUnusable(
                f"The model's files have {total >> 20} MB; PROMPTREEL_MODEL_MEGABYTES allows {self.max_bytes >> 20}."
            )


def _tell_sum(on_bytes: OnBytes, before: int, total: int, received: int) -> None:
    on_bytes("downloading", before + received, total)


def _check_told(told: HubFile, path: Path, name: str, on_wait: Callable[[], object]) -> StoredFile:
    """Hashes the file. Raises UrlUnusable, and deletes it, if it is not what the hub says."""
    file = hash_file(path, on_bytes=lambda _size: on_wait())
    if file.size_bytes != told.size or told.sha256 not in {None, file.sha256}:
        path.unlink()
        raise UrlUnusable(f"{shorten(name)} is not the file that the hub says it is. Import it again.")
    return file


def find_local(path: Path) -> dict[str, Path]:
    """The files of the model at this path, by name. Raises CheckpointUnusable."""
    if not path.is_dir():
        choose_files([path.name], path.name, of=str(path.parent))
        return {path.name: path}
    found: dict[str, Path] = {}
    for number, entry in enumerate(sorted(path.rglob("*"))):
        if number == MAX_FILES:
            raise CheckpointUnusable(f"{path.name} holds more than {MAX_FILES} files. Name the folder of one model.")
        if entry.is_file():  # follows links: a downloader's cache is made of them
            found[entry.relative_to(path).as_posix()] = entry
    chosen = choose_files([name for name in found if not name.startswith(".")], None, of=str(path))
    prefix = _common_folder(chosen)
    return {name.removeprefix(prefix): found[name] for name in chosen}


def _common_folder(names: tuple[str, ...]) -> str:
    """The folder that all names are in, with its slash; "" if it is the root. A lone file loses all its folders."""
    if len(names) == 1:
        return names[0][: names[0].rfind("/") + 1]
    folder = commonpath([name.rpartition("/")[0] for name in names]) if all("/" in name for name in names) else ""
    return f"{folder}/" if folder else ""


def _local_name(name: str) -> str:
    """A name of our own for a file: a stranger's would be a path."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _hash(path: Path, on_bytes: OnBytes) -> StoredFile:
    total, done = path.stat().st_size, 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        on_bytes("hashing", done, total)

    return hash_file(path, on_bytes=count)


def _read_licence(path: Path) -> dict[str, str]:
    """The licence that a repository's README.md names at its top, if there is one."""
    try:
        with (path / "README.md").open(encoding="utf-8", errors="replace") as readme:
            head = readme.read(4096)
    except OSError:
        return {}
    lines = head.split("\n---", 1)[0].splitlines() if head.startswith("---") else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("license:")]
    return {"licence": shorten(named[0].strip("'\""), 100)} if named and named[0] else {}
