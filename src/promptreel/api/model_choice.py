"""The models of a request for a video, and what they say of fields that the request leaves out."""

from __future__ import annotations

from dataclasses import replace

from promptreel.api.field_reader import FieldReader
from promptreel.errors import ModelNotFound
from promptreel.jobs.params import VideoParams
from promptreel.models.composition import ModelSet, compose
from promptreel.models.families import FAMILIES, fit_clip
from promptreel.models.registry import ModelRegistry

MAX_ID = 255


def read_models(reader: FieldReader, model_id: str, models: ModelRegistry, *, instead: str | None = None) -> ModelSet:
    """Reads the field `motion_adapter`. `instead`: the model in place of an unknown one.

    Raises InvalidParams, ModelNotFound and CheckpointUnusable. Wrong fields are reported first, as by the hosted service.
    """
    adapter = (reader.text("motion_adapter", maximum=MAX_ID) or "").strip() or None
    try:
        return compose(models, model_id, adapter)
    except ModelNotFound:
        reader.raise_errors()
        if instead is None:
            raise
        return compose(models, instead)
    except Exception:
        reader.raise_errors()
        raise


def fill_in(
    draft: VideoParams, reader: FieldReader, models: ModelSet, *, by_seconds: bool, api_guidance: float | None = None
) -> tuple[VideoParams, list[str]]:
    """The params with the ids of the models, and with their own scheduler, steps and guidance where the request has none; and
    what was changed of the request, for people.

    `by_seconds`: the number of frames follows from a length in seconds. `api_guidance`: the API's documented default, which
    its clients send unasked. Where it is wrong for the model's family, it means the model's own.
    """
    card, own, notes = models.checkpoint, models.defaults, []
    chosen = {name: value for name, value in own.items() if reader.given(name) is None}
    family = FAMILIES.get(card.family)
    if family is not None and family.ignores_api_defaults:
        guidance = own["guidance_scale"]
        if "guidance_scale" not in chosen and draft.guidance_scale == api_guidance != guidance:
            chosen["guidance_scale"] = guidance
            notes.append(f"guidance_scale {api_guidance:g} is this API's default: it means the model's own, {guidance:g}")
        if not reader.is_set("fps"):
            chosen["fps"] = card.fps
            if by_seconds:
                chosen["num_frames"] = max(1, round(draft.num_frames / draft.fps * card.fps))
    params, fitted = fit_clip(replace(draft, model_id=card.model_id, motion_adapter=models.adapter_id, **chosen), card)
    return params, notes + fitted
