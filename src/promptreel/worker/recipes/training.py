"""The recipe for trainings: lets a trainer train, names its checkpoints in the job's row, makes samples, adds the model."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from promptreel.errors import DiskFull, JobCancelled, StorageFailed, TrainingFailed, is_disk_full
from promptreel.jobs.job import Claim, JobStage, OnProgress, Result, TrainingJob
from promptreel.jobs.store import JobStore
from promptreel.jobs.training_params import TrainingParams
from promptreel.storage.local import LocalStorage
from promptreel.worker.pulse import GiveWay, WorkerStopping
from promptreel.worker.recipes.trained_model import TrainedModels
from promptreel.worker.recipes.training_footprint import estimate_bytes
from promptreel.worker.recipes.training_report import TrainingReport
from promptreel.worker.recipes.training_samples import SampleMaker
from promptreel.worker.trainer import Trainer, TrainerDied, started

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""The trainer's folder of training checkpoints, in that of the job."""
COMPUTED = "*.safetensors"
"""The trainer's files in its folder: the examples as latents."""
POLL_SECONDS = 0.2
WAITS_SECONDS = 2.0
"""How often the queue is asked how long videos have waited."""
SAVE_SECONDS = 60.0
"""How long a trainer may take to save, when it must stop."""
MOST_DEATHS = 3
"""A trainer is started again so often without a new checkpoint in between."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """The Recipe for jobs of kind `training`.

    `folder`: where trainers keep what they need to go on, a folder each. `models`: how a trainer finds the base (its order's
    `models`). `slice_seconds`: a training gives way to a video that has waited so long, but not before it has run as long
    itself.
    """

    uses_device: ClassVar[bool] = True

    jobs: JobStore
    storage: LocalStorage
    samples: SampleMaker
    trained: TrainedModels
    folder: Path
    device: str
    threads: int
    models: Mapping[str, Any]
    slice_seconds: float
    checkpoint_seconds: float = 120.0

    def estimate_bytes(self, params: TrainingParams) -> int:
        return estimate_bytes(params, self.samples.makers.engine.models)

    def run(
        self,
        job: TrainingJob,
        claim: Claim,
        *,
        on_progress: OnProgress,
        time_shared: Callable[[], float] = time.monotonic,
    ) -> Result:
        self.trained.check_id(job)
        self._forget_old()
        return Slice(self, job, claim, on_progress, time_shared).run()

    def folder_of(self, file_prefix: str) -> Path:
        return self.folder / file_prefix

    def _forget_old(self) -> None:
        """Deletes the folders of trainings that have ended or were deleted while nobody worked on them."""
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if not self.jobs.is_unfinished(folder.name):
                shutil.rmtree(folder, ignore_errors=True)


class Slice:
    """One claim's part of a training, from its newest checkpoint on."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        job: TrainingJob,
        claim: Claim,
        on_progress: OnProgress,
        time_shared: Callable[[], float],
    ) -> None:
        self.recipe = recipe
        self.job = job
        self.claim = claim
        self.pass_on = on_progress
        self.time_shared = time_shared
        self.report = TrainingReport.from_json(job.report, steps=job.params.steps)
        self.root = recipe.folder_of(job.file_prefix)
        self.folder = self.root / str(claim.attempt)
        self.began = self.asked_at = time.monotonic()
        self.began_shared = time_shared()
        self.deaths = 0

    def run(self) -> Result:
        with folder_errors():
            self._take_over()
        while True:
            try:
                return self._train()
            except TrainerDied as died:
                log.warning("job %d: %s", self.job.id, died)
                self.deaths += 1
                if self.deaths >= MOST_DEATHS:
                    raise TrainingFailed(
                        f"The trainer died {self.deaths} times without getting further. Take smaller pictures or a lower rank, "
                        "or read the worker's log."
                    ) from died

    def _train(self) -> Result:
        with started(self._order()) as trainer:
            try:
                while True:
                    event = trainer.next_event(POLL_SECONDS)
                    if event is not None and (result := self._hear(trainer, event)) is not None:
                        return result
                    self._go_on()
            except WorkerStopping:
                self._save(trainer, "stop")
                raise
            except GiveWay:
                self._save(trainer, "stop")
                raise
            except JobCancelled as cancelled:
                cancelled.write = self._keep_incomplete(trainer)
                raise

    def _take_over(self) -> None:
        """Links the newest training checkpoint, and the examples as they were computed, into this attempt's folder.

        Two attempts share no folder: the trainer of a frozen worker may still write into the one before.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.report.checkpoint is None:
            return
        attempt, name = self.report.checkpoint.split("/")
        before, target = self.root / attempt, self.folder / CHECKPOINTS / name
        if not (before / CHECKPOINTS / name).is_dir():
            raise StorageFailed("The training checkpoint is gone: send the training again.")
        if before == self.folder:
            return
        target.mkdir(parents=True, exist_ok=True)
        for file in (*(before / CHECKPOINTS / name).iterdir(), *before.glob(COMPUTED)):
            link = (self.folder if file.parent == before else target) / file.name
            link.unlink(missing_ok=True)
            os.link(file, link)

    def _order(self) -> dict[str, Any]:
        params = self.job.params
        return {
            "params": params.to_json(),
            "examples": [str(self._path_of(each.key)) for each in params.examples],
            "models": dict(self.recipe.models),
            "device": self.recipe.device,
            "threads": self.recipe.threads,
            "folder": str(self.folder),
            "resume": self.report.checkpoint and self.report.checkpoint.split("/")[1],
            "checkpoint_seconds": self.recipe.checkpoint_seconds,
        }

    def _path_of(self, key: str) -> Path:
        path = self.recipe.storage.path(key)
        if path is None:
            raise StorageFailed("A stored example is gone: send the training again.")
        return path

    def _go_on(self) -> None:
        """Raises what must end the slice."""
        self.pass_on(JobStage.TRAINING, self.report.share)
        now, bound = time.monotonic(), self.recipe.slice_seconds
        if now - self.asked_at < WAITS_SECONDS or now - self.began < bound:
            return
        self.asked_at = now
        if self.recipe.jobs.longest_wait("video") >= bound:
            raise GiveWay(bound)

    def _hear(self, trainer: Trainer, event: Mapping[str, Any]) -> Result | None:
        """Handles what the trainer says. Returns the result at the end."""
        match event["event"]:
            case "step":
                if self.report.on_step(event):
                    self._write_report()
            case "checkpoint":
                self._name(trainer, event)
            case "sample":
                self._sample(event)
                trainer.command("go on")
            case "validation":
                self.report.on_validation(event)
            case "rolled back":
                self.report.on_rolled_back(event)
            case "failed":
                raise TrainingFailed(event["message"])
            case "done":
                return self._finish(event)
        return None

    def _name(self, trainer: Trainer, event: Mapping[str, Any]) -> None:
        """Makes the training checkpoint the one from which any worker goes on. Raises JobLost."""
        self.report.on_checkpoint(f"{self.claim.attempt}/{event['name']}", int(event["step"]))
        self._write_report(made_headway=True)
        self.deaths = 0
        trainer.command("named", name=event["name"])
        for other in self.root.iterdir():
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)

    def _write_report(self, *, made_headway: bool = False) -> None:
        self.recipe.jobs.report(
            self.claim,
            stage=JobStage.TRAINING,
            progress=self.report.share,
            report=self.report.to_json(),
            made_headway=made_headway,
        )

    def _sample(self, event: Mapping[str, Any]) -> None:
        step = int(event["step"])
        if self.report.has_samples(step):  # the trainer was stopped before it went on
            return
        weights = self.folder / event["file"]
        made = self.recipe.samples.make(
            self.job, weights, step, on_progress=lambda _stage, _share: self.pass_on(JobStage.SAMPLING, self.report.share)
        )
        self.report.on_samples(step, made)
        self._write_report()

    def _save(self, trainer: Trainer, command: str) -> None:
        """Lets the trainer save and end. If it takes too long, the training goes on from its newest checkpoint."""
        trainer.command(command)
        until = time.monotonic() + SAVE_SECONDS
        try:
            while time.monotonic() < until:
                event = trainer.next_event(POLL_SECONDS)
                if event is None:
                    continue
                if event["event"] == "checkpoint":
                    self._name(trainer, event)
                elif event["event"] == "sample":
                    trainer.command("go on")
        except TrainerDied:  # it has ended
            return

    def _finish(self, event: Mapping[str, Any]) -> Result:
        record = self.recipe.trained.describe(self.job, self.folder / event["file"], step=int(event["step"]))
        facts = {
            **event.get("facts", {}),
            "model": record.id,
            "model_sha256": record.hash,
            "steps": int(event["step"]),
            "busy_seconds": round(self.time_shared() - self.began_shared, 3),
        }
        data = json.dumps({**facts, "card": dict(record.card)}).encode()
        key = f"{self.job.file_prefix}/{self.claim.attempt}.json"
        self.recipe.storage.save_bytes(data, key)
        self.report.on_done(int(event["step"]))
        self._write_report()
        write = self.recipe.trained.adding(record, self.folder / event["file"])
        return Result(key=key, size_bytes=len(data), sha256=sha256(data).hexdigest(), facts=facts, write=write)

    def _keep_incomplete(self, trainer: Trainer) -> Callable[[Any], object] | None:
        """What adds the model as it is now, marked as incomplete; None if there is nothing yet."""
        trainer.command("finish")
        until = time.monotonic() + SAVE_SECONDS
        try:
            while time.monotonic() < until:
                event = trainer.next_event(POLL_SECONDS)
                if event is not None and event["event"] == "sample":
                    trainer.command("go on")
                if event is not None and event["event"] == "done":
                    record = self.recipe.trained.describe(
                        self.job, self.folder / event["file"], step=int(event["step"]), is_complete=False
                    )
                    return self.recipe.trained.adding(record, self.folder / event["file"])
        except TrainerDied:
            log.warning("job %d: the trainer ended before it wrote its model", self.job.id)
        return None


@contextmanager
def folder_errors() -> Iterator[None]:
    """Raises StorageFailed and DiskFull instead of the system's errors."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("There is no room for the training: the disk is full. Make room on it.") from error
        raise StorageFailed(
            f"There is no folder for the training: {error.strerror}. Check the rights of the data directory."
        ) from error
