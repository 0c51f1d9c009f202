"""Checks the files of a checkpoint's folder (no code, no pickle, no link out of it), and hashes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from promptreel.errors import CheckpointUnusable
from promptreel.models.json_files import shorten

SUFFIXES = (".safetensors", ".json", ".txt", ".md")
UNREAD = frozenset({"spiece.model"})
"""Names of files that lie in public checkpoints, are no code, and are never opened."""
MAX_FILES = 1000
MAX_DEPTH = 8


def check_folder(path: Path) -> Path:
    """The folder's resolved path. Reads only names. Raises CheckpointUnusable, which names the file, for a file of another kind
    or a link out of the folder.
    """
    root = path.resolve()
    if not root.is_dir():
        raise CheckpointUnusable(
            f"{path.name} is not a folder. Put the checkpoint there in diffusers' layout, see docs/models.md."
        )
    try:
        for number, entry in enumerate(_entries(root)):
            if number == MAX_FILES or len(entry.relative_to(root).parts) > MAX_DEPTH:
                raise CheckpointUnusable(
                    f"{path.name} holds more than {MAX_FILES} files, or folders in folders. "
                    "Remove what is no part of the checkpoint."
                )
            if entry.is_symlink() or not entry.is_dir():
                _check_file(entry, root)
    except OSError as error:
        raise CheckpointUnusable(f"A file of the checkpoint cannot be read: {error.strerror}. Check its rights.") from error
    return root


def hash_files(files: Mapping[str, Path]) -> str:
    """SHA-256 of the files' names and contents. Neither the folder nor the card changes it.

    Reads every byte, which takes seconds for a large checkpoint. Raises CheckpointUnusable for an unreadable file.
    """
    digest = hashlib.sha256()
    try:
        for name, file in sorted(files.items()):
            with file.open("rb") as content:
                digest.update(os.fsencode(name) + b"\0" + hashlib.file_digest(content, "sha256").digest())
    except OSError as error:
        raise CheckpointUnusable(f"A file of the checkpoint cannot be read: {error.strerror}. Check its rights.") from error
    return digest.hexdigest()


def _entries(root: Path) -> Iterator[Path]:
    """Everything under `root`; links to folders are not followed."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield Path(folder, name)


def _check_file(file: Path, root: Path) -> None:
    name = shorten(file.relative_to(root))
    if not Path(os.path.realpath(file)).is_relative_to(root):
        raise CheckpointUnusable(f"{name} is a link out of the checkpoint's folder. Copy the file itself there (cp -L).")
    if not file.is_file():
        raise CheckpointUnusable(f"{name} is not a plain file. Remove it, or put the file itself there.")
    if file.suffix not in SUFFIXES and file.name not in UNREAD:
        raise CheckpointUnusable(
            f"{name} is refused: only {', '.join(SUFFIXES)} files may be in a checkpoint's folder. "
            "Convert other weights to safetensors and remove what is left."
        )
