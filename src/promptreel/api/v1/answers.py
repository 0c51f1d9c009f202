"""The answers of OpenAI's `/v1/videos` and `/v1/models`: videos, lists, webhooks and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from promptreel.api.answer_model import Answer, Count, Number, Seconds, one_of
from promptreel.api.estimates import Outlook
from promptreel.api.v1.requests import DIALECT, Cursor, was_enhanced
from promptreel.errors import PromptreelError
from promptreel.importing.sources import read_remote_source
from promptreel.jobs.job import AnyJob, ImportJob, JobStage, JobStatus, VideoJob
from promptreel.jobs.params import MAX_SEED, OUTPUT_TYPES, SCHEDULERS, VideoParams
from promptreel.jobs.worker_records import Holders
from promptreel.media import MEDIA_TYPES, kind_of_init
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelCard

VideoId = Annotated[str, Field(pattern="^video_[0-9]+$")]
VideoStatus = Literal["queued", "in_progress", "completed", "failed"]
Unset = SkipJsonSchema[None]
"""A field with `| Unset` is left out when it has no value. It is never sent as null."""


class LoraOfVideo(Answer):
    """A LoRA, and how strongly it is applied."""

    model: str
    strength: Number


class VideoError(Answer):
    code: str
    message: str


class Video(Answer):
    id: VideoId
    object: Literal["video"]
    model: str
    status: VideoStatus
    progress: int = Field(ge=0, le=100)
    created_at: Count
    completed_at: Count | None
    expires_at: None = Field(description="Videos are kept until they are deleted.")
    prompt: str
    size: str = Field(pattern="^[0-9]+x[0-9]+$")
    seconds: str
    remixed_from_video_id: VideoId | None
    error: VideoError | None
    negative_prompt: str
    num_frames: Count
    fps: Count
    num_inference_steps: Count
    guidance_scale: Number
    scheduler: Annotated[str, one_of(SCHEDULERS)]
    strength: Number
    seed: int = Field(ge=0, le=MAX_SEED)
    clip_skip: Count
    motion_adapter: str | None = Field(description="The motion adapter's id; null if the model has one of its own.")
    loras: list[LoraOfVideo]
    embeddings: list[str] = Field(description="The embeddings' ids.")
    output_type: Annotated[str, one_of(OUTPUT_TYPES)]
    media_type: Annotated[str, one_of(MEDIA_TYPES.values())]
    enhance_prompt: bool
    input_reference: Literal["image", "video"] | None = Field(description="What the video starts from.")
    stage: Annotated[str, one_of(JobStage)] | None = None
    queue_position: Count | Unset = Field(default=None, description="1 is next. 0 means that the job has left the queue.")
    eta: Count | Unset = Field(default=None, description="Estimated seconds until the video is done.")
    tip: str | Unset = Field(default=None, description="Parts of the request that have no effect or were changed.")
    inference_time_s: Seconds | Unset = Field(
        default=None, description="The worker's time in seconds. Time is divided among jobs that run at once."
    )
    stage_durations: dict[Annotated[str, one_of(JobStage)], Seconds] | Unset = Field(
        default=None, description="inference_time_s, divided by stage."
    )
    peak_memory_mb: Number | Unset = Field(
        default=None, description="The worker's peak memory while it made the video. Includes other jobs that ran then."
    )


class VideoPage(Answer):
    object: Literal["list"]
    data: list[Video]
    first_id: VideoId | None
    last_id: VideoId | None
    has_more: bool


class DeletedVideo(Answer):
    id: VideoId
    object: Literal["video.deleted"]
    deleted: Literal[True]


class Model(Answer):
    id: str
    object: Literal["model"]
    created: Count = Field(description="When the model was imported, or its folder was last changed.")
    owned_by: str
    name: str
    description: str
    max_frames: Count
    fps: Count
    kind: Annotated[str, one_of(ModelKind)] = Field(description="Only a checkpoint can be the `model` of a video.")
    family: str
    base: str | None = Field(description="Which models fit together: a motion adapter fits a checkpoint of the same base.")
    motion_adapter: str | None
    vae: str | None
    trigger_words: list[str]
    default_negative_prompt: str
    licence: str | None
    source: str | None = Field(description="Where it was imported from; null for a folder.")
    size_bytes: Count | None
    sha256: str | None = Field(description="SHA-256 of the names and hashes of its files.")
    visibility: Literal["public", "private"]
    loaded_on: list[str] = Field(description="The devices of the workers that have it loaded, one for each worker.")


class Models(Answer):
    object: Literal["list"]
    data: list[Model]


class DeletedModel(Answer):
    id: str
    object: Literal["model"]
    deleted: Literal[True]


class ModelImport(Answer):
    id: Annotated[str, Field(pattern="^import_[0-9]+$")]
    object: Literal["model.import"]
    model: str = Field(description="The id that the model gets.")
    source: str
    status: VideoStatus
    progress: int = Field(ge=0, le=100)
    created_at: Count
    completed_at: Count | None
    error: VideoError | None


class ErrorDetails(Answer):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class OpenAIError(Answer):
    """Every error under /v1/."""

    error: ErrorDetails


_STATUSES: dict[JobStatus, VideoStatus] = {
    JobStatus.QUEUED: "queued",
    JobStatus.RUNNING: "in_progress",
    JobStatus.SUCCEEDED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "failed",
}


class ContentUnavailable(PromptreelError):
    """A video has no file: its job has not ended, or failed, or the file was deleted."""

    code = "content_unavailable"


def to_video_id(job_id: int) -> str:
    return f"video_{job_id}"


def to_video(job: VideoJob, outlook: Outlook | None = None) -> Video:
    """A job as its client sees it.

    `stage`, `eta` and `queue_position` are present only while the job is not done, and only if `outlook` is given. Lists have
    none of the three.
    """
    params = job.params
    remixed_from = job.request.get("remixed_from")
    has_tip = job.request.get("dialect") == DIALECT and "tip" in job.request
    optional: dict[str, Any] = {"tip": job.request["tip"]} if has_tip else {}
    if outlook is not None and not job.is_final:
        optional |= {"stage": job.stage, **to_outlook(outlook)}
    return Video(
        id=to_video_id(job.id),
        object="video",
        model=params.model_id,
        status=to_status(job),
        progress=to_progress(job),
        created_at=int(job.created_at.timestamp()),
        completed_at=int(job.finished_at.timestamp()) if job.finished_at else None,
        expires_at=None,
        prompt=params.prompt,
        size=f"{params.width}x{params.height}",
        seconds=f"{params.num_frames / params.fps:g}",
        remixed_from_video_id=None if remixed_from is None else to_video_id(remixed_from),
        error=to_job_error(job),
        **to_extensions(params),
        enhance_prompt=was_enhanced(job),
        input_reference=None if params.init_key is None else kind_of_init(params.init_key),
        **optional,
        **_to_measurements(job),
    )


def to_webhook(job: VideoJob, delivery_id: str) -> dict[str, Any]:
    """The event that tells a webhook of a job's end, in the shape of OpenAI's events. `data` is the whole video."""
    succeeded = job.status is JobStatus.SUCCEEDED
    return to_event(job, delivery_id, "video.completed" if succeeded else "video.failed", to_video(job))


def to_outlook(outlook: Outlook) -> dict[str, int]:
    return {"queue_position": outlook.queue_position, "eta": outlook.eta}


def to_status(job: AnyJob) -> VideoStatus:
    return _STATUSES[job.status]


def to_progress(job: AnyJob) -> int:
    """Percent. Only what has succeeded has 100."""
    return 100 if job.status is JobStatus.SUCCEEDED else min(99, int(job.progress * 100))


def to_extensions(params: VideoParams) -> dict[str, Any]:
    """The fields that OpenAI's answer lacks, under the names of our request fields. Also the file's media type."""
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
        "motion_adapter": params.motion_adapter,
        "loras": [LoraOfVideo(model=lora.model_id, strength=lora.strength) for lora in params.loras],
        "embeddings": list(params.embeddings),
        "output_type": params.output_type,
        "media_type": MEDIA_TYPES[params.output_type],
    }


def _to_measurements(job: VideoJob) -> dict[str, Any]:
    """What the worker measured, if it has finished the job."""
    facts = job.result.facts if job.result else {}
    fields = {"busy_seconds": "inference_time_s", "stages": "stage_durations", "peak_memory_mb": "peak_memory_mb"}
    return {field: facts[name] for name, field in fields.items() if name in facts}


def to_job_error(job: AnyJob) -> VideoError | None:
    match job.status:
        case JobStatus.FAILED:
            message = job.error_message or "The job failed, and its worker could not say why."
            return VideoError(code=job.error_code or "job_failed", message=message)
        case JobStatus.CANCELLED:
            return VideoError(code="cancelled", message="Cancelled")
        case _:
            return None


def to_deleted(job_id: int) -> DeletedVideo:
    return DeletedVideo(id=to_video_id(job_id), object="video.deleted", deleted=True)


def to_page(jobs: Sequence[VideoJob], cursor: Cursor) -> VideoPage:
    """A page of the list. If there is another page, `jobs` has one job more than `cursor.limit`."""
    videos = [to_video(job) for job in jobs[: cursor.limit]]
    return VideoPage(
        object="list",
        data=videos,
        first_id=videos[0].id if videos else None,
        last_id=videos[-1].id if videos else None,
        has_more=len(jobs) > cursor.limit,
    )


def to_model(card: ModelCard, holders: Holders) -> Model:
    """`holders`: the workers that have each model loaded."""
    record = card.record
    return Model(
        id=card.model_id,
        object="model",
        created=int(card.created_at.timestamp()),
        owned_by="promptreel",
        name=card.name,
        description=card.description,
        max_frames=card.max_frames,
        fps=card.fps,
        kind=card.kind.value,
        family=card.family,
        base=card.base,
        motion_adapter=card.motion_adapter,
        vae=card.vae,
        trigger_words=list(card.trigger_words),
        default_negative_prompt=card.default_negative_prompt,
        licence=card.licence,
        source=record.source if record else None,
        size_bytes=record.size_bytes if record else None,
        sha256=record.hash if record else None,
        visibility="public" if card.is_public else "private",
        loaded_on=[worker.device for worker in holders.get(card.model_id, ())],
    )


def to_import(job: ImportJob) -> ModelImport:
    source = read_remote_source(job.params.source)
    return ModelImport(
        id=f"import_{job.id}",
        object="model.import",
        model=job.params.model_id,
        source=str(source),
        status=to_status(job),
        progress=to_progress(job),
        created_at=int(job.created_at.timestamp()),
        completed_at=int(job.finished_at.timestamp()) if job.finished_at else None,
        error=to_job_error(job),
    )


def to_import_webhook(job: ImportJob, delivery_id: str) -> dict[str, Any]:
    """The webhook's event for an import that has ended, in the shape of OpenAI's events. `data` is the whole import."""
    succeeded = job.status is JobStatus.SUCCEEDED
    return to_event(job, delivery_id, "model.imported" if succeeded else "model.import_failed", to_import(job))


def to_event(job: AnyJob, delivery_id: str, kind: str, data: Answer) -> dict[str, Any]:
    return {
        "id": f"evt_{delivery_id.removeprefix('msg_')}",
        "object": "event",
        "created_at": int((job.finished_at or job.created_at).timestamp()),
        "type": kind,
        "data": data.to_json(),
    }


def to_models(cards: Sequence[ModelCard], holders: Holders) -> Models:
    return Models(object="list", data=[to_model(card, holders) for card in cards])


def to_error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> OpenAIError:
    error = ErrorDetails(
        message=message, type="invalid_request_error" if status < 500 else "server_error", param=param, code=code
    )
    return OpenAIError(error=error)
