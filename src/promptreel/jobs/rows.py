"""Reads a row of the job table into a Job."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from promptreel.jobs.job import AnyJob, Job, JobStage, JobStatus, Result
from promptreel.jobs.kinds import Kinds, Params, UnknownParams


def to_job(row: Row[Any], kinds: Kinds) -> AnyJob:
    return Job(
        id=row.id,
        file_prefix=row.file_prefix,
        params=_to_params(row, kinds),
        request=row.request,
        track_id=row.track_id,
        webhook_url=row.webhook_url,
        api_key_id=row.api_key_id,
        status=JobStatus(row.status),
        stage=_to_stage(row.stage),
        progress=row.progress,
        cost=row.cost,
        attempt=row.attempt,
        crashes=row.crashes,
        owner=row.owner,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error_code=row.error_code,
        error_message=row.error_message,
        report=row.report,
        result=_to_result(row),
    )


def _to_stage(name: str | None) -> JobStage | None:
    """None also for a stage that only a newer version knows: a stage is for information only."""
    return JobStage(name) if name in set(JobStage) else None


def _to_params(row: Row[Any], kinds: Kinds) -> Params:
    read = kinds.get(row.kind)
    if read is None:
        return UnknownParams(kind=row.kind, model_id=row.model_id, batch_key=row.batch_key, data=row.params)
    return read(row.params)


def _to_result(row: Row[Any]) -> Result | None:
    if row.result_key is None:
        return None
    return Result(key=row.result_key, size_bytes=row.result_bytes, sha256=row.result_sha256, facts=row.result_facts)
