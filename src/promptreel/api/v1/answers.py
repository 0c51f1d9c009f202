"""The answers of the open standard, OpenAI's `/v1/videos` and `/v1/models`: videos, lists, webhooks and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from promptreel.api.estimates import Outlook
from promptreel.api.v1.requests import DIALECT, Cursor, was_enhanced
from promptreel.errors import PromptreelError
from promptreel.jobs.job import Job, JobStatus
from promptreel.jobs.params import VideoParams
from promptreel.media import MEDIA_TYPES
from promptreel.models.registry import ModelCard

_STATUSES = {
    JobStatus.QUEUED: "queued",
    JobStatus.RUNNING: "in_progress",
    JobStatus.SUCCEEDED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "failed",
}


class ContentUnavailable(PromptreelError):
    """A video's file is not there: not yet, not any more, or never, because its job failed."""

    code = "content_unavailable"


def to_video_id(job_id: int) -> str:
    return f"video_{job_id}"


def to_video(job: Job, outlook: Outlook | None = None) -> dict[str, Any]:
    """What a client is told of a job; `stage`, `eta` (whole seconds) and `queue_position` only while it is not done.

    Without an outlook, as in lists, they are left out.
    """
    params = job.params
    seconds = params.num_frames / params.fps
    remixed_from = job.request.get("remixed_from")
    video = {
        "id": to_video_id(job.id),
        "object": "video",
        "model": params.model_id,
        "status": to_status(job),
        "progress": to_progress(job),
        "created_at": int(job.created_at.timestamp()),
        "completed_at": int(job.finished_at.timestamp()) if job.finished_at else None,
        "expires_at": None,
        "prompt": params.prompt,
        "size": f"{params.width}x{params.height}",
        "seconds": f"{seconds:g}",
        "remixed_from_video_id": None if remixed_from is None else to_video_id(remixed_from),
        "error": _to_job_error(job),
        **to_extensions(params),
        "enhance_prompt": was_enhanced(job),
    }
    if outlook is not None and not job.is_final:
        video |= {"stage": job.stage, **to_outlook(outlook)}
    if job.request.get("dialect") == DIALECT and "tip" in job.request:
        video["tip"] = job.request["tip"]
    return video | _to_facts(job)


def to_webhook(job: Job, delivery_id: str) -> dict[str, Any]:
    """The event that the job's webhook is told, in the shape of OpenAI's; `data` is the whole video."""
    succeeded = job.status is JobStatus.SUCCEEDED
    return {
        "id": f"evt_{delivery_id.removeprefix('msg_')}",
        "object": "event",
        "created_at": int((job.finished_at or job.created_at).timestamp()),
        "type": "video.completed" if succeeded else "video.failed",
        "data": to_video(job),
    }


def to_outlook(outlook: Outlook) -> dict[str, int]:
    return {"queue_position": outlook.queue_position, "eta": outlook.eta}


def to_status(job: Job) -> str:
    return _STATUSES[job.status]


def to_progress(job: Job) -> int:
    """0 to 100; 100 only once the video is there."""
    return 100 if job.status is JobStatus.SUCCEEDED else min(99, int(job.progress * 100))


def to_extensions(params: VideoParams) -> dict[str, Any]:
    """What was asked, in the words of the requests' extensions, and what kind of file it makes."""
    return {
        "negative_prompt": params.negative_prompt,
        "num_frames": params.num_frames,
        "fps": params.fps,
        "num_inference_steps": params.num_inference_steps,
        "guidance_scale": params.guidance_scale,
        "scheduler": params.scheduler,
        "strength": params.strength,
        "seed": params.seed,
        "clip_skip": params.clip_skip,
        "output_type": params.output_type,
        "media_type": MEDIA_TYPES[params.output_type],
    }


def _to_facts(job: Job) -> dict[str, Any]:
    """How long it took, in seconds: in all without its waiting for other jobs, and by stage; what the worker told."""
    facts = job.result.facts if job.result else {}
    names = {"busy_seconds": "inference_time_s", "stages": "stage_durations", "peak_memory_mb": "peak_memory_mb"}
    return {ours: facts[name] for name, ours in names.items() if name in facts}


def _to_job_error(job: Job) -> dict[str, str] | None:
    match job.status:
        case JobStatus.FAILED:
            message = job.error_message or "The job failed, and its worker could not say why."
            return {"code": job.error_code or "job_failed", "message": message}
        case JobStatus.CANCELLED:
            return {"code": "cancelled", "message": "Cancelled"}
        case _:
            return None


def to_deleted(job_id: int) -> dict[str, Any]:
    return {"id": to_video_id(job_id), "object": "video.deleted", "deleted": True}


def to_page(jobs: Sequence[Job], cursor: Cursor) -> dict[str, Any]:
    """`jobs` holds one more than was asked for, if there are more."""
    videos = [to_video(job) for job in jobs[: cursor.limit]]
    return {
        "object": "list",
        "data": videos,
        "first_id": videos[0]["id"] if videos else None,
        "last_id": videos[-1]["id"] if videos else None,
        "has_more": len(jobs) > cursor.limit,
    }


def to_model(card: ModelCard) -> dict[str, Any]:
    """`created` is when the model's folder was last changed."""
    return {
        "id": card.model_id,
        "object": "model",
        "created": int(card.path.stat().st_mtime),
        "owned_by": "promptreel",
        "name": card.name,
        "description": card.description,
        "max_frames": card.max_frames,
        "fps": card.fps,
    }


def to_error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The shape of every error under /v1/."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
