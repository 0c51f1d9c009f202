"""Imports a model: gathers its files, finds out what it is, checks it, stores it and writes its row.

The command line calls this directly, and a worker for a job of kind `import`. Stopped anywhere, it leaves nothing that could
be taken for a model; the same import goes on where it was.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from promptreel.errors import CheckpointUnusable, InvalidParams
from promptreel.fetching.downloads import alone_in
from promptreel.importing.gathering import Gathered, Gatherer, OnBytes
from promptreel.importing.sources import HubSource, LocalSource, Source, UrlSource, read_remote_source
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.keys import Caller
from promptreel.models.inspection import Inspected, inspect
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelRecord, ModelStore
from promptreel.models.stored_files import StoredFiles, file_errors

log = logging.getLogger(__name__)

FORGOTTEN_SECONDS = 7 * 86400
"""What an import left behind is kept this long, for another try."""


@dataclass(frozen=True)
class Importer:
    """`folder`: where imports keep what they gather, a folder each; on the file system of `files`."""

    models: ModelRegistry
    store: ModelStore
    files: StoredFiles
    gatherer: Gatherer
    folder: Path

    def run(self, params: ImportParams, source: Source, *, api_key_id: int | None, on_bytes: OnBytes) -> ModelRecord:
        """Returns the model's row. An equal model that is there already is left as it is, unless `params.replace`.

        Raises CheckpointUnusable, UrlUnusable, InvalidParams, NotAvailable, StorageFailed and DiskFull.
        """
        self.models.seen_by(Caller(api_key_id=api_key_id)).check_id(params.model_id)
        if (there := self._find_there(params, source)) is not None:
            return there
        folder = self._folder_of(source)
        with file_errors():
            self.forget_old()
            folder.mkdir(parents=True, exist_ok=True)
        with file_errors(), alone_in(folder, lambda: on_bytes("waiting for another import of it", 0, None)):
            gathered = self.gatherer.gather(source, folder, on_bytes=on_bytes)
            _check_hash(params, gathered)
            on_bytes("checking", 0, None)
            found = inspect(gathered.paths, params, facts=gathered.facts, reads_weights=True)
            on_bytes("storing", 0, None)
            record = self._store(params, gathered, found, api_key_id=api_key_id)
        shutil.rmtree(folder, ignore_errors=True)
        self.models.sweep()
        return record

    def forget(self, source: Source) -> None:
        """Deletes what an import of this source left behind."""
        shutil.rmtree(self._folder_of(source), ignore_errors=True)

    def forget_old(self, *, now: Callable[[], float] = time.time) -> None:
        """Deletes what imports left behind that nobody went on with."""
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if now() - _last_change(folder) > FORGOTTEN_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def _find_there(self, params: ImportParams, source: Source) -> ModelRecord | None:
        """The model, if it was imported from the same address already. A path may hold something else by now."""
        record = self.store.find(params.model_id)
        if record is None or params.replace or not _is_from(source, record.source):
            return None
        return record if all(self.files.is_there(file) for file in record.files.values()) else None

    def _store(self, params: ImportParams, gathered: Gathered, found: Inspected, *, api_key_id: int | None) -> ModelRecord:
        record = ModelRecord(
            id=params.model_id,
            kind=found.kind,
            family=found.family,
            base=found.base,
            card=found.card,
            files=gathered.files,
            source=gathered.source,
            api_key_id=api_key_id,
            is_public=params.is_public,
        )
        with self.files.adding():
            for name, path in gathered.paths.items():
                self.files.take(path, gathered.files[name])
            self.files.forget_layout(record.hash)
            return self.store.add(record, replace=params.replace)

    def _folder_of(self, source: Source) -> Path:
        address = getattr(source, "url", None) or str(source)
        return self.folder / hashlib.sha256(address.encode()).hexdigest()[:32]


def _last_change(folder: Path) -> float:
    """The newest time of change in a folder. What another import takes away meanwhile counts as changed now."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:
        return time.time()


def _is_from(source: Source, recorded: str) -> bool:
    """Whether a model with this recorded source came from there. False if in doubt, as with a URL that has a query."""
    match source:
        case HubSource():
            known = read_remote_source(recorded)
            is_alike = isinstance(known, HubSource) and (known.repo, known.file) == (source.repo, source.file)
            return is_alike and source.revision in {None, getattr(known, "revision", None)}
        case UrlSource():
            return source.url == recorded
        case LocalSource():
            return False


def _check_hash(params: ImportParams, gathered: Gathered) -> None:
    if params.sha256 is None:
        return
    weights = {name: file for name, file in gathered.files.items() if name.endswith(".safetensors")}
    if len(weights) != 1:
        raise InvalidParams({"sha256": [f"A sha256 is of one file, and the model has {len(weights)} files of weights."]})
    ((name, file),) = weights.items()
    if file.sha256 != params.sha256:
        raise CheckpointUnusable(f"{name} has the SHA-256 {file.sha256}, not {params.sha256}: it is another file.")
