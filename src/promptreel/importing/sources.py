"""Where a model comes from: a folder or a file on this machine, a URL, or a repository of a model hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from promptreel.errors import InvalidParams
from promptreel.fetching.hub import REPOSITORY, REVISION
from promptreel.models.card_fields import MODEL_ID

_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._-]+")
_URL = re.compile(r"https?://", re.IGNORECASE)
_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class LocalSource:
    """A folder or a file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class UrlSource:
    url: str

    def __str__(self) -> str:
        """Without the query, which may hold a secret."""
        return self.url.partition("?")[0].partition("#")[0]


@dataclass(frozen=True)
class HubSource:
    """`file`: the file or the folder in the repository; None: all of it is one model. `revision`: None is its main branch."""

    repo: str
    revision: str | None
    file: str | None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f":{self.file}" if self.file else "")


Source: TypeAlias = LocalSource | UrlSource | HubSource


def read_source(text: str) -> Source:
    """Reads a source from the command line. Raises InvalidParams."""
    if Path(text).exists():
        return LocalSource(Path(text).absolute())
    remote = read_remote_source(text)
    if remote is None:
        raise InvalidParams(
            {
                "source": [
                    f"There is no file or folder {text[:200]!r}. A source is a path, a URL, or a hub id: "
                    "owner/name, owner/name@revision or owner/name:file."
                ]
            }
        )
    return remote


def read_remote_source(text: str) -> UrlSource | HubSource | None:
    """Reads a source from a request, which may name nothing on this machine. None if it is neither a URL nor a hub id."""
    if _URL.match(text):
        return UrlSource(text)
    before, _, file = text.partition(":")
    repo, _, revision = before.partition("@")
    if REPOSITORY.fullmatch(repo) is None or (revision and REVISION.fullmatch(revision) is None) or len(file) > 500:
        return None
    return HubSource(repo, revision or None, file.strip("/") or None)


def suggest_id(source: Source) -> str:
    """A model id made of the source's own name."""
    match source:
        case LocalSource():
            name = source.path.name
        case UrlSource():
            name = unquote(urlsplit(source.url).path.rstrip("/").rpartition("/")[2])
        case HubSource():
            last = (source.file or source.repo).rpartition("/")[2]
            generic = last.startswith(("diffusion_pytorch_model", "model."))
            name = source.repo.rpartition("/")[2] if generic else last
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    made = _NOT_IN_AN_ID.sub("-", name).strip("._-")[:100]
    return made if MODEL_ID.fullmatch(made) else "model"
