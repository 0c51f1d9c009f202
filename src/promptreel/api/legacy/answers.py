"""The hosted service's answers and webhooks about a job, for every generation of its API."""

from __future__ import annotations

from typing import Any

from promptreel.api.legacy.paths import dialect_of
from promptreel.api.legacy.requests import TIP
from promptreel.jobs.job import JobStatus, VideoJob
from promptreel.jobs.links import Links

WAIT = "Try to fetch request after given estimated time"
WEBHOOK_TYPE = "text2video"


def to_answer(job: VideoJob, *, links: Links, eta: int) -> dict[str, Any]:
    """A job as its client sees it. `eta` is in whole seconds, and is only used while the job is not done."""
    match job.status:
        case JobStatus.SUCCEEDED:
            return _to_success(job, links)
        case JobStatus.FAILED:
            return _to_failure(job, job.error_message or "The job failed, and its worker could not say why.")
        case JobStatus.CANCELLED:
            return _to_failure(job, "Cancelled")
        case _:
            return _to_processing(job, links, eta)


def to_webhook(job: VideoJob, links: Links) -> dict[str, Any]:
    """The webhook's body for a job that has ended. `track_id` has the JSON type that was sent."""
    track_id = job.request.get("track_id", job.track_id)
    answer = to_answer(job, links=links, eta=0)
    if job.status is JobStatus.SUCCEEDED:
        told = {name: answer[name] for name in ("id", "output", "generationTime", "meta")}
    else:
        told = {"id": job.id, "message": answer["message"]}
    return {"status": answer["status"], "track_id": track_id, **told, "webhook_type": WEBHOOK_TYPE}


def _to_processing(job: VideoJob, links: Links, eta: int) -> dict[str, Any]:
    return {
        "status": "processing",
        "tip": job.request.get("tip", TIP),
        "eta": eta,
        "messege": WAIT,
        "message": WAIT,
        "fetch_result": f"{links.base_url}{dialect_of(job).fetch_path}/{job.id}",
        "id": job.id,
        "output": [],
        "future_links": [links.video(job)],
        "preview": links.preview(job),
        "meta": dialect_of(job).to_meta(job),
        **tell_expiry(links),
    }


def _to_success(job: VideoJob, links: Links) -> dict[str, Any]:
    url = links.video(job)
    spent = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else 0.0
    return {
        "status": "success",
        "id": job.id,
        "output": [url],
        "proxy_links": [url],
        "generationTime": round(max(0.0, spent), 2),
        "meta": dialect_of(job).to_meta(job),
        **tell_expiry(links),
    }


def _to_failure(job: VideoJob, why: str) -> dict[str, Any]:
    return {"status": "failed", "id": job.id, "message": why, "messege": why, "output": []}


def tell_expiry(links: Links) -> dict[str, str]:
    """When the links of an answer expire; nothing if they do not."""
    return {} if links.expire_at is None else {"links_expire_at": links.expire_at.isoformat()}
