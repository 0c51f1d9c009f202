"""How /docs describes the endpoints other than create and fetch. The parser is more lenient."""

from __future__ import annotations

from typing import Any

from promptreel.api.legacy.openapi import EXAMPLE_IMAGE

Properties = dict[str, dict[str, Any]]


def _field(kind: str | list[str], description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


_NULLABLE = ["string", "null"]
_KEY: Properties = {
    "key": _field(_NULLABLE, "API key, if the service has any. A header `key` or a Bearer token works, too.", default=None)
}


def body(*, properties: Properties, required: list[str] | None = None) -> dict[str, Any]:
    """A request's body, as JSON or as a form. Its fields include `key`."""
    schema: dict[str, Any] = {"type": "object", "properties": {**_KEY, **properties}}
    if required:
        schema["required"] = required
    content = {kind: {"schema": schema} for kind in ("application/json", "application/x-www-form-urlencoded")}
    return {"requestBody": {"required": bool(required), "content": content}}


def query(properties: Properties) -> dict[str, Any]:
    """Optional fields of a query string."""
    return {
        "parameters": [
            {"name": name, "in": "query", "description": schema["description"], "schema": schema}
            for name, schema in properties.items()
        ]
    }


def _paged(*, default: int, maximum: int) -> Properties:
    return {
        "per_page": _field("integer", "Entries per page.", minimum=1, maximum=maximum, default=default),
        "page": _field("integer", "The page, counted from 1.", minimum=1, default=1),
    }


MODEL_ID: Properties = {"model_id": _field("string", "The model.", example="cutout")}
LOAD_MODEL: Properties = {
    "url": _field("string", "A URL of a .safetensors file; or a hub id such as owner/name, if the service allows it."),
    "model_id": _field(_NULLABLE, "The id that the model gets. Default: the file's name.", example="toonyou"),
    "model_name": _field(_NULLABLE, "The name shown in lists."),
    "model_format": _field(_NULLABLE, "Files tell their format themselves. Pickled ones (ckpt) are refused."),
    "model_category": _field(_NULLABLE, "What it must be: checkpoint, motion_adapter, vae, lora or embedding. Default: any."),
    "model_visibility": _field(_NULLABLE, "Whether only your API key may use it.", enum=["private", "public", None])
    | {"default": "private"},
    "revision": _field(_NULLABLE, "The branch, tag or commit of a hub's repository."),
    "force_load": _field(_NULLABLE, "yes: load the model even if it is there.", enum=["yes", "no", None], default="no"),
    "sha256": _field(_NULLABLE, "What the file's hash must be."),
    "motion_adapter": _field(_NULLABLE, "The id of the motion adapter that a checkpoint is used with."),
    "vae": _field(_NULLABLE, "The id of the VAE that a checkpoint is used with."),
    "beta_schedule": _field(_NULLABLE, "The noise table, if the files' own is wrong.", enum=["linear", "scaled_linear", None]),
    "webhook": _field(_NULLABLE, "The URL that is told when the import has ended."),
    "track_id": _field(_NULLABLE, "Repeated in the webhook."),
}
SEARCHED_MODELS: Properties = {
    "search": _field("string", "A part of a model's id, name or description."),
    "feature": _field("string", "`video` and `video_fusion` find all models, which make videos or belong to such."),
    "provider": _field("string", "`promptreel` finds all models."),
    "model_type": _field("string", "A family, such as `animatediff`; a kind for models of no family."),
    "model_subcategory": _field("string", "A kind, such as `checkpoint` or `lora`."),
    "base_model": _field("string", "What a model fits on, such as `sd15`."),
    "tags": _field("string", "Trigger words, separated by commas: models with any of them."),
    **_paged(default=20, maximum=100),
}
ASSETS: Properties = {
    "type": _field(_NULLABLE, "Only videos are made: the other lists are empty.", enum=["video", "image", "voice", "3d", None])
    | {"default": "video"},
    **_paged(default=10, maximum=30),
}
DELETE: Properties = {
    "request_id": _field(["string", "integer"], "The id of a job or of an upload.", example="1"),
    "type": _field(_NULLABLE, "Ignored: the id is enough.", default=None),
}
_DATA = "as a data: URI or as base64; 5 MB at most."
CROP: Properties = {
    "image": _field("string", f"A picture, {_DATA}", example=EXAMPLE_IMAGE),
    "crop": _field(["string", "boolean", "null"], "yes: keep the largest square around the center.", default="no"),
}
BASE64_STRING: Properties = {"base64_string": _field("string", f"A picture or video, {_DATA}", example=EXAMPLE_IMAGE)}
INIT_OBJ: Properties = {"init_obj": _field("string", f"A picture or video, {_DATA}", example=EXAMPLE_IMAGE)}
UPLOAD_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"image/*": {}, "video/*": {}}},
    403: {"description": "Links are set to expire, and this one has expired or is incomplete."},
    404: {"description": "There is no such file, or it was deleted."},
}
_A_NUMBER: list[str] = ["integer", "string", "null"]
FINE_TUNE: Properties = {
    "instance_prompt": _field(_NULLABLE, "What the pictures show, with a rare word for it.", example="a photo of sks snail"),
    "class_prompt": _field(_NULLABLE, "The class whose look the base keeps.", example="a photo of a snail"),
    "base_model_id": _field(_NULLABLE, "The checkpoint that is trained. Default: the built-in model.", example="cutout"),
    "base_model_type": _field(_NULLABLE, "normal; sdxl needs a base_model_id."),
    "images": {
        "type": ["array", "string"],
        "items": {"type": "string"},
        "description": "The pictures, or for motion the clips: URLs, data: URIs or base64. In a multipart form, files.",
        "example": ["https://example.com/snail-1.png"],
    },
    "captions": {"type": ["array", "null"], "items": {"type": _NULLABLE}, "description": "What each of them shows."},
    "training_type": _field(
        _NULLABLE,
        "subject, style, motion or dreambooth. Other words, such as men, mean the default: "
        "dreambooth for fine_tune, subject for lora_fine_tune.",
    ),
    "max_train_steps": _field(_A_NUMBER, "Brought into the preset's range; the answer says so. Default: the preset's."),
    "lora_type": _field(_NULLABLE, "lycoris: LoKr.", enum=["lora", "lycoris", None], default="lora"),
    "seed": _field(_A_NUMBER, "null: a random seed."),
    "model_id": _field(_NULLABLE, "The id that the model gets, which is the training_id, too. Default: a random one."),
    "webhook": _field(_NULLABLE, "The URL that is told when the training has ended."),
    "track_id": _field(_NULLABLE, "Repeated in the webhook."),
}
TRAINING_ID: dict[str, Any] = {
    "parameters": [{"name": "training_id", "in": "path", "required": True, "schema": {"type": "string"}}]
}
