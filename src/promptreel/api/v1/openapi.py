"""What /openapi.json says of requests to `/v1/videos`.

The parser accepts more spellings than described here. Tests send the described examples, choices, ranges and defaults.
"""

from __future__ import annotations

from typing import Any

from promptreel.api.field_reader import Limits
from promptreel.api.init_fields import MAX_MEGABYTES
from promptreel.api.v1.requests import (
    CLIP_SKIP,
    DEFAULT_PAGE,
    DEFAULT_SECONDS,
    DEFAULT_SIZE,
    FPS,
    FRAMES,
    GUIDANCE,
    MAX_TEXT,
    ORDERS,
    PAGE,
    SECONDS,
    SEED,
    SIDE,
    STEPS,
    STRENGTH,
    VARIANTS,
)
from promptreel.encoding.inits import readable_types
from promptreel.jobs.params import DEFAULT_OUTPUT_TYPE, DEFAULT_SCHEDULER, MOST_ADD_ONS, OUTPUT_TYPES, SCHEDULERS
from promptreel.media import INIT_TYPES, MEDIA_TYPES, POSTER_MEDIA_TYPE, PREVIEW_MEDIA_TYPE
from promptreel.models.registry import DEFAULT_MODEL_ID

EXAMPLE = {"model": DEFAULT_MODEL_ID, "prompt": "a red cat sitting on a bench", "size": "512x512", "seconds": "4", "seed": 7}

_TEXT = ["string", "null"]


def _number(limits: Limits, description: str, *, default: float | None, kind: str = "integer") -> dict[str, Any]:
    if limits.unset is not None:
        description = f"{description} {limits.unset} means the same as null."
    ranges = {"minimum": limits.minimum, "maximum": limits.maximum, "pattern": limits.pattern, "default": default}
    return {"type": [kind, "string", "null"], **ranges, "description": description}


_REFERENCE = (
    "A picture or video to start from: a file in a multipart form, a URL, a data: URI, or an object with `image_url`. "
    + "; ".join(f"{', '.join(readable_types(kind).values())} up to {MAX_MEGABYTES[kind]} MB" for kind in INIT_TYPES)
)

CREATE_FIELDS: dict[str, dict[str, Any]] = {
    "prompt": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "description": "What the video shows."},
    "model": {"type": _TEXT, "default": DEFAULT_MODEL_ID, "description": "The id of the model, as in /v1/models."},
    "size": {
        "type": _TEXT,
        "pattern": "^[1-9][0-9]{2}x[1-9][0-9]{2}$",
        "default": DEFAULT_SIZE,
        "description": f'"WIDTHxHEIGHT": {SIDE.minimum} to {SIDE.maximum} pixels per side, and at most 1792 x 1024 in all. '
        "Both are rounded down to multiples of 8. Without size, the fields width and height are read.",
    },
    "seconds": _number(SECONDS, f"Length in seconds. The video has at most {FRAMES.maximum} frames.", default=DEFAULT_SECONDS),
    "input_reference": {
        "type": ["string", "object", "null"],
        "pattern": "^(https?://|data:)",
        "default": None,
        "description": f"{_REFERENCE}.",
    },
    "negative_prompt": {
        "type": _TEXT,
        "maxLength": MAX_TEXT,
        "description": "What the video should not show. null: the model's own default.",
    },
    "num_inference_steps": _number(STEPS, "Denoising steps. More take longer and give finer results.", default=20),
    "guidance_scale": _number(
        GUIDANCE, "How closely the video follows the prompt. 0 to 1: no guidance.", default=7.5, kind="number"
    ),
    "scheduler": {
        "type": _TEXT,
        "enum": [*SCHEDULERS, None],
        "default": DEFAULT_SCHEDULER,
        "description": "The noise scheduler.",
    },
    "seed": _number(SEED, "The same seed gives the same video. null: a random seed. The answer shows it.", default=None),
    "num_frames": _number(FRAMES, "Length in frames. Overrides seconds. null: seconds x fps.", default=None),
    "fps": _number(FPS, "Frames per second.", default=8),
    "strength": _number(STRENGTH, "How much the video may differ from input_reference. 1: fully.", default=0.55, kind="number"),
    "webhook": {
        "type": _TEXT,
        "pattern": "^https?://",
        "default": None,
        "description": "A URL that gets a signed event, video.completed or video.failed, when the job ends.",
    },
    "enhance_prompt": {
        "type": ["boolean", "string", "null"],
        "enum": [True, False, "yes", "no", None],
        "default": False,
        "description": "Adds the model's own phrases to the prompt.",
    },
    "motion_adapter": {
        "type": _TEXT,
        "default": None,
        "description": "The id of the motion adapter. Default: the model's own, or the only one that fits it.",
    },
    "loras": {
        "type": ["array", "string", "null"],
        "items": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"model": {"type": "string"}, "strength": {"type": "number"}},
                    "required": ["model"],
                },
            ]
        },
        "maxItems": MOST_ADD_ONS,
        "default": None,
        "description": "LoRAs: ids, or objects with model and strength. As text: ID:STRENGTH, separated by commas.",
        "example": [{"model": "pencil", "strength": 0.8}],
    },
    "embeddings": {
        "type": ["array", "string", "null"],
        "items": {"type": "string"},
        "maxItems": MOST_ADD_ONS,
        "default": None,
        "description": "Embeddings (textual inversions): ids; as text, separated by commas. Write their words in a prompt.",
        "example": ["easynegative"],
    },
    "clip_skip": _number(CLIP_SKIP, "How many of the text encoder's last layers to skip.", default=0),
    "output_type": {
        "type": _TEXT,
        "enum": [*OUTPUT_TYPES, None],
        "default": DEFAULT_OUTPUT_TYPE,
        "description": "The file type.",
    },
}
_FORM_FIELDS = CREATE_FIELDS | {
    "input_reference": {
        "type": ["string", "null"],
        "format": "binary",
        "description": CREATE_FIELDS["input_reference"]["description"],
    }
}


def _schema(fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": ["prompt"]}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


CREATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _schema(CREATE_FIELDS), "example": EXAMPLE},
            "multipart/form-data": {"schema": _schema(_FORM_FIELDS)},
        },
    }
}
PLAN: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _schema({name: field for name, field in CREATE_FIELDS.items() if name != "input_reference"}),
                "example": EXAMPLE,
            }
        },
    }
}
REMIX: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _schema({"prompt": CREATE_FIELDS["prompt"]}),
                "example": {"prompt": "a blue cat sitting on a bench"},
            }
        },
    }
}
_EDITED = {
    "type": ["object", "string"],
    "description": 'The video to start from: {"id": "video_17"} for a video of this service, or a file in a multipart form, '
    "a URL or a data: URI.",
}
_EDIT_FIELDS = {"video": _EDITED} | {name: field for name, field in CREATE_FIELDS.items() if name != "input_reference"}
EDIT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _schema(_EDIT_FIELDS) | {"required": ["prompt", "video"]},
                "example": {"prompt": "a blue cat sitting on a bench", "video": {"id": "video_1"}},
            },
            "multipart/form-data": {
                "schema": _schema(_EDIT_FIELDS | {"video": {"type": "string", "format": "binary"}})
                | {"required": ["prompt", "video"]}
            },
        },
    }
}
LIST: dict[str, Any] = {
    "parameters": [
        _query("after", {"type": "string", "example": "video_17"}, "The `last_id` of the previous page."),
        _query(
            "limit",
            {
                "type": "integer",
                "minimum": PAGE.minimum,
                "maximum": PAGE.maximum,
                "default": DEFAULT_PAGE,
            },
            "How many videos to list.",
        ),
        _query("order", {"type": "string", "enum": list(ORDERS), "default": "desc"}, "desc: newest first. asc: oldest first."),
    ]
}
CONTENT: dict[str, Any] = {
    "parameters": [
        _query(
            "variant",
            {"type": "string", "enum": list(VARIANTS), "default": "video"},
            "Which file: the video, its first frame, or while it is being made, a small moving picture of it.",
        )
    ]
}
CONTENT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {media: {} for media in (*MEDIA_TYPES.values(), POSTER_MEDIA_TYPE, PREVIEW_MEDIA_TYPE)},
    },
    404: {"description": "The file does not exist yet, was deleted, or was never made."},
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "example": "4711"},
    "description": "The id of the last event that you got.",
}


def _stream(description: str) -> dict[str, Any]:
    answers = {200: {"description": description, "content": {"text/event-stream": {}}}}
    return {"openapi_extra": {"parameters": [_LAST_EVENT_ID]}, "responses": answers}


EVENTS = _stream(
    "The events `stage` (status, stage), `progress` (progress, queue_position, eta), `preview` (url) and "
    "finally `end` (the whole video). `data` is JSON. Comments keep the connection alive. With a Last-Event-ID, what you "
    "already know is left out."
)
ALL_EVENTS = _stream(
    "First `ready` (resumed: whether nothing was missed since Last-Event-ID). Then `video`, `import` and `training` (the whole "
    "object) at each change, `deleted` (id, object), and `queue` (videos: id, queue_position and eta of up to 50 that are not "
    "done). Ignore events with other names. `data` is JSON. Comments keep the connection alive."
)
