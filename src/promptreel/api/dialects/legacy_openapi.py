"""How /docs describes the v3 and v4 endpoints. Parsing is more lenient than this; a test compares both."""

from __future__ import annotations

from typing import Any

from promptreel.api import inits
from promptreel.api.dialects import legacy
from promptreel.api.parsing import Limits
from promptreel.jobs.params import DEFAULT_OUTPUT_TYPE, DEFAULT_SCHEDULER, MAX_FRAMES, OUTPUT_TYPES, SCHEDULERS
from promptreel.media import INIT_TYPES, PREVIEW_MEDIA_TYPE
from promptreel.models.registry import DEFAULT_MODEL_ID

DOCUMENTED_EXAMPLE = {
    "key": "",
    "model_id": DEFAULT_MODEL_ID,
    "prompt": "a red cat sitting on a bench",
    "negative_prompt": None,
    "height": "512",
    "width": "512",
    "num_frames": None,
    "num_inference_steps": "20",
    "guidance_scale": 7.5,
    "scheduler": DEFAULT_SCHEDULER,
    "enhance_prompt": "no",
    "seed": None,
    "webhook": None,
    "track_id": None,
}


def _field(kind: str | list[str], description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


def _number(limits: Limits, description: str, *, default: float | None, kind: str = "integer") -> dict[str, Any]:
    return {
        "type": [kind, "string", "null"],
        "minimum": limits.minimum,
        "maximum": limits.maximum,
        "default": default,
        "description": description,
    }


def _switch(description: str, *, default: str) -> dict[str, Any]:
    return {"type": ["string", "boolean", "null"], "enum": ["yes", "no", True, False, None], "default": default} | {
        "description": description
    }


def _init(name: str, description: str) -> dict[str, Any]:
    kind = inits.FIELDS[name]
    types = ", ".join(INIT_TYPES[kind].values())
    return _field(_TEXT, f"{description} {types}; {inits.MAX_MEGABYTES[kind]} MB at most.", default=None)


_TEXT = ["string", "null"]
_NOT_YET = "Not available yet: leave it out."

TEXT2VIDEO_FIELDS: dict[str, dict[str, Any]] = {
    "key": _field(_TEXT, "API key, if the service has any: also taken as a header `key` or as a Bearer token.", default=None),
    "model_id": _field(_TEXT, "The model that makes the video.", default=DEFAULT_MODEL_ID, example=DEFAULT_MODEL_ID),
    "prompt": _field(
        "string", "What the video shows.", minLength=1, maxLength=legacy.MAX_TEXT, example="a red cat sitting on a bench"
    ),
    "negative_prompt": _field(_TEXT, "What it should not show. null: the model's own default.", maxLength=legacy.MAX_TEXT),
    "width": _number(legacy.SIZE, "Pixels, rounded down to a multiple of 8.", default=512),
    "height": _number(legacy.SIZE, "Pixels, rounded down to a multiple of 8.", default=512),
    "scheduler": _field(_TEXT, "The noise scheduler.", enum=[*SCHEDULERS, None], default=DEFAULT_SCHEDULER),
    "num_inference_steps": _number(legacy.STEPS, "Denoising steps: more are slower and finer.", default=20),
    "enhance_prompt": _switch("Adds the model's own phrases to the prompt; meta shows the result.", default="yes"),
    "guidance_scale": _number(legacy.GUIDANCE, "How closely the video follows the prompt.", default=7.5, kind="number"),
    "strength": _number(
        legacy.STRENGTH, "With init_image or init_video: how much may change; 1 is all.", default=0.55, kind="number"
    ),
    "seed": _number(legacy.SEED, "The same seed gives the same video. null: one is drawn; meta tells which.", default=None),
    "webhook": _field(_TEXT, "Not delivered yet: leave it out and poll fetch_result.", default=None),
    "track_id": _field(["string", "number", "boolean", "null"], "Your own name for the job.", default=None),
    "seconds": _number(legacy.SECONDS, f"Length; at most {MAX_FRAMES} frames in all.", default=5),
    "fps": _number(legacy.FPS, "Frames a second.", default=8),
    "num_frames": _number(legacy.FRAMES, "Length in frames; goes before seconds. null: seconds x fps.", default=None),
    "clip_skip": _number(legacy.CLIP_SKIP, "Last layers of the text encoder that are left out.", default=0),
    "output_type": _field(_TEXT, "The kind of file.", enum=[*OUTPUT_TYPES, None], default=DEFAULT_OUTPUT_TYPE),
    "init_image": _init("init_image", "A picture to start from: a URL or a data: URI."),
    "init_video": _init("init_video", "The same as a video. A longer one is cut, a shorter one holds its last frame."),
    "samples": _number(legacy.SAMPLES, "One video is made, however many are asked for.", default=1),
    "safety_checker": _switch("There is none yet: yes is left out, and tip says so.", default="no"),
    "multi_lingual": _switch("Prompts are not translated yet: yes is left out, and tip says so.", default="no"),
    "temp": _switch("Makes no difference: files are kept.", default="no"),
} | {name: _field(["string", "integer", "null"], _NOT_YET, default=None) for name in legacy.FIELDS_NOT_YET}


def _body(properties: dict[str, dict[str, Any]], required: list[str], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    content = {
        "application/json": {"schema": schema, "example": example},
        "application/x-www-form-urlencoded": {"schema": schema},
    }
    return {"requestBody": {"required": bool(required), "content": content}}


_KEY = {"key": TEXT2VIDEO_FIELDS["key"]}
_REQUEST_ID = _field(["string", "integer"], "The job's id.", example="1")

TEXT2VIDEO = _body(TEXT2VIDEO_FIELDS, ["prompt"], DOCUMENTED_EXAMPLE)
FETCH = _body(_KEY, [], {"key": ""})
FETCH_BY_FIELD = _body({**_KEY, "request_id": _REQUEST_ID}, ["request_id"], {"key": "", "request_id": "1"})
FETCH_BY_QUERY = {
    "parameters": [{"name": "request_id", "in": "query", "required": True, "schema": {"type": "string"}, "example": "1"}]
}
PREVIEW_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "An animated picture; never to be cached.", "content": {PREVIEW_MEDIA_TYPE: {}}},
    404: {"description": "There is none now: the job waits, has just begun, or has ended."},
}
