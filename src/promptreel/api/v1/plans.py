"""What a request for a video would make, before it is sent: the endpoint `/v1/videos/plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from fastapi.responses import JSONResponse
from pydantic import Field

from promptreel.api.answer_model import Answer, Count, Number, one_of
from promptreel.api.bodies import Fields
from promptreel.api.dependencies import ServicesOfApp
from promptreel.api.estimates import Outlook, look_ahead_of_new
from promptreel.api.v1.answers import LoraOfVideo, Unset, to_extensions, to_outlook
from promptreel.api.v1.requests import read_create
from promptreel.errors import InvalidParams, PromptreelError
from promptreel.jobs.job import NewJob
from promptreel.jobs.params import OUTPUT_TYPES, SCHEDULERS, VideoParams
from promptreel.media import MEDIA_TYPES


class Refusal(Answer):
    """Why the request would be refused: the error that it would get."""

    code: str
    message: str
    param: str | None


class VideoPlan(Answer):
    """The video that the request would make; with `error`, only why it would make none."""

    object: Literal["video.plan"]
    error: Refusal | None
    model: str | Unset = None
    prompt: str | Unset = Field(default=None, description="The prompt as the model gets it, with what enhance_prompt adds.")
    negative_prompt: str | Unset = None
    size: str | Unset = None
    made_at: str | Unset = Field(default=None, description="The size at which the model makes it, if that is another one.")
    seconds: str | Unset = None
    num_frames: Count | Unset = None
    fps: Count | Unset = None
    num_inference_steps: Count | Unset = None
    guidance_scale: Number | Unset = None
    scheduler: Annotated[str, one_of(SCHEDULERS)] | Unset = None
    strength: Number | Unset = None
    clip_skip: Count | Unset = None
    motion_adapter: str | None = None
    loras: list[LoraOfVideo] | Unset = None
    embeddings: list[str] | Unset = None
    output_type: Annotated[str, one_of(OUTPUT_TYPES)] | Unset = None
    media_type: Annotated[str, one_of(MEDIA_TYPES.values())] | Unset = None
    queue_position: Count | Unset = None
    eta: Count | Unset = Field(default=None, description="Estimated seconds until the video would be done.")
    tip: str | Unset = Field(default=None, description="As in the video.")


def plan_video(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """What POST /v1/videos would make of these fields, and when. Nothing is queued. Leaves input_reference out."""
    told = {name: value for name, value in fields.items() if not name.startswith("input_reference")}
    try:
        services.jobs.find_first()  # raises if the caller may queue no more
        new, _ = read_create(told, services.models, services.fetcher, services.decoder)
    except PromptreelError as error:
        return JSONResponse(_to_refusal(error).to_json())
    params = cast("VideoParams", new.params)
    return JSONResponse(_to_plan(new, params, look_ahead_of_new(services, new, params)).to_json())


def _to_refusal(error: PromptreelError) -> VideoPlan:
    fields: Mapping[str, Any] = error.fields if isinstance(error, InvalidParams) else {}
    refusal = Refusal(code=error.code, message=error.message, param=next(iter(fields), None))
    return VideoPlan(object="video.plan", error=refusal)


def _to_plan(new: NewJob, params: VideoParams, outlook: Outlook) -> VideoPlan:
    size, native = (params.width, params.height), new.request.get("native_size")
    optional: dict[str, Any] = dict(to_outlook(outlook))
    if "tip" in new.request:
        optional["tip"] = new.request["tip"]
    if native is not None and tuple(native) != size:
        optional["made_at"] = f"{native[0]}x{native[1]}"
    told = {name: value for name, value in to_extensions(params).items() if name != "seed"}
    return VideoPlan(
        object="video.plan",
        error=None,
        model=params.model_id,
        prompt=params.prompt,
        size=f"{size[0]}x{size[1]}",
        seconds=f"{params.num_frames / params.fps:g}",
        **told,
        **optional,
    )
