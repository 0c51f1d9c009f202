"""Stores files by key on the local disk: finished videos, previews of running jobs, and inits."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from promptreel.errors import DiskFull, StorageFailed, is_disk_full
from promptreel.media import Video

# Names of letters, digits and ._- joined by slashes. No name starts with a dot, so no key leaves the root or reaches INCOMING.
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
MAX_KEY_LENGTH = 200
INCOMING = ".incoming"  # partial copies; under the root, because a rename is atomic only within one file system


class LocalStorage:
    """A folder of files by key. Writes are atomic and durable: after a crash, a file is complete or absent."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def save(self, video: Video, key: str) -> None:
        """Copies the video to `key`, replacing any old file. Raises StorageFailed and DiskFull."""
        self._store(key, lambda file: _copy_synced(video, file))

    def save_bytes(self, data: bytes, key: str) -> None:
        """Writes the bytes to `key`, replacing any old file. Raises StorageFailed and DiskFull."""
        self._store(key, lambda file: _write_synced(data, file))

    def path(self, key: str) -> Path | None:
        """The file's path; None if there is no file, or if `key` is invalid."""
        if not _is_key(key):
            return None
        path = self._root / key
        return path if path.is_file() and path.resolve().is_relative_to(self._root.resolve()) else None

    def read(self, key: str) -> bytes | None:
        """The content of a small file, consistent even if it is replaced meanwhile; None if there is none."""
        path = self.path(key)
        try:
            return None if path is None else path.read_bytes()
        except FileNotFoundError:
            return None

    def version(self, key: str) -> int | None:
        """A number that differs once the file has been replaced; None if there is no file."""
        path = self.path(key)
        try:
            return None if path is None else path.stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Removes the file and the folders that this leaves empty; does nothing if there is no file. Raises StorageFailed."""
        target = self._target(key)
        try:
            target.unlink()
            _sync(self._remove_empty(target.parent))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageFailed(
                f"{key} could not be deleted: {error.strerror}. Check the permissions of the data directory."
            ) from error

    def _target(self, key: str) -> Path:
        if not _is_key(key) or not (self._root / key).parent.resolve().is_relative_to(self._root.resolve()):
            raise StorageFailed(
                f"{key!r} is not a valid key: use names of letters, digits, dots, dashes and underscores, joined by slashes."
            )
        return self._root / key

    def _store(self, key: str, write: Callable[[Path], None]) -> None:
        target = self._target(key)
        try:
            self._place(write, target)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull("The file could not be stored: the disk is full. Make room on it.") from error
            raise StorageFailed(
                f"The file could not be stored: {error.strerror}. Check the permissions of the data directory."
            ) from error

    def _place(self, write: Callable[[Path], None], target: Path) -> None:
        incoming = self._root / INCOMING / uuid.uuid4().hex
        incoming.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(incoming)
            _rename(incoming, target)
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        self._sync_folders(target.parent)

    def _remove_empty(self, folder: Path) -> Path:
        """Removes the folder and its parents while they are empty. Returns the first one that is not."""
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:  # it is not empty
                break
            folder = folder.parent
        return folder

    def _sync_folders(self, folder: Path) -> None:
        """Makes the new file's name, and those of its folders, survive a power cut."""
        for each in (folder, *folder.parents):
            _sync(each)
            if each == self._root:
                break


def _rename(incoming: Path, target: Path) -> None:
    """Moves the file, creating its folder. Tries again if another process deletes the last file there, and so the folder."""
    for tries_left in reversed(range(10)):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming.replace(target)
        except (FileNotFoundError, FileExistsError):  # mkdir raises "exists" if the folder vanishes during the call
            if not tries_left:
                raise
        else:
            return


def _is_key(key: str) -> bool:
    return len(key) <= MAX_KEY_LENGTH and KEY.fullmatch(key) is not None


def _copy_synced(video: Video, copy: Path) -> None:
    with video.path.open("rb") as source, copy.open("x+b") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != video.sha256:
        raise StorageFailed(f"{video.path.name} changed between encoding and storing. Request the video again.")


def _write_synced(data: bytes, copy: Path) -> None:
    with copy.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
