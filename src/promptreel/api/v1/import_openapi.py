"""How /docs describes `POST /v1/models`. The parser is more lenient."""

from __future__ import annotations

from typing import Any

from promptreel.models.kinds import ModelKind

_TEXT = ["string", "null"]
_EXAMPLE = {"source": "https://example.com/toonyou.safetensors", "id": "toonyou", "motion_adapter": "animatediff-v3"}


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": _TEXT, "default": None, "description": description, **more}


def _number(description: str, **more: Any) -> dict[str, Any]:
    return {"type": ["number", "string", "null"], "default": None, "description": description, **more}


_PHRASES = {"type": ["array", "string", "null"], "items": {"type": "string"}, "default": None}
FIELDS: dict[str, dict[str, Any]] = {
    "source": {
        "type": "string",
        "minLength": 1,
        "description": "A URL of a .safetensors file. If the service allows it, a hub id: owner/name, owner/name@revision, "
        "or owner/name:file.",
    },
    "id": _text("The id that the model gets. Default: made of the source's name."),
    "name": _text("The name shown in lists."),
    "description": _text("A sentence or two."),
    "kind": _text(
        "What it must be. Default: any; its tensors say what it is.", enum=[*(kind.value for kind in ModelKind), None]
    ),
    "revision": _text("The branch, tag or commit of a hub's repository."),
    "sha256": _text("What the file's hash must be."),
    "visibility": _text("Whether only your API key may use it.", enum=["private", "public", None]) | {"default": "private"},
    "replace": {
        "type": ["boolean", "string", "null"],
        "default": False,
        "description": "Whether a model of yours with this id is imported again, and replaced.",
    },
    "motion_adapter": _text("The id of the motion adapter that a checkpoint is used with."),
    "vae": _text("The id of the VAE that a checkpoint is used with."),
    "beta_schedule": _text("The noise table, if the files' own is wrong.", enum=["linear", "scaled_linear", None]),
    "trigger_words": _PHRASES | {"description": "Phrases put before an enhanced prompt; as a text, separated by commas."},
    "quality_words": _PHRASES | {"description": "Phrases put after an enhanced prompt."},
    "default_negative_prompt": _text("Used when a request has none."),
    "licence": _text("The licence's name."),
    "native_width": _number("The size at which clips are made; default: the requested one."),
    "native_height": _number("With native_width."),
    "max_frames": _number("Frames in one window."),
    "fps": _number("The frame rate that it was trained at."),
    "default_scheduler": _text("The scheduler of requests that name none."),
    "default_steps": _number("The inference steps of requests that name none."),
    "default_guidance": _number("The guidance scale of requests that name none."),
    "low_noise_guidance": _number("Of Wan's second expert, with default_guidance for the first."),
    "flow_shift": _number('How far Wan\'s noise levels are shifted towards noise, or "by_size". Default: what its files say.'),
    "expert": _text("Which of Wan 2.2's two experts a LoRA is for. Default: both.", enum=["high_noise", "low_noise", None]),
    "webhook": _text("A URL that gets a signed event, model.imported or model.import_failed, when the import has ended."),
}
IMPORT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": FIELDS, "required": ["source"]},
                "example": _EXAMPLE,
            }
        },
    }
}
