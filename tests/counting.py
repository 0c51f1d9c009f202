"""A second kind of job, of these tests alone: it counts. Once there is another kind in the service, it can go."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from promptreel.jobs.job import Claim, Job, JobStage, NewJob, OnProgress, Result
from promptreel.jobs.kinds import KINDS, Kinds
from promptreel.media import Video
from promptreel.storage.local import LocalStorage


@dataclass(frozen=True, kw_only=True)
class CountParams:
    kind: ClassVar[str] = "count"

    model_id: str
    up_to: int

    @property
    def batch_key(self) -> str:
        return f"{self.model_id}|{self.up_to}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CountParams:
        return cls(**data)


KINDS_WITH_COUNT: Kinds = {**KINDS, CountParams.kind: CountParams.from_json}


def make_count(up_to: int = 3, *, model_id: str = "cutout", **values: Any) -> NewJob:
    return NewJob(params=CountParams(model_id=model_id, up_to=up_to), request={}, cost=float(up_to), **values)


class CountRecipe:
    """Counts, and then stores what it counted once `gate` is set."""

    uses_device: ClassVar[bool] = True

    def __init__(self, storage: LocalStorage, scratch: Path) -> None:
        self.storage = storage
        self.scratch = scratch
        self.gate = threading.Event()

    def estimate_bytes(self, params: CountParams) -> int:
        return params.up_to

    def run(self, job: Job[CountParams], claim: Claim, *, on_progress: OnProgress, time_shared: Callable[[], float]) -> Result:
        began, counted = time_shared(), b""
        for number in range(job.params.up_to):
            on_progress(JobStage.LOADING, number / job.params.up_to)
            counted += b"%d\n" % number
        while not self.gate.wait(0.01):
            on_progress(JobStage.STORING, 1.0)
        self.scratch.mkdir(exist_ok=True)
        path, sha256 = self.scratch / f"{claim.job_id}.{claim.attempt}", hashlib.sha256(counted).hexdigest()
        path.write_bytes(counted)
        key = f"{job.file_prefix}/{claim.attempt}.txt"
        self.storage.save(Video(path, "text/plain", len(counted), sha256), key)
        facts = {"busy_seconds": time_shared() - began, "counted": job.params.up_to}
        return Result(key=key, size_bytes=len(counted), sha256=sha256, facts=facts)
