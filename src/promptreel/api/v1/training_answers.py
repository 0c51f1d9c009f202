"""The answers of `/v1/trainings`: trainings, their lists and their webhooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from promptreel.api.answer_model import Answer, Count, Number, Seconds, one_of
from promptreel.api.estimates import Outlook
from promptreel.api.v1.answers import Unset, VideoError, VideoStatus, to_event, to_job_error, to_outlook, to_progress, to_status
from promptreel.api.v1.requests import Cursor
from promptreel.jobs.job import JobStage, JobStatus, TrainingJob
from promptreel.jobs.params import MAX_SEED
from promptreel.jobs.training_params import ExampleKind
from promptreel.training.plan import LORA_TYPES
from promptreel.training.presets import PRESETS

TrainingId = Annotated[str, Field(pattern="^training_[0-9]+$")]


class TrainingSample(Answer):
    """A clip made with the model as it was then. Its file: /v1/trainings/{training_id}/samples/{number}."""

    number: Count
    step: Count
    prompt: str


class Validation(Answer):
    """The loss on examples that are not learned from, at noise that stays the same."""

    step: Count
    loss: Number
    ratio: Number = Field(description="To the loss before the first step. If it rises, the model learns its examples by heart.")


class Training(Answer):
    id: TrainingId
    object: Literal["training"]
    model: str = Field(description="The id of the model that is made.")
    base: str
    preset: Annotated[str, one_of(PRESETS)]
    status: VideoStatus
    progress: int = Field(ge=0, le=100)
    step: Count
    steps: Count
    loss: Number | None
    seconds_per_step: Seconds | None
    created_at: Count
    completed_at: Count | None
    error: VideoError | None
    instance_prompt: str
    trigger: str | None
    class_prompt: str | None
    motion_adapter: str | None
    examples: Count
    example_kind: Annotated[str, one_of(ExampleKind)] | None
    lora_type: Annotated[str, one_of(LORA_TYPES)]
    rank: Count
    batch_size: Count
    learning_rate: Number
    size: str = Field(pattern="^[0-9]+x[0-9]+$")
    num_frames: Count
    fps: Count
    seed: int = Field(ge=0, le=MAX_SEED)
    sample_prompts: list[str]
    visibility: Literal["public", "private"]
    samples: list[TrainingSample]
    validation: list[Validation]
    log: list[str]
    stage: Annotated[str, one_of(JobStage)] | None = None
    queue_position: Count | Unset = Field(default=None, description="1 is next. 0 means that the training has begun.")
    eta: Count | Unset = Field(default=None, description="Estimated seconds until the model is there.")
    tip: str | Unset = Field(default=None, description="What was changed of the request.")


class TrainingPage(Answer):
    object: Literal["list"]
    data: list[Training]
    first_id: TrainingId | None
    last_id: TrainingId | None
    has_more: bool


class DeletedTraining(Answer):
    id: TrainingId
    object: Literal["training.deleted"]
    deleted: Literal[True]


def to_training_id(job_id: int) -> str:
    return f"training_{job_id}"


def to_training(job: TrainingJob, outlook: Outlook | None = None) -> Training:
    """A training as its client sees it. `stage`, `eta` and `queue_position` are there only while it is not done."""
    params, notes = job.params, job.request.get("notes") or ()
    optional: dict[str, Any] = {"tip": ". ".join(notes)} if notes else {}
    if outlook is not None and not job.is_final:
        optional |= {"stage": job.stage, **to_outlook(outlook)}
    return Training(
        id=to_training_id(job.id),
        object="training",
        model=params.model_id,
        base=params.base,
        preset=params.preset,
        status=to_status(job),
        progress=to_progress(job),
        **to_numbers(job),
        created_at=int(job.created_at.timestamp()),
        completed_at=int(job.finished_at.timestamp()) if job.finished_at else None,
        error=to_job_error(job),
        instance_prompt=params.instance_prompt,
        trigger=params.trigger,
        class_prompt=params.class_prompt,
        motion_adapter=params.motion_adapter,
        examples=len(params.examples),
        example_kind=params.examples[0].kind if params.examples else None,
        lora_type=params.lora_type,
        rank=params.rank,
        batch_size=params.batch_size,
        learning_rate=params.learning_rate,
        size=f"{params.width}x{params.height}",
        num_frames=params.num_frames,
        fps=params.fps,
        seed=params.seed,
        sample_prompts=list(params.sample_prompts),
        visibility="public" if params.is_public else "private",
        samples=[to_sample(number, told) for number, told in enumerate(samples_of(job))],
        validation=[Validation(**told) for told in (job.report or {}).get("validation", ())],
        log=list((job.report or {}).get("log", ())),
        **optional,
    )


def to_numbers(job: TrainingJob) -> dict[str, Any]:
    """How far it is."""
    report = job.report or {}
    return {
        "step": report.get("step") or 0,
        "steps": job.params.steps,
        "loss": report.get("loss"),
        "seconds_per_step": report.get("seconds_per_step"),
    }


def samples_of(job: TrainingJob) -> Sequence[Mapping[str, Any]]:
    """The clips that the training has made so far, oldest first."""
    samples: Sequence[Mapping[str, Any]] = (job.report or {}).get("samples", ())
    return samples


def to_sample(number: int, told: Mapping[str, Any]) -> TrainingSample:
    return TrainingSample(number=number, step=told["step"], prompt=told["prompt"])


def to_training_page(jobs: Sequence[TrainingJob], cursor: Cursor) -> TrainingPage:
    """As for videos."""
    trainings = [to_training(job) for job in jobs[: cursor.limit]]
    return TrainingPage(
        object="list",
        data=trainings,
        first_id=trainings[0].id if trainings else None,
        last_id=trainings[-1].id if trainings else None,
        has_more=len(jobs) > cursor.limit,
    )


def to_deleted_training(job_id: int) -> DeletedTraining:
    return DeletedTraining(id=to_training_id(job_id), object="training.deleted", deleted=True)


def to_training_webhook(job: TrainingJob, delivery_id: str) -> dict[str, Any]:
    """The event that tells a webhook of a training's end. `data` is the whole training."""
    succeeded = job.status is JobStatus.SUCCEEDED
    return to_event(job, delivery_id, "training.completed" if succeeded else "training.failed", to_training(job))
