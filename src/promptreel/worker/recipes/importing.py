"""The recipe for imports: runs the importer, and stores what it found out as the job's result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar

from promptreel.errors import InvalidParams, JobCancelled
from promptreel.importing.importer import Importer
from promptreel.importing.sources import read_remote_source
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.job import Claim, ImportJob, JobStage, OnProgress, Result
from promptreel.storage.local import LocalStorage

MEMORY_BYTES = 256 << 20
"""What an import holds in memory: configs, headers, and a part of one file."""
GATHERED_SHARE = 0.9
"""The share of an import's progress when all files are there; the rest is for checking them."""


@dataclass(frozen=True)
class ImportRecipe:
    """The Recipe for jobs of kind `import`."""

    uses_device: ClassVar[bool] = False

    importer: Importer
    storage: LocalStorage

    def estimate_bytes(self, params: ImportParams) -> int:  # noqa: ARG002 - the same for all
        return MEMORY_BYTES

    def run(
        self,
        job: ImportJob,
        claim: Claim,
        *,
        on_progress: OnProgress,
        time_shared: Callable[[], float] = time.monotonic,
    ) -> Result:
        began = time_shared()
        source = read_remote_source(job.params.source)  # never a path: anybody may have queued the job
        if source is None:
            raise InvalidParams({"url": ["The source is neither a URL nor a hub id."]})

        def on_bytes(what: str, done: int, total: int | None) -> None:
            if what in {"checking", "storing"}:
                on_progress(JobStage.STORING, GATHERED_SHARE)
            else:
                on_progress(JobStage.LOADING, GATHERED_SHARE * min(1.0, done / total) if total else 0.0)

        try:
            record = self.importer.run(job.params, source, api_key_id=job.api_key_id, on_bytes=on_bytes)
        except JobCancelled:
            self.importer.forget(source)
            raise
        told: dict[str, Any] = {
            "model": record.id,
            "kind": record.kind.value,
            "family": record.family,
            "base": record.base,
            "card": dict(record.card),
            "source": record.source,
            "sha256": record.hash,
            "bytes": record.size_bytes,
        }
        data = json.dumps(told).encode()
        key = f"{job.file_prefix}/{claim.attempt}.json"
        self.storage.save_bytes(data, key)
        facts = {"busy_seconds": round(time_shared() - began, 3), **told}
        return Result(key=key, size_bytes=len(data), sha256=sha256(data).hexdigest(), facts=facts)
