"""The files of imported models, each under its SHA-256, so that equal files are stored once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from promptreel.errors import DiskFull, StorageFailed, is_disk_full

READ_ONLY = 0o444
_HASH = re.compile(r"[0-9a-f]{64}")
_LOCK = ".lock"
_FOLDERS = "folders"
_AT_ONCE = 4 << 20


@dataclass(frozen=True)
class StoredFile:
    """A file of an imported model."""

    sha256: str
    size_bytes: int


class StoredFiles:
    """A folder of read-only files by hash. A file is complete or absent, after a crash too."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, file: StoredFile) -> Path:
        """Where the file is, or would be."""
        return self.root / file.sha256

    def is_there(self, file: StoredFile) -> bool:
        """Whether the file is stored, and has its size. Reads nothing of it."""
        try:
            return self.path(file).stat().st_size == file.size_bytes
        except OSError:
            return False

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Inside the block nothing is swept: files may be stored first, and the row that names them written after."""
        with file_errors():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.root / _LOCK).open("a")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def take(self, incoming: Path, file: StoredFile) -> None:
        """Moves the file into place, over one that may be damaged. It must be on the same file system, and have this hash.

        Must run inside `adding`. Raises StorageFailed and DiskFull.
        """
        with file_errors():
            incoming.chmod(READ_ONLY)
            with incoming.open("rb") as content:
                os.fsync(content.fileno())
            incoming.replace(self.path(file))
            folder = os.open(self.root, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def lay_out(self, name: str, files: Mapping[str, StoredFile]) -> Path:
        """A folder with these files under their authors' names, as hard links. `name`: a hash of the names and the files."""
        folder = self.root / _FOLDERS / name
        if folder.is_dir():
            return folder
        incoming = folder.with_name(f".{uuid.uuid4().hex}")
        with self.adding():  # a sweep would take the new folder for one that no model needs
            try:
                link_files({each: self.path(file) for each, file in files.items()}, incoming)
                incoming.rename(folder)
            except OSError:  # a file is gone, which whoever opens the folder will notice; or another process was faster
                shutil.rmtree(incoming, ignore_errors=True)
        return folder

    def forget_layout(self, name: str) -> None:
        """Removes the folder that `lay_out` made, because files in it were replaced."""
        shutil.rmtree(self.root / _FOLDERS / name, ignore_errors=True)

    def sweep(self, named: Callable[[], Collection[str]]) -> int:
        """Deletes the files and folders whose hashes are not among those that `named` returns. Returns how many bytes that
        freed.

        Leaves them to the next sweep while another process is adding files.
        """
        if not self.root.is_dir():
            return 0
        with (self.root / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            kept, freed = set(named()), 0
            for path in self.root.iterdir():
                if _HASH.fullmatch(path.name) and path.name not in kept:
                    freed += path.stat().st_size
                    path.unlink()
            for folder in (self.root / _FOLDERS).glob("*"):
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)
            return freed


def link_files(paths: Mapping[str, Path], folder: Path) -> Path:
    """Makes a folder with these files under their authors' names, as hard links."""
    for name, path in paths.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, link)
    return folder


def copy_hashed(source: Path, target: Path, *, on_bytes: Callable[[int], object]) -> StoredFile:
    """Copies a file and returns its hash. `on_bytes` gets the bytes of each part; it may raise to stop."""
    with file_errors(), source.open("rb") as original, target.open("wb") as copy:
        return _pass_on(original, copy.write, on_bytes)


def hash_file(path: Path, *, on_bytes: Callable[[int], object] = lambda _bytes: None) -> StoredFile:
    """Reads a file and returns its hash. Raises StorageFailed if it cannot be read."""
    with file_errors(), path.open("rb") as content:
        return _pass_on(content, lambda _part: 0, on_bytes)


def _pass_on(source: IO[bytes], write: Callable[[bytes], object], on_bytes: Callable[[int], object]) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    while part := source.read(_AT_ONCE):
        digest.update(part)
        write(part)
        size += len(part)
        on_bytes(len(part))
    return StoredFile(digest.hexdigest(), size)


@contextmanager
def file_errors() -> Iterator[None]:
    """Turns the system's errors about files inside the block into StorageFailed and DiskFull."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("There is no room for the model's files: the disk is full. Make room on it.") from error
        raise StorageFailed(
            f"A model's file cannot be read or stored: {error.strerror}. Check its rights, and those of the data directory."
        ) from error
