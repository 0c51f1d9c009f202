"""How /docs describes `/v1/trainings`. The parser is more lenient."""

from __future__ import annotations

from typing import Any

from promptreel.api.field_reader import Limits
from promptreel.api.training_fields import BATCH, FPS, FRAMES, MAX_TEXT, RANK, RATE, SEED, SIDE
from promptreel.api.v1 import openapi
from promptreel.media import MEDIA_TYPES
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.training.examples import MAX_MEGABYTES
from promptreel.training.plan import DEFAULT_PRESET, LORA_TYPES, MOST_BATCH, MOST_SAMPLE_PROMPTS
from promptreel.training.presets import PRESETS

_TEXT = ["string", "null"]
_PICTURE = "https://example.com/snail-1.png"
EXAMPLE = {"id": "my-snail", "trigger": "sks snail", "images": [_PICTURE], "base": DEFAULT_MODEL_ID, "preset": DEFAULT_PRESET}


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": _TEXT, "maxLength": MAX_TEXT, "default": None, "description": description, **more}


def _number(limits: Limits, description: str, kind: str = "integer") -> dict[str, Any]:
    bounds = {"minimum": limits.minimum, "maximum": limits.maximum}
    return {"type": [kind, "string", "null"], "default": None, "description": description, **bounds}


def _examples(what: str, presets: str) -> dict[str, Any]:
    described = {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"url": {"type": "string"}, "caption": {"type": "string"}},
                "required": ["url"],
            },
        ]
    }
    return {
        "type": ["array", "null"],
        "items": described,
        "default": None,
        "description": f"The {what} to learn from, for {presets}: URLs, data: URIs or base64, {MAX_MEGABYTES} MB each at most; "
        "or objects with url and caption. In a multipart form, files: one part for each.",
    }


_OF_PRESET = "Default: the preset's."
FIELDS: dict[str, dict[str, Any]] = {
    "base": _text("The checkpoint that is trained. Default: the built-in model.", example=DEFAULT_MODEL_ID),
    "preset": {
        "type": _TEXT,
        "enum": [*PRESETS, None],
        "default": DEFAULT_PRESET,
        "description": " ".join(f"{preset.name}: {preset.description}" for preset in PRESETS.values()),
    },
    "id": _text("The id that the model gets. Default: ten random letters and digits."),
    "name": _text("The name shown in lists. Default: the id."),
    "trigger": _text("A rare word or two that stand for what is learned.", example="sks snail"),
    "instance_prompt": _text("What the examples show: the caption of those without one. Default: the trigger."),
    "class_prompt": _text("The class whose look the base keeps, such as a snail. null: nothing is done for that."),
    "images": _examples("pictures", "subject, style and dreambooth"),
    "videos": _examples("clips", "motion"),
    "captions": {
        "type": ["array", "null"],
        "items": {"type": _TEXT},
        "default": None,
        "description": "What each example shows, in their order.",
    },
    "steps": {
        "type": ["integer", "string", "null"],
        "default": None,
        "description": f"How long to train. {_OF_PRESET} Brought into the preset's range; the answer's tip says so.",
    },
    "batch_size": _number(Limits(BATCH.minimum, MOST_BATCH), f"Examples a step. {_OF_PRESET}"),
    "rank": _number(RANK, f"The size of the LoRA. {_OF_PRESET}"),
    "learning_rate": _number(RATE, _OF_PRESET, kind="number"),
    "lora_type": _text("lycoris: LoKr.", enum=[*LORA_TYPES, None]) | {"default": LORA_TYPES[0]},
    "motion_adapter": _text("The id of the motion adapter that the base is used with."),
    "width": _number(SIDE, "Of the examples' area, in pixels. Default: the base's own size, or 512."),
    "height": _number(SIDE, "With width."),
    "num_frames": _number(FRAMES, "Of a clip. Default: 16, or what the base takes."),
    "fps": _number(FPS, "Of a clip. Default: the base's own."),
    "seed": _number(SEED, "null: a random seed."),
    "sample_prompts": {
        "type": ["array", "null"],
        "items": {"type": "string"},
        "maxItems": MOST_SAMPLE_PROMPTS,
        "default": None,
        "description": "Made into clips at the start and each eighth of the steps. Default: the instance prompt.",
    },
    "visibility": _text("Whether only your API key may use the model.", enum=["private", "public", None])
    | {"default": "private"},
    "replace": {
        "type": ["boolean", "string", "null"],
        "default": False,
        "description": "Whether a model of yours with this id is replaced.",
    },
    "webhook": _text("A URL that gets a signed event, training.completed or training.failed, when the training has ended."),
}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM_FIELDS = FIELDS | {name: {**_FILES, "description": FIELDS[name]["description"]} for name in ("images", "videos")}
CREATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "properties": FIELDS}, "example": EXAMPLE},
            "multipart/form-data": {"schema": {"type": "object", "properties": _FORM_FIELDS}},
        },
    }
}
LIST: dict[str, Any] = {
    "parameters": [
        {**each, "schema": each["schema"] | {"example": "training_17"}} if each["name"] == "after" else each
        for each in openapi.LIST["parameters"]
    ]
}
EVENTS_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The events `stage` (status, stage), `progress` (progress, step, steps, loss, seconds_per_step, "
        "queue_position, eta), `checkpoint` (step), `validation` (step, loss, ratio), `sample` (number, step, prompt), `log` "
        "(line) and finally `end` (the whole training). `data` is JSON. Comments keep the connection alive.",
        "content": {"text/event-stream": {}},
    }
}
SAMPLE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The clip.", "content": {MEDIA_TYPES["mp4"]: {}}},
    404: {"description": "There is no such sample yet."},
}
