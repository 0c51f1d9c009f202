"""`promptreel jobs`: shows and changes the queue, jobs and deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from promptreel.bootstrap import (
    build_deliveries,
    build_jobs,
    build_keys,
    build_storage,
    build_webhook_secrets,
    find_database,
)
from promptreel.commands.terminal import AsJson, DataDir, print_facts, print_json, print_table, spell
from promptreel.jobs.deliveries import Delivery, DeliveryAttempt, DeliveryState
from promptreel.jobs.job import AnyJob, JobStatus
from promptreel.jobs.keys import Caller, KeyStore
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore
from promptreel.settings import Settings, load_settings

jobs_app = typer.Typer(help="Look at the queue, and cancel jobs.", no_args_is_help=True)

JobId = Annotated[int, typer.Argument(help="The job's id; `promptreel jobs list` shows them.")]
HEADER = ("ID", "STATUS", "CREATED (UTC)", "MODEL", "PROMPT")


@jobs_app.command("list")
def list_jobs(
    data_dir: DataDir = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many jobs to list.")] = 20,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    key: Annotated[str | None, typer.Option(help="Only jobs of this API key: its id or its first characters.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs."""
    settings = load_settings(data_dir=data_dir)
    database = find_database(settings)
    of = None if key is None else Caller(api_key_id=build_keys(settings, database).get(key).id)
    found = build_jobs(settings, database).list(limit=limit, status=status, model_id=model, of=of)
    if as_json:
        print_json([_to_facts(job) for job in found])
    else:
        print_jobs(found)


@jobs_app.command("show")
def show_job(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one job: its parameters, times, attempts and files."""
    settings = load_settings(data_dir=data_dir)
    database = find_database(settings)
    store = build_jobs(settings, database)
    job = store.get(job_id)
    attempts = [asdict(attempt) for attempt in store.list_attempts(job_id)]
    facts = _to_facts(job) | _find_files(job, settings) | {"api_key": _name_key(job, build_keys(settings, database))}
    if as_json:
        print_json(facts | {"attempts": attempts})
        return
    print_facts(facts | {"progress": f"{job.progress:.0%}"})
    for attempt in attempts:
        began, ended = spell(attempt["started_at"]), attempt["ended_at"]
        until = f"until {spell(ended)}, {attempt['outcome']}" if ended else "still at work"
        print_facts({f"attempt {attempt['attempt']}": f"from {began} {until}, by {attempt['worker']}"})


@jobs_app.command("cancel")
def cancel_job(job_id: JobId, data_dir: DataDir = None) -> None:
    """Cancel a job. A running job stops at its next call to the model."""
    print_jobs([_open_jobs(load_settings(data_dir=data_dir)).cancel(job_id)])


@jobs_app.command("deliveries")
def list_deliveries(job_id: JobId, data_dir: DataDir = None) -> None:
    """Show what a job's webhook was sent. Lists every attempt, and when the next one is due."""
    settings = load_settings(data_dir=data_dir)
    database = find_database(settings)
    job = build_jobs(settings, database).get(job_id)
    found = build_deliveries(settings, database).list(job_id)
    if not found:
        print_facts({f"job {job_id}": "has not ended yet" if job.webhook_url else "was sent without a webhook"})
    for delivery, attempts in found:
        _print_delivery(delivery, attempts)


@jobs_app.command("redeliver")
def redeliver(job_id: JobId, data_dir: DataDir = None) -> None:
    """Deliver a job's webhook again, now. If that fails, Promptreel retries for 24 hours."""
    settings = load_settings(data_dir=data_dir)
    deliveries = build_deliveries(settings, find_database(settings))
    deliveries.redeliver(job_id)
    for delivery, _ in deliveries.list(job_id):
        _print_delivery(delivery, [])


@jobs_app.command("webhook-secret")
def show_webhook_secret(data_dir: DataDir = None) -> None:
    """Show the webhook secret of jobs without an API key."""
    print(build_webhook_secrets(load_settings(data_dir=data_dir)).of_installation())  # noqa: T201


def _open_jobs(settings: Settings) -> JobStore:
    return build_jobs(settings, find_database(settings))


def print_jobs(jobs: Sequence[AnyJob]) -> None:
    rows = [(str(job.id), _spell_state(job), spell(job.created_at), job.params.model_id, _summary(job)) for job in jobs]
    print_table(HEADER, rows)


def _summary(job: AnyJob) -> str:
    return job.params.prompt if isinstance(job.params, VideoParams) else f"({job.kind})"


def _spell_state(job: AnyJob) -> str:
    if job.is_final:
        return f"{job.status} ({job.error_code})" if job.error_code else str(job.status)
    progress = f" {job.progress:.0%}" if job.status is JobStatus.RUNNING else ""
    return f"{job.status}{progress}{', cancel asked' if job.cancel_requested else ''}"


def _to_facts(job: AnyJob) -> dict[str, Any]:
    result = job.result
    return {
        "id": job.id,
        "video_id": f"video_{job.id}" if job.kind == VideoParams.kind else None,
        "kind": job.kind,
        "status": job.status,
        "stage": None if job.is_final else job.stage,
        "progress": job.progress,
        "cancel_requested": job.cancel_requested or None,
        "error_code": job.error_code,
        "error_message": job.error_message,
        **job.params.to_json(),
        "asked_in": job.request.get("dialect"),
        "tip": job.request.get("tip"),
        "track_id": job.track_id,
        "webhook": job.webhook_url,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "waited_seconds": _seconds_between(job.created_at, job.started_at),
        "took_seconds": _seconds_between(job.started_at, job.finished_at),
        "crashes": job.crashes or None,
        "worker": job.owner,
        "size_bytes": result.size_bytes if result else None,
        "sha256": result.sha256 if result else None,
        "made": result.facts if result else None,
    }


def _seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else round((end - start).total_seconds(), 1)


def _find_files(job: AnyJob, settings: Settings) -> dict[str, str | None]:
    """The paths of the job's video and of its init on this machine."""
    storage = build_storage(settings)
    keys = {
        "file": job.result.key if job.result else None,
        "init_file": job.params.init_key if isinstance(job.params, VideoParams) else None,
    }
    return {name: None if key is None else str(storage.path(key) or "deleted") for name, key in keys.items()}


def _name_key(job: AnyJob, keys: KeyStore) -> str:
    if job.api_key_id is None:
        return "none: the local caller"
    return next((f"{key.id} ({key.name})" for key in keys.list() if key.id == job.api_key_id), str(job.api_key_id))


def _print_delivery(delivery: Delivery, attempts: Sequence[DeliveryAttempt]) -> None:
    is_open = delivery.state is DeliveryState.PENDING
    next_at = spell(delivery.next_at) if is_open else "-"
    print_table(("DELIVERY", "STATE", "NEXT ATTEMPT (UTC)", "URL"), [(delivery.id, delivery.state, next_at, delivery.url)])
    rows = []
    for attempt in attempts:
        took = "" if attempt.seconds is None else f" after {attempt.seconds:.1f} s"
        status = "" if attempt.status is None else f"status {attempt.status}"
        told = " ".join(filter(None, [status, attempt.error])) or "no answer yet"
        rows.append((str(attempt.number), spell(attempt.started_at), f"{told}{took}"))
    if rows:
        print_table(("ATTEMPT", "STARTED (UTC)", "RESULT"), rows)
