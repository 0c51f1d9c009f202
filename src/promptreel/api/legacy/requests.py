"""Reads the hosted service's requests for a video, for every generation of its API: fields in, a NewJob out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from promptreel.api.add_on_fields import read_hosted_add_ons
from promptreel.api.field_reader import FieldReader, Limits, as_sent, count_frames, label, spell
from promptreel.api.init_fields import read_init, sent_inits
from promptreel.api.legacy.dialect import Dialect
from promptreel.api.legacy.size import read_size, spell_out_resolution
from promptreel.api.model_choice import fill_in, read_add_on_cards, read_models, stand_for_base_in
from promptreel.api.webhook_field import read_webhook
from promptreel.encoding.decoder import Decoder
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.job import NewJob
from promptreel.jobs.params import (
    DEFAULT_OUTPUT_TYPE,
    DEFAULT_SCHEDULER,
    MAX_SEED,
    OUTPUT_TYPES,
    SCHEDULERS,
    VideoParams,
)
from promptreel.media import Init
from promptreel.models.families import cost_of, negative_prompt_of, size_apart
from promptreel.models.phrases import enhance_prompt, find_unknown_words, tell_unwritten, without
from promptreel.models.registry import DEFAULT_MODEL_ID, ModelCard, ModelRegistry

MAX_TEXT = 2000
SEED = Limits(0, MAX_SEED, unset=-1)
SAMPLES = Limits(1, 4, unset=0)

SWITCHES_NOT_YET = ("safety_checker", "multi_lingual")

TIP = "for faster speed, keep resolution upto 512x512"


def read_create(
    fields: Mapping[str, Any], dialect: Dialect, models: ModelRegistry, fetcher: SafeFetcher, decoder: Decoder
) -> tuple[NewJob, Init | None]:
    """The job that a request asks for, with all defaults filled in, and its init, which is not stored yet.

    Raises InvalidParams with all wrong fields, ModelNotFound, CheckpointUnusable and DecoderBusy.
    """
    reader = FieldReader(spell_out_resolution(fields) if dialect.has_resolution else fields)
    reader.text("key", maximum=MAX_TEXT)  # must be a text even if no key is needed
    draft = _read_params(reader, dialect)
    negative_prompt = reader.text("negative_prompt", maximum=MAX_TEXT)
    enhance = reader.yes_no("enhance_prompt", default=dialect.defaults.enhance_prompt)
    track_id = reader.scalar("track_id", maximum=MAX_TEXT)
    webhook_url = read_webhook(reader, fetcher)
    left_out = _read_unavailable(reader, dialect)
    switches = {name: _to_yes_no(reader.yes_no(name, default=False)) for name in dialect.switches}
    init = _read_init(reader, dialect, fetcher, decoder)
    model_id, uses = stand_for_base_in(models, draft.model_id, read_hosted_add_ons(reader))
    made_with = read_models(reader, model_id, models, or_default=dialect.replaces_unknown_model)
    card = made_with.checkpoint
    add_ons = read_add_on_cards(reader, uses, models, card)
    reader.raise_errors()
    by_seconds = dialect.defaults.num_frames is None and not reader.is_set("num_frames")
    filled, changes = fill_in(draft, reader, made_with, by_seconds=by_seconds, api_guidance=dialect.defaults.guidance_scale)
    params = replace(
        filled,
        loras=uses.loras,
        embeddings=uses.embeddings,
        prompt=enhance_prompt(draft.prompt, card, add_ons.loras) if enhance and draft.prompt else draft.prompt,
        negative_prompt=negative_prompt_of(card) if negative_prompt is None else negative_prompt,
        init_key=init.key if init else None,
    )
    unwritten = tell_unwritten(add_ons.embeddings, params.prompt, params.negative_prompt)
    said = replace(draft, prompt=without(add_ons.embeddings, draft.prompt))
    request = {
        "dialect": dialect.name,
        "enhance_prompt": _to_yes_no(enhance),
        "tip": _advise(said, card, left_out, reader.clamped, changes + unwritten),
        "native_size": size_apart(card, filled),
        "track_id": as_sent(fields.get("track_id"), track_id),
        **switches,
    }
    new_job = NewJob(params=params, request=request, cost=cost_of(params, card), track_id=track_id, webhook_url=webhook_url)
    return new_job, init


def _read_params(reader: FieldReader, dialect: Dialect) -> VideoParams:
    """The params before the model adds its id, its prompt phrases and its negative prompt."""
    defaults, ranges = dialect.defaults, dialect.ranges
    width, height = read_size(reader, dialect)
    fps = reader.whole("fps", ranges.fps, default=defaults.fps)
    seed = reader.whole("seed", SEED, default=None)
    return VideoParams(
        model_id=reader.text("model_id", maximum=255) or DEFAULT_MODEL_ID,
        prompt=_read_prompt(reader, dialect),
        width=width,
        height=height,
        num_frames=_read_length(reader, dialect, fps),
        fps=fps,
        scheduler=reader.choice("scheduler", SCHEDULERS, default=DEFAULT_SCHEDULER),
        num_inference_steps=reader.whole(
            "num_inference_steps", ranges.num_inference_steps, default=defaults.num_inference_steps
        ),
        guidance_scale=reader.number("guidance_scale", ranges.guidance_scale, default=defaults.guidance_scale),
        strength=reader.number("strength", ranges.strength, default=defaults.strength),
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        clip_skip=reader.whole("clip_skip", ranges.clip_skip, default=0),
        output_type=reader.choice("output_type", OUTPUT_TYPES, default=DEFAULT_OUTPUT_TYPE),
    )


def _read_prompt(reader: FieldReader, dialect: Dialect) -> str:
    """The prompt may be empty if the dialect requires an init."""
    if dialect.needs_init is None:
        return reader.required_text("prompt", maximum=MAX_TEXT)
    prompt = reader.text("prompt", maximum=MAX_TEXT) or ""
    return prompt if prompt.strip() else ""


def _read_length(reader: FieldReader, dialect: Dialect, fps: int) -> int:
    """The number of frames."""
    num_frames = reader.whole("num_frames", dialect.ranges.num_frames, default=dialect.defaults.num_frames)
    if dialect.defaults.num_frames is None:
        seconds = reader.whole("seconds", dialect.ranges.seconds, default=dialect.defaults.seconds)
        return num_frames or count_frames(reader, seconds, fps)
    return num_frames or dialect.defaults.num_frames


def _read_init(reader: FieldReader, dialect: Dialect, fetcher: SafeFetcher, decoder: Decoder) -> Init | None:
    if dialect.needs_init is not None and not sent_inits(reader, dialect.needs_init):
        reader.reject(dialect.needs_init, f"The {label(dialect.needs_init)} field is required.")
    return read_init(reader, fetcher, decoder)


def _read_unavailable(reader: FieldReader, dialect: Dialect) -> list[str]:
    """The names of the fields that are ignored."""
    left_out = [name for name in SWITCHES_NOT_YET if reader.yes_no(name, default=False)]
    left_out += [name for name in dialect.left_out if reader.given(name) is not None]
    left_out += ["samples"] if reader.whole("samples", SAMPLES, default=1) > 1 else []
    # base64 says that pictures are sent as base64, which is detected anyway, and asks for the result in base64.
    return [*left_out, "base64 results"] if reader.yes_no("base64", default=False) else left_out


def _to_yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _advise(draft: VideoParams, card: ModelCard, left_out: list[str], clamped: Mapping[str, float], changes: list[str]) -> str:
    """The tip: whatever was replaced, changed or ignored, else the documented tip."""
    advice = []
    if card.model_id != draft.model_id:
        advice.append(f'there is no model "{draft.model_id[:100]}": "{card.model_id}" makes the video')
    if clamped:
        advice.append(f"moved into range: {', '.join(f'{name} {spell(each)}' for name, each in clamped.items())}")
    advice += changes
    unknown = find_unknown_words(draft.prompt, card.words)
    if unknown:
        advice.append(
            f'the model "{card.model_id}" does not know: {_name_some(unknown)}; '
            f"it knows {len(card.words)} words, of things such as {', '.join(_pick_examples(card.words))}"
        )
    if left_out:
        advice.append(f"not available yet and ignored: {', '.join(left_out)}")
    return ". ".join(advice) or TIP


def _name_some(words: list[str]) -> str:
    shown = ", ".join(word[:40] for word in words[:8])
    return shown if len(words) <= 8 else f"{shown} and {len(words) - 8} more"


def _pick_examples(words: frozenset[str]) -> list[str]:
    """Eight words from all over the alphabet, without the shortest, which rarely name things."""
    long = sorted(word for word in words if len(word) > 2) or sorted(words)
    return long[:: max(1, len(long) // 8)][:8]


def parse_job_id(text: object) -> int | None:
    """A job's id as sent in a path or a body; None if it cannot be one."""
    digits = str(text).strip() if isinstance(text, str | int) and not isinstance(text, bool) else ""
    return int(digits) if re.fullmatch(r"[0-9]{1,18}", digits, re.ASCII) else None
