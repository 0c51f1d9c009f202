"""The models of a request for a video, and what they say of fields that the request leaves out."""

from __future__ import annotations

from dataclasses import replace

from promptreel.api.add_on_fields import AddOnFields
from promptreel.api.field_reader import FieldReader
from promptreel.errors import CheckpointUnusable, InvalidParams, ModelNotFound, PromptreelError
from promptreel.extras import is_installed
from promptreel.jobs.params import VideoParams
from promptreel.models.composition import AddOns, ModelSet, compose, find_add_ons, stand_for_base
from promptreel.models.families import FAMILIES, fit_clip
from promptreel.models.gate import check_checkpoint
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import DEFAULT_MODEL_ID, ModelCard, ModelRegistry

MAX_ID = 255


def read_models(reader: FieldReader, model_id: str, models: ModelRegistry, *, or_default: bool = False) -> ModelSet:
    """Reads the field `motion_adapter`. `or_default`: takes the default model in place of an unknown one.

    Raises InvalidParams, ModelNotFound and CheckpointUnusable. Wrong fields are reported first, as by the hosted service.
    """
    adapter = (reader.text("motion_adapter", maximum=MAX_ID) or "").strip() or None
    try:
        found = compose(models, model_id, adapter)
        _check_fit(found)
    except ModelNotFound:
        reader.raise_errors()
        if not or_default:
            raise
        return compose(models, DEFAULT_MODEL_ID)
    except PromptreelError:
        reader.raise_errors()
        raise
    return found


def stand_for_base_in(models: ModelRegistry, model_id: str, uses: AddOnFields) -> tuple[str, AddOnFields]:
    """See stand_for_base."""
    base, loras = stand_for_base(models, model_id, uses.loras)
    return base, replace(uses, loras=loras)


def _check_fit(found: ModelSet) -> None:
    """Raises InvalidParams if a motion adapter does not fit a folder that was laid out by hand: its base is unknown."""
    if found.adapter is None or found.checkpoint.record is not None or not is_installed("media"):
        return
    try:
        check_checkpoint(found.checkpoint, found.adapter, found.vae)
    except CheckpointUnusable as error:
        raise InvalidParams({"motion_adapter": [error.message]}) from error


def read_add_on_cards(reader: FieldReader, fields: AddOnFields, models: ModelRegistry, checkpoint: ModelCard) -> AddOns:
    """The cards of the LoRAs and embeddings. Rejects the field if one does not exist or does not fit. Raises
    CheckpointUnusable.
    """
    try:
        return find_add_ons(models, fields, checkpoint)
    except InvalidParams as error:
        for kind, field in ((ModelKind.LORA, fields.lora_field), (ModelKind.EMBEDDING, fields.embedding_field)):
            for message in error.fields.get(kind.value, ()):
                reader.reject(field, message)
        return AddOns()


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
