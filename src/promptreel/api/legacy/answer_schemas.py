"""JSON Schemas of the hosted service's answers: the components of /openapi.json."""

from __future__ import annotations

from typing import Any

from promptreel.api.answer_model import Schema, either, ref
from promptreel.api.legacy.model_search import FILTERS
from promptreel.jobs.params import MAX_FRAMES, MAX_SEED, OUTPUT_TYPES, SCHEDULERS

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
URL: Schema = {"type": "string", "format": "uri"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number", "minimum": 0}
YES_NO: Schema = {"enum": ["yes", "no"]}


def several(item: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": item, **more}


def only(value: str) -> Schema:
    return {"const": value}


def nullable(schema: Schema) -> Schema:
    return either(schema, {"type": "null"})


def shape(properties: Schema, *, optional: Schema | None = None, **more: Any) -> Schema:
    """An object with these properties and no others; the optional ones may be missing."""
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


_NO_OUTPUT = several(TEXT, maxItems=0)
_WORDS: Schema = {"message": TEXT, "messege": {**TEXT, "description": "The hosted service's spelling; always equals message."}}

_EXPIRY: Schema = {
    "links_expire_at": {"type": "string", "format": "date-time", "description": "When the links to files expire."}
}

_META_OF_ALL: Schema = {
    "prompt": {**TEXT, "description": "The prompt as the model got it, with the model's own phrases if enhance_prompt is yes."},
    "model_id": TEXT,
    "scheduler": {"enum": list(SCHEDULERS)},
    "negative_prompt": TEXT,
    "guidance_scale": NUMBER,
    "strength": NUMBER,
    "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
    "file_prefix": {"type": "string", "format": "uuid"},
    "num_frames": {"type": "integer", "minimum": 1, "maximum": MAX_FRAMES},
    "fps": COUNT,
    "clip_skip": COUNT,
    "enhance_prompt": YES_NO,
}
_META_OF_SOME: Schema = {
    "W": COUNT,
    "H": COUNT,
    "steps": COUNT,
    "seconds": SECONDS,
    "safetychecker": YES_NO,
    "full_url": YES_NO,
    "multi_lingual": YES_NO,
    "outdir": TEXT,
    "image_guidance_scale": NUMBER,
    "n_samples": COUNT,
    "instant_response": YES_NO,
    "base64": YES_NO,
    "width": COUNT,
    "height": COUNT,
    "num_inference_steps": COUNT,
    "output_type": {"enum": list(OUTPUT_TYPES)},
    "temp": YES_NO,
    "upscale_height": {"type": "null"},
    "upscale_width": {"type": "null"},
    "use_improved_sampling": YES_NO,
    "init_image": only("yes"),
    "init_video": only("yes"),
    "motion_adapter": TEXT,
    "lora_model": TEXT,
    "lora_strength": TEXT,
    "embeddings_model": TEXT,
    "native_W": {**COUNT, "description": "The width of the clip before it was scaled."},
    "native_H": COUNT,
}

SCHEMAS: dict[str, Schema] = {
    "Meta": shape(_META_OF_ALL, optional=_META_OF_SOME)
    | {"description": "What is made, in the words of the API generation of the job's request."},
    "Processing": shape(
        {
            "status": only("processing"),
            "tip": TEXT,
            "eta": {"type": "integer", "minimum": 0, "description": "Seconds after which to fetch again."},
            **_WORDS,
            "fetch_result": {**URL, "description": "The address to fetch."},
            "id": {"type": "integer"},
            "output": _NO_OUTPUT,
            "future_links": several(URL, description="Where the video will be."),
            "preview": {**URL, "description": "A small moving picture of the video, while it is being made."},
            "meta": ref("Meta"),
        },
        optional=_EXPIRY,
    ),
    "Success": shape(
        {
            "status": only("success"),
            "id": {"type": "integer"},
            "output": several(URL, minItems=1),
            "proxy_links": several(URL),
            "generationTime": SECONDS,
            "meta": ref("Meta"),
        },
        optional=_EXPIRY,
    ),
    "Failed": shape(
        {
            "status": only("failed"),
            "id": either({"type": "integer"}, {**only(""), "description": "There is no such job."}),
            **_WORDS,
            "output": _NO_OUTPUT,
        }
    ),
    "Error": shape(
        {
            "status": only("error"),
            "message": either(
                TEXT,
                {
                    "type": "object",
                    "description": "What is wrong, for each field.",
                    "additionalProperties": several(TEXT, minItems=1),
                },
            ),
            "messege": {"description": "The hosted service's spelling; always equals message."},
        },
        optional={
            "tip": {**TEXT, "description": "What to do, in plain sentences; always there if message is an object."},
            "retry_after": {**COUNT, "description": "Seconds to wait before the next try."},
        },
    ),
    "Done": shape({"status": only("success"), **_WORDS}, optional={"model_id": TEXT}),
    "TrainingStarted": shape({"status": only("success"), **_WORDS, "data": TEXT, "training_id": TEXT}),
    "TrainingStatus": shape(
        {
            "status": {"enum": ["success", "failed"]},
            **_WORDS,
            "data": {**TEXT, "description": "What happened so far, a line each. The last one says what is to come."},
            "training_id": TEXT,
            "model_id": TEXT,
            "model_training_status": {**TEXT, "description": "The state, as in message."},
            "test_image": nullable({**URL, "description": "The first frame of the newest sample."}),
            "eta": {**COUNT, "description": "Seconds until the model is there."},
        }
    ),
    "TrainingChanged": shape({"status": only("success"), **_WORDS, "training_id": TEXT}),
    "TrainingList": shape(
        {
            "status": only("success"),
            **_WORDS,
            "data": several(
                shape(
                    {
                        "model_id": TEXT,
                        "training_id": TEXT,
                        "status": TEXT,
                        "created_at": {"type": "string", "format": "date-time"},
                        "instance_prompt": TEXT,
                        "base_model_id": TEXT,
                        "model_category": TEXT,
                    }
                )
            ),
        }
    ),
    "HostedModel": shape(
        {
            "model_id": TEXT,
            "status": only("model_ready"),
            "created_at": {"type": "string", "format": "date-time"},
            "instance_prompt": TEXT,
            "model_name": TEXT,
            "description": TEXT,
            "screenshots": TEXT,
            "max_frames": COUNT,
            "fps": COUNT,
            "model_category": TEXT,
        }
    ),
    "HostedModels": several(ref("HostedModel")),
    "AgentsModel": shape(
        {
            "model_id": TEXT,
            "model_name": TEXT,
            "name": TEXT,
            "description": TEXT,
            "provider": TEXT,
            "model_type": TEXT,
            "model_subcategory": TEXT,
            "base_model": nullable(TEXT),
            "status": only("model_ready"),
        }
    ),
    "AgentsFilters": shape({"data": shape(dict.fromkeys(FILTERS, several(TEXT)))}),
    "AgentsValues": shape({"data": several(TEXT)}),
    "OneAgentsModel": shape({"data": ref("AgentsModel")}),
    "AgentsModels": shape({"data": several(ref("AgentsModel")), "meta": ref("Pagination")}),
    "Pagination": shape(
        {
            "current_page": COUNT,
            "per_page": COUNT,
            "total": COUNT,
            "last_page": COUNT,
            "from": nullable(COUNT),
            "to": nullable(COUNT),
        }
    ),
    "Schedulers": shape({"status": only("success"), "schedulers": several({"enum": list(SCHEDULERS)})}),
    "SystemLoad": shape({"queue_num": COUNT, "queue_time": COUNT, "status": {"enum": ["ok", "degraded"]}}),
    "SystemDetails": shape({"model_count": COUNT, "queue_time": COUNT, "status": {"enum": ["ok", "degraded"]}}),
    "Assets": shape(
        {
            "status": only("success"),
            "type": TEXT,
            "data": several(shape({"id": {"type": "integer"}, "output": several(URL)})),
            "pagination": ref("Pagination"),
        },
        optional=_EXPIRY,
    ),
    "Cropped": shape({"status": only("success"), **_WORDS, "link": URL, "request_id": {"type": "integer"}}, optional=_EXPIRY),
    "Uploaded": shape(
        {"status": only("success"), "id": {"type": "integer"}, "output": several(URL, minItems=1)}, optional=_EXPIRY
    ),
}
