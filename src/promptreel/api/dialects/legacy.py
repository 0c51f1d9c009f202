"""The spelling of the hosted service's v3 and v4: a request into a NewJob, a job into an answer."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from promptreel.api.inits import read_init
from promptreel.api.parsing import FieldReader, Limits, count_frames, is_url
from promptreel.errors import ModelNotFound
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.job import Job, JobStatus, NewJob
from promptreel.jobs.links import Links
from promptreel.jobs.params import (
    DEFAULT_OUTPUT_TYPE,
    DEFAULT_SCHEDULER,
    MAX_FRAMES,
    MAX_SEED,
    OUTPUT_TYPES,
    SCHEDULERS,
    VideoParams,
)
from promptreel.media import Init, kind_of_init
from promptreel.models.prompts import enhance_prompt, find_unknown_words
from promptreel.models.registry import DEFAULT_MODEL_ID, ModelCard, ModelRegistry

MAX_TEXT = 2000
SIZE = Limits(64, 1024)
STEPS = Limits(1, 50)
GUIDANCE = Limits(1, 20)
STRENGTH = Limits(0, 1)
SEED = Limits(0, MAX_SEED)
SECONDS = Limits(1, 30)
FPS = Limits(1, 30)
FRAMES = Limits(1, MAX_FRAMES)
SAMPLES = Limits(1, 4)
# The text encoder of Stable Diffusion 1.5 has twelve layers; a model with fewer says so when the job runs.
CLIP_SKIP = Limits(0, 12)

FIELDS_NOT_YET = ("lora_model",)
SWITCHES_NOT_YET = ("safety_checker", "multi_lingual")

TIP = "for faster speed, keep resolution upto 512x512"
WAIT = "Try to fetch request after given estimated time"
NO_WEBHOOKS = "Webhooks are not delivered yet: leave webhook out and poll fetch_result."


def read_text2video(fields: Mapping[str, Any], models: ModelRegistry, fetcher: SafeFetcher) -> tuple[NewJob, Init | None]:
    """What a v4 text2video request asks for, with every default decided, and the file that it names but that is not stored yet.

    Raises InvalidParams with all wrong fields, and ModelNotFound.
    """
    reader = FieldReader(fields)
    reader.text("key", maximum=MAX_TEXT)  # where no key is needed, any will do, but it must be one
    draft = _read_params(reader)
    negative_prompt = reader.text("negative_prompt", maximum=MAX_TEXT)
    seconds = reader.whole("seconds", SECONDS, default=5)
    num_frames = reader.whole("num_frames", FRAMES, default=None) or count_frames(reader, seconds, draft.fps)
    enhance = reader.yes_no("enhance_prompt", default=True)
    track_id = reader.scalar("track_id", maximum=MAX_TEXT)
    _refuse_webhook(reader)
    left_out = _read_unavailable(reader)
    init = read_init(reader, fetcher)
    card = _find_model(reader, draft.model_id, models)
    reader.raise_errors()

    request = {
        "dialect": "legacy",
        "enhance_prompt": "yes" if enhance else "no",
        "tip": _advise(draft.prompt, card, left_out),
        "native_size": [card.native_width, card.native_height] if card.native_width else None,
    }
    if negative_prompt is None:
        negative_prompt = card.default_negative_prompt
    prompt = enhance_prompt(draft.prompt, card) if enhance else draft.prompt
    params = replace(
        draft,
        prompt=prompt,
        num_frames=num_frames,
        negative_prompt=negative_prompt,
        init_key=init.key if init else None,
    )
    return NewJob(params=params, request=request, max_frames=card.max_frames, track_id=track_id), init


def _read_params(reader: FieldReader) -> VideoParams:
    """All params but those that the model has a say in: its length and its prompts. The prompt is the user's own."""
    width = reader.whole("width", SIZE, default=512)
    height = reader.whole("height", SIZE, default=512)
    seed = reader.whole("seed", SEED, default=None)
    return VideoParams(
        model_id=reader.text("model_id", maximum=255) or DEFAULT_MODEL_ID,
        prompt=reader.required_text("prompt", maximum=MAX_TEXT),
        width=width - width % 8,
        height=height - height % 8,
        fps=reader.whole("fps", FPS, default=8),
        scheduler=reader.choice("scheduler", SCHEDULERS, default=DEFAULT_SCHEDULER),
        num_inference_steps=reader.whole("num_inference_steps", STEPS, default=20),
        guidance_scale=reader.number("guidance_scale", GUIDANCE, default=7.5),
        strength=reader.number("strength", STRENGTH, default=0.55),
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        clip_skip=reader.whole("clip_skip", CLIP_SKIP, default=0),
        output_type=reader.choice("output_type", OUTPUT_TYPES, default=DEFAULT_OUTPUT_TYPE),
    )


def _refuse_webhook(reader: FieldReader) -> None:
    webhook = reader.given("webhook")
    if webhook is not None:
        reader.reject("webhook", NO_WEBHOOKS if is_url(webhook) else "The webhook must be a valid URL.")


def _read_unavailable(reader: FieldReader) -> list[str]:
    """Refuses fields without which the video would be another one; names those that are left out of the work."""
    for name in FIELDS_NOT_YET:
        if reader.given(name) is not None:
            reader.reject(name, f"The {name.replace('_', ' ')} is not available yet: leave it out.")
    reader.yes_no("temp", default=False)
    left_out = [name for name in SWITCHES_NOT_YET if reader.yes_no(name, default=False)]
    return [*left_out, "samples"] if reader.whole("samples", SAMPLES, default=1) > 1 else left_out


def _find_model(reader: FieldReader, model_id: str, models: ModelRegistry) -> ModelCard:
    try:
        return models.get(model_id)
    except ModelNotFound:
        reader.raise_errors()  # the fields come first, as they did at the hosted service
        raise


def _advise(prompt: str, card: ModelCard, left_out: list[str]) -> str:
    """The documented tip, unless there is something better to say."""
    advice = []
    unknown = find_unknown_words(prompt, card.words)
    if unknown:
        advice.append(
            f'the model "{card.model_id}" does not know: {_name_some(unknown)}; '
            f"it knows {len(card.words)} words, of things such as {', '.join(_pick_examples(card.words))}"
        )
    if left_out:
        advice.append(f"not available yet and left out: {', '.join(left_out)}")
    return ". ".join(advice) or TIP


def _name_some(words: list[str]) -> str:
    shown = ", ".join(word[:40] for word in words[:8])
    return shown if len(words) <= 8 else f"{shown} and {len(words) - 8} more"


def _pick_examples(words: frozenset[str]) -> list[str]:
    """Eight words from all over the alphabet; the short ones are rarely things."""
    long = sorted(word for word in words if len(word) > 2) or sorted(words)
    return long[:: max(1, len(long) // 8)][:8]


def parse_job_id(text: object) -> int | None:
    """The id of a job as sent in a path or a body; None if no job can have it."""
    digits = str(text).strip() if isinstance(text, str | int) and not isinstance(text, bool) else ""
    return int(digits) if re.fullmatch(r"[0-9]{1,18}", digits, re.ASCII) else None


def to_answer(job: Job, *, links: Links, eta: int) -> dict[str, Any]:
    """What a client is told of a job. `eta` is in whole seconds, and said only while the job is not done."""
    match job.status:
        case JobStatus.SUCCEEDED:
            return _to_success(job, links)
        case JobStatus.FAILED:
            return _to_failure(job, job.error_message or "The job failed, and its worker could not say why.")
        case JobStatus.CANCELLED:
            return _to_failure(job, "Cancelled")
        case _:
            return _to_processing(job, links, eta)


def _to_processing(job: Job, links: Links, eta: int) -> dict[str, Any]:
    return {
        "status": "processing",
        "tip": job.request.get("tip", TIP),
        "eta": eta,
        "messege": WAIT,
        "message": WAIT,
        "fetch_result": f"{links.base_url}/api/v3/dreambooth/fetch/{job.id}",
        "id": job.id,
        "output": [],
        "future_links": [links.video(job)],
        "preview": links.preview(job),
        "meta": _to_meta(job),
        **tell_expiry(links),
    }


def _to_success(job: Job, links: Links) -> dict[str, Any]:
    url = links.video(job)
    spent = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else 0.0
    return {
        "status": "success",
        "id": job.id,
        "output": [url],
        "proxy_links": [url],
        "generationTime": round(max(0.0, spent), 2),
        "meta": _to_meta(job),
        **tell_expiry(links),
    }


def _to_failure(job: Job, why: str) -> dict[str, Any]:
    return {"status": "failed", "id": job.id, "message": why, "messege": why, "output": []}


def tell_expiry(links: Links) -> dict[str, str]:
    """Until when the links of an answer work, if they are set to expire."""
    return {} if links.expire_at is None else {"links_expire_at": links.expire_at.isoformat()}


def _to_meta(job: Job) -> dict[str, Any]:
    """What was done, in the documented words, with `fps`, `clip_skip`, `enhance_prompt` and the native size added.

    An init is told as "yes", for its data may be megabytes.
    """
    params = job.params
    seconds = params.num_frames / params.fps
    meta = {
        "prompt": params.prompt,
        "model_id": params.model_id,
        "scheduler": params.scheduler,
        "safetychecker": "no",
        "negative_prompt": params.negative_prompt,
        "W": params.width,
        "H": params.height,
        "guidance_scale": params.guidance_scale,
        "steps": params.num_inference_steps,
        "strength": params.strength,
        "full_url": "no",
        "seconds": int(seconds) if seconds.is_integer() else round(seconds, 2),
        "multi_lingual": "no",
        "seed": params.seed,
        "outdir": "out",
        "file_prefix": job.file_prefix,
        "num_frames": params.num_frames,
        "fps": params.fps,
        "clip_skip": params.clip_skip,
        "enhance_prompt": job.request.get("enhance_prompt", "no"),
    }
    if params.init_key is not None:
        meta[f"init_{kind_of_init(params.init_key)}"] = "yes"
    native = job.request.get("native_size")
    return meta | {"native_W": native[0], "native_H": native[1]} if native else meta
