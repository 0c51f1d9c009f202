"""What /openapi.json says of the hosted API's requests, and of the files and previews it sends.

The parser accepts more spellings than described here. Tests send the described examples, choices, ranges and defaults.
"""

from __future__ import annotations

from typing import Any

from promptreel.api.add_on_fields import HOSTED_EMBEDDINGS, HOSTED_LORAS, STRENGTH
from promptreel.api.field_reader import Limits
from promptreel.api.init_fields import FIELDS, MAX_MEGABYTES
from promptreel.api.legacy.dialect import Dialect
from promptreel.api.legacy.requests import MAX_TEXT, SAMPLES, SEED
from promptreel.api.legacy.size import RESOLUTION
from promptreel.encoding.inits import readable_types
from promptreel.jobs.params import DEFAULT_OUTPUT_TYPE, DEFAULT_SCHEDULER, OUTPUT_TYPES, SCHEDULERS
from promptreel.media import MEDIA_TYPES, PREVIEW_MEDIA_TYPE
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

# A red square of 8x8 pixels.
EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAA"
    "FElEQVR4nGO8o6HBgA0wYRUdtBIA78QBPFxuqR4AAAAASUVORK5CYII="
)
# Two frames of 8x8 pixels, a red and a blue one.
EXAMPLE_VIDEO = (
    "data:image/gif;base64,"
    "R0lGODlhCAAIAIEAAMgoKAAAAAAAAAAAACH/C05FVFNDQVBFMi4wAwEAAAAh+QQADAAAACwAAAAACAAIAAAIDwABCBxIsKDBgwgTKkwYEAAh+Q"
    "QBDAABACwAAAAACAAIAIEoKMgAAAAAAAAAAAAIDwABCBxIsKDBgwgTKkwYEAA7"
)
_EXAMPLE_OF_V5 = {
    "key": "",
    "prompt": "a green car moving to the right, in the city",
    "negative_prompt": "low quality",
    "scheduler": DEFAULT_SCHEDULER,
    "seconds": 3,
}
_EXAMPLE_OF_V6 = {
    "key": "",
    "model_id": DEFAULT_MODEL_ID,
    "prompt": "a red cat sitting on a bench",
    "negative_prompt": "low quality",
    "height": 512,
    "width": 512,
    "num_frames": 16,
    "num_inference_steps": 20,
    "guidance_scale": 7,
    "output_type": "gif",
    "webhook": None,
    "track_id": None,
}
_EXAMPLE_OF_V7 = {"key": "", "prompt": "a red cat sitting on a bench"}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "v5": _EXAMPLE_OF_V5,
    "v6": _EXAMPLE_OF_V6,
    "enterprise_video": _EXAMPLE_OF_V6,
    "v7": _EXAMPLE_OF_V7,
}
# These come first, in the order of the hosted service's documentation.
_MAIN_FIELDS = (
    "key", "model_id", "prompt", "negative_prompt", "width", "height", "scheduler", "num_inference_steps", "enhance_prompt",
    "guidance_scale", "strength", "seed", "webhook", "track_id",
)  # fmt: skip


def _field(kind: str | list[str], description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


def _number(limits: Limits, description: str, *, default: float | None, kind: str = "integer") -> dict[str, Any]:
    if limits.unset is not None:
        description = f"{description} {limits.unset} means the same as null."
    if limits.clamps:
        description = f"{description} Numbers outside {limits.minimum} to {limits.maximum} become the nearer of the two."
        return _field([kind, "string", "null"], description, pattern=limits.pattern, default=default)
    return {
        "type": [kind, "string", "null"],
        "pattern": limits.pattern,
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
    kind = FIELDS[name]
    types = ", ".join(readable_types(kind).values())
    pattern = "^(https?://|data:image/)" if kind == "image" else "^(https?://|data:(video/|image/gif))"
    return _field(_TEXT, f"{description} {types}; {MAX_MEGABYTES[kind]} MB at most.", pattern=pattern, default=None)


_TEXT = ["string", "null"]
_KEY = {
    "key": _field(_TEXT, "The API key, if the service has keys. A header `key` or a Bearer token works, too.", default=None)
}


def describe_create(dialect: Dialect) -> dict[str, Any]:
    """The request body of an endpoint that creates a job in this dialect."""
    required: list[str] = [dialect.needs_init or "prompt"]
    fields = _create_fields(dialect)
    return _body({name: fields[name] for name in _MAIN_FIELDS} | fields, required, _example(dialect))


def _create_fields(dialect: Dialect) -> dict[str, dict[str, Any]]:
    unknown = " An unknown id is replaced by the default." if dialect.replaces_unknown_model else ""
    return {
        **_KEY,
        "model_id": _field(_TEXT, f"The id of the model.{unknown}", default=DEFAULT_MODEL_ID, example=DEFAULT_MODEL_ID),
        **(_PROMPTS if dialect.needs_init is None else _PROMPTS | {"prompt": _PROMPT_OF_INIT}),
        **_numbers(dialect),
        "scheduler": _field(_TEXT, "The noise scheduler.", enum=[*SCHEDULERS, None], default=DEFAULT_SCHEDULER),
        "enhance_prompt": _switch(
            "Adds the model's own phrases to the prompt. meta shows the result.",
            default="yes" if dialect.defaults.enhance_prompt else "no",
        ),
        **_OTHERS,
        **{name: _switch(_SWITCHES[name], default="no") for name in dialect.switches},
        **{name: _field(["string", "number", "null"], "Ignored. Then tip says so.", default=None) for name in dialect.left_out},
    }


def _numbers(dialect: Dialect) -> dict[str, dict[str, Any]]:
    ranges, defaults = dialect.ranges, dialect.defaults
    length = "Length in frames."
    seconds: dict[str, dict[str, Any]] = {}
    if defaults.num_frames is None:
        length = "Length in frames. Overrides seconds. null: seconds x fps."
        most = f"Length in seconds. The video has at most {ranges.num_frames.maximum} frames."
        seconds = {"seconds": _number(ranges.seconds, most, default=defaults.seconds)}
    return {
        **(_RESOLUTION if dialect.has_resolution else {}),
        "width": _number(ranges.size, "Pixels, rounded down to a multiple of 8.", default=defaults.width),
        "height": _number(ranges.size, "Pixels, rounded down to a multiple of 8.", default=defaults.height),
        **seconds,
        "num_frames": _number(ranges.num_frames, length, default=defaults.num_frames),
        "fps": _number(ranges.fps, "Frames per second.", default=defaults.fps),
        "num_inference_steps": _number(
            ranges.num_inference_steps,
            "Denoising steps. More take longer and give finer results.",
            default=defaults.num_inference_steps,
        ),
        "guidance_scale": _number(
            ranges.guidance_scale,
            "How closely the video follows the prompt. 0 to 1: no guidance. For models of other families than Stable "
            "Diffusion's, the default means the model's own.",
            default=defaults.guidance_scale,
            kind="number",
        ),
        "strength": _number(
            ranges.strength,
            "How much the video may differ from init_image or init_video. 1: fully.",
            default=defaults.strength,
            kind="number",
        ),
        "clip_skip": _number(ranges.clip_skip, "How many of the text encoder's last layers to skip.", default=0),
    }


_PROMPTS = {
    "prompt": _field(
        "string", "What the video shows.", minLength=1, maxLength=MAX_TEXT, example="a red cat sitting on a bench"
    ),
    "negative_prompt": _field(_TEXT, "What the video should not show. null: the model's own default.", maxLength=MAX_TEXT),
}
_PROMPT_OF_INIT = _field(_TEXT, "What the video shows. Optional.", maxLength=MAX_TEXT, example="a red cat sitting on a bench")
_RESOLUTION = {
    "resolution": _number(
        RESOLUTION, "The shorter side in pixels. The longer one is 16/9 of it. Overrides width and height.", default=None
    ),
    "portrait": _switch("Makes the longer side the height.", default="no"),
}
_OTHERS = {
    "seed": _number(SEED, "The same seed gives the same video. null: a random seed. meta shows it.", default=None),
    "webhook": _field(_TEXT, "A URL that gets a signed POST when the job ends.", pattern="^https?://", default=None),
    "track_id": _field(["string", "number", "boolean", "null"], "Your own name for the job. Webhooks repeat it.", default=None),
    "motion_adapter": _field(_TEXT, "The motion adapter's id. null: the model's own, or the only one that fits.", default=None),
    "lora_model": _field(_TEXT, "LoRAs by id, separated by commas.", default=None),
    **{name: _field(_TEXT, "The same as lora_model.", default=None) for name in HOSTED_LORAS[1:]},
    "lora_strength": _field(
        ["number", "string", "null"],
        f"How strongly the LoRAs are applied, {STRENGTH.minimum:g} to {STRENGTH.maximum:g}: one number, or one for each. "
        "1 is as trained.",
        default=1,
    ),
    HOSTED_EMBEDDINGS: _field(
        _TEXT, "Embeddings (textual inversions) by id, separated by commas. Write their words in a prompt.", default=None
    ),
    "output_type": _field(_TEXT, "The file type.", enum=[*OUTPUT_TYPES, None], default=DEFAULT_OUTPUT_TYPE),
    "init_image": _init("init_image", "A picture to start from: a URL or a data: URI."),
    "init_video": _init(
        "init_video",
        "A video to start from: a URL or a data: URI. It is cut, or its last frame repeated.",
    ),
    "samples": _number(SAMPLES, "Accepted, but only one video is made.", default=1),
    "safety_checker": _switch("Not available yet. yes is ignored, and tip says so.", default="no"),
    "base64": _switch("Results are always links. yes is ignored, and tip says so.", default="no"),
    "multi_lingual": _switch("Prompts are not translated yet. yes is ignored, and tip says so.", default="no"),
}
_SWITCHES = {
    "instant_response": "No effect: every request is answered at once.",
    "loadbalancer": "No effect: all workers share one queue.",
    "temp": "No effect: files are kept.",
}


def _example(dialect: Dialect) -> dict[str, Any]:
    if dialect.needs_init is not None:
        example = {"init_image": EXAMPLE_IMAGE, "init_video": EXAMPLE_VIDEO}[dialect.needs_init]
        return _EXAMPLE_OF_V7 | {dialect.needs_init: example}
    return _EXAMPLES.get(dialect.name, DOCUMENTED_EXAMPLE)


def _body(properties: dict[str, dict[str, Any]], required: list[str], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    content = {
        "application/json": {"schema": schema, "example": example},
        "application/x-www-form-urlencoded": {"schema": schema},
    }
    return {"requestBody": {"required": bool(required), "content": content}}


_REQUEST_ID = _field(["string", "integer"], "The job's id.", minLength=1, pattern="^[0-9]+$", example="1")

FETCH = _body(_KEY, [], {"key": ""})
FETCH_BY_FIELD = _body({**_KEY, "request_id": _REQUEST_ID}, ["request_id"], {"key": "", "request_id": "1"})
FETCH_BY_QUERY = {"parameters": [{"name": "request_id", "in": "query", "required": True, "schema": _REQUEST_ID}]}
FILE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The video.", "content": {media: {} for media in MEDIA_TYPES.values()}},
    206: {
        "description": "The part that the Range header asks for.",
        "content": {media: {} for media in MEDIA_TYPES.values()},
    },
    403: {"description": "The link has expired, or its signature is missing or wrong."},
    404: {"description": "The file does not exist yet, was deleted, or was never made."},
    416: {"description": "The file has no such part.", "content": {"text/plain": {}}},
}
PREVIEW_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "An animated picture. Do not cache it.", "content": {PREVIEW_MEDIA_TYPE: {}}},
    403: {"description": "The link has expired, or its signature is missing or wrong."},
    404: {"description": "There is no preview now: the job is queued, has just started, or has ended."},
}
