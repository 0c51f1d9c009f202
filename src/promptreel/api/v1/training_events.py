"""Server-sent events of one training: each change, until it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from promptreel.api.estimates import look_ahead_of_training
from promptreel.api.parts import Services
from promptreel.api.v1.answers import to_outlook, to_progress, to_status
from promptreel.api.v1.events import LOOKS_PER_OUTLOOK, Event
from promptreel.api.v1.training_answers import samples_of, to_deleted_training, to_numbers, to_sample, to_training
from promptreel.errors import JobNotFound
from promptreel.jobs.job import TrainingJob


class TrainingWatcher:
    """Reports what has changed since its last look, and everything at its first."""

    def __init__(self, services: Services, job_id: int) -> None:
        self._services = services
        self._job_id = job_id
        self._looks = 0
        self._told: dict[str, object] = {}
        self._counts = {"sample": 0, "validation": 0, "log": 0}
        self._lines: list[str] = []

    def look(self) -> list[Event]:
        """The new events. The last one is `end` if the training has ended or was deleted."""
        try:
            job = self._services.trainings.get(self._job_id)
            changed = list(self._changes(job))
        except JobNotFound:
            return [Event("end", to_deleted_training(self._job_id).to_json())]
        self._looks += 1
        return [*changed, Event("end", to_training(job).to_json())] if job.is_final else changed

    def _changes(self, job: TrainingJob) -> Iterator[Event]:
        stage = {"status": to_status(job), "stage": job.stage}
        numbers = {"progress": to_progress(job), **to_numbers(job)}
        is_new_stage, is_new_number = self._is_new("stage", stage), self._is_new("numbers", numbers)
        if is_new_stage:
            yield Event("stage", stage)
        if is_new_stage or is_new_number or self._looks % LOOKS_PER_OUTLOOK == 0:
            outlook = {} if job.is_final else to_outlook(look_ahead_of_training(self._services, job))
            if self._is_new("progress", numbers | outlook):
                yield Event("progress", numbers | outlook)
        report = job.report or {}
        if report.get("checkpoint") and self._is_new("checkpoint", report["checkpoint"]):
            yield Event("checkpoint", {"step": report.get("checkpoint_step") or 0})
        yield from self._grown("validation", [dict(told) for told in report.get("validation", ())])
        samples = [to_sample(number, told).to_json() for number, told in enumerate(samples_of(job))]
        yield from self._grown("sample", samples)
        for line in self._new_lines(list(report.get("log", ()))):
            yield Event("log", {"line": line})

    def _is_new(self, name: str, value: object) -> bool:
        if self._told.get(name) == value:
            return False
        self._told[name] = value
        return True

    def _grown(self, name: str, entries: list[dict[str, Any]]) -> Iterator[Event]:
        """The entries since the last look. A training that lost some steps does not take back what it told."""
        begin, self._counts[name] = self._counts[name], max(self._counts[name], len(entries))
        yield from (Event(name, entry) for entry in entries[begin:])

    def _new_lines(self, lines: list[str]) -> list[str]:
        """The lines since the last look. The oldest ones leave a long log."""
        before, self._lines = self._lines, lines
        for dropped in range(len(before) + 1):
            kept = before[dropped:]
            if lines[: len(kept)] == kept:
                return lines[len(kept) :]
        return lines
