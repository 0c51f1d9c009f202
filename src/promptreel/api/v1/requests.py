"""Reads requests to OpenAI's `/v1/videos`: fields in; a NewJob, an id or a cursor out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from promptreel.api.add_on_fields import read_add_ons
from promptreel.api.field_reader import FieldReader, Limits, count_frames
from promptreel.api.init_fields import read_any_init
from promptreel.api.model_choice import fill_in, read_add_on_cards, read_models, stand_for_base_in
from promptreel.api.webhook_field import read_webhook
from promptreel.encoding.decoder import Decoder
from promptreel.errors import JobNotFound
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.job import NewJob, VideoJob
from promptreel.jobs.params import (
    DEFAULT_OUTPUT_TYPE,
    DEFAULT_SCHEDULER,
    MAX_FRAMES,
    MAX_SEED,
    OUTPUT_TYPES,
    SCHEDULERS,
    VideoParams,
)
from promptreel.media import Init
from promptreel.models.composition import AddOns, compose, find_add_ons
from promptreel.models.families import cost_of, negative_prompt_of, size_apart
from promptreel.models.phrases import enhance_prompt, find_unknown_words, tell_unwritten, without
from promptreel.models.registry import DEFAULT_MODEL_ID, ModelCard, ModelRegistry

DIALECT = "openai"
MAX_TEXT = 2000
SIDE = Limits(64, 1792, unset=0)  # OpenAI's own sizes reach from 720x1280 to 1792x1024
MAX_PIXELS = 1792 * 1024
DEFAULT_SIZE = "512x512"
SECONDS = Limits(1, 30, unset=0)
DEFAULT_SECONDS = 4
FPS = Limits(1, 30, unset=0)
FRAMES = Limits(1, MAX_FRAMES, unset=0)
STEPS = Limits(1, 50, unset=0)
GUIDANCE = Limits(0, 20)
STRENGTH = Limits(0, 1)
SEED = Limits(0, MAX_SEED, unset=-1)
CLIP_SKIP = Limits(0, 12)
PAGE = Limits(1, 100)
DEFAULT_PAGE = 20
ORDERS = ("desc", "asc")
VARIANTS = ("video", "thumbnail", "preview", "input")
NO_SUCH_VIDEO = "There is no such video. Ids look like video_17: check the one that was returned when it was created."

_READ_ELSEWHERE = ("key", "track_id")
"""Fields that dependencies.py reads in every request: the API key, and the id that may make a request idempotent."""
_SIZE = re.compile(r"([0-9]{1,5}) ?[xX] ?([0-9]{1,5})", re.ASCII)
_VIDEO_ID = re.compile(r"video_(0|[1-9][0-9]{0,17})", re.ASCII)


def read_create(
    fields: Mapping[str, Any],
    models: ModelRegistry,
    fetcher: SafeFetcher,
    decoder: Decoder,
    *,
    reference: str = "input_reference",
) -> tuple[NewJob, Init | None]:
    """The job that a request asks for, with all defaults filled in, and its init, which is not stored yet.

    `reference` is the field that holds the init. Raises InvalidParams with all wrong fields, ModelNotFound and DecoderBusy.
    """
    reader = FieldReader(fields)
    draft = _read_params(reader)
    negative_prompt = reader.text("negative_prompt", maximum=MAX_TEXT)
    seconds = reader.whole("seconds", SECONDS, default=DEFAULT_SECONDS)
    num_frames = reader.whole("num_frames", FRAMES, default=None) or count_frames(reader, seconds, draft.fps)
    webhook_url = read_webhook(reader, fetcher)
    enhance = reader.yes_no("enhance_prompt", default=False)
    value = _read_reference(reader) if reference == "input_reference" else reader.given(reference)
    init = read_any_init(reader, reference, value, fetcher=fetcher, decoder=decoder)
    model_id, uses = stand_for_base_in(models, draft.model_id, read_add_ons(reader))
    made_with = read_models(reader, model_id, models)
    card = made_with.checkpoint
    add_ons = read_add_on_cards(reader, uses, models, card)
    reader.raise_errors()
    filled, changes = fill_in(
        replace(draft, num_frames=num_frames), reader, made_with, by_seconds=not reader.is_set("num_frames")
    )
    params = replace(
        filled,
        loras=uses.loras,
        embeddings=uses.embeddings,
        prompt=enhance_prompt(draft.prompt, card, add_ons.loras) if enhance else draft.prompt,
        negative_prompt=negative_prompt_of(card) if negative_prompt is None else negative_prompt,
        init_key=init.key if init else None,
    )
    request = _remember(draft.prompt, params, card, reader, enhance=enhance, changes=changes, add_ons=add_ons)
    return NewJob(params=params, request=request, cost=cost_of(params, card), webhook_url=webhook_url), init


def read_remix(fields: Mapping[str, Any], source: VideoJob, models: ModelRegistry, fetcher: SafeFetcher) -> NewJob:
    """The source's job with a new prompt. Keeps all other params, even the seed. Raises InvalidParams and ModelNotFound."""
    reader = FieldReader(fields)
    prompt = reader.required_text("prompt", maximum=MAX_TEXT)
    webhook_url = read_webhook(reader, fetcher)
    reader.raise_errors()
    card = compose(models, source.params.model_id, source.params.motion_adapter).checkpoint
    add_ons = find_add_ons(models, source.params, card)
    enhance = was_enhanced(source)
    params = replace(source.params, prompt=enhance_prompt(prompt, card, add_ons.loras) if enhance else prompt)
    request = _remember(prompt, params, card, reader, enhance=enhance, add_ons=add_ons) | {"remixed_from": source.id}
    return NewJob(params=params, request=request, cost=cost_of(params, card), webhook_url=webhook_url)


def _read_params(reader: FieldReader) -> VideoParams:
    """All params except `num_frames`, `negative_prompt` and `init_key`, which `read_create` adds."""
    width, height = _read_size(reader)
    seed = reader.whole("seed", SEED, default=None)
    return VideoParams(
        model_id=reader.text("model", maximum=255) or DEFAULT_MODEL_ID,
        prompt=reader.required_text("prompt", maximum=MAX_TEXT),
        width=width - width % 8,
        height=height - height % 8,
        fps=reader.whole("fps", FPS, default=8),
        scheduler=reader.choice("scheduler", SCHEDULERS, default=DEFAULT_SCHEDULER),
        num_inference_steps=reader.whole("num_inference_steps", STEPS, default=20),
        guidance_scale=reader.number("guidance_scale", GUIDANCE, default=7.5),
        strength=reader.number("strength", STRENGTH, default=0.55),
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        clip_skip=reader.whole("clip_skip", CLIP_SKIP, default=0),
        output_type=reader.choice("output_type", OUTPUT_TYPES, default=DEFAULT_OUTPUT_TYPE),
    )


def _read_size(reader: FieldReader) -> tuple[int, int]:
    """Width and height, from `size` or, without it, from `width` and `height`, which benchmarks send."""
    default = _pixels(DEFAULT_SIZE)
    size = reader.given("size")
    if size is None:
        width = reader.whole("width", SIDE, default=default[0])
        height = reader.whole("height", SIDE, default=default[1])
        return _limit_size(reader, "width", width, height)
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None:
        reader.reject("size", f'The size must be "WIDTHxHEIGHT" in pixels, such as "{DEFAULT_SIZE}".')
        return default
    width, height = int(match[1]), int(match[2])
    if not all(SIDE.minimum <= side <= SIDE.maximum for side in (width, height)):
        reader.reject("size", f"The size must be {SIDE.minimum} to {SIDE.maximum} pixels on each side.")
        return default
    return _limit_size(reader, "size", width, height)


def _limit_size(reader: FieldReader, name: str, width: int, height: int) -> tuple[int, int]:
    if width * height > MAX_PIXELS:
        reader.reject(name, f"The video must not have more than {MAX_PIXELS} pixels, as many as 1792x1024 has.")
    return width, height


def _pixels(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return int(width), int(height)


def _read_reference(reader: FieldReader) -> object:
    """The init in any of its forms: a file, a text, or an object with a URL."""
    value = reader.given("input_reference")
    if isinstance(value, Mapping):
        inner = FieldReader({f"input_reference[{name}]": each for name, each in value.items()})
        return _read_image_url(reader, inner)
    return _read_image_url(reader, reader) if value is None else value


def _read_image_url(reader: FieldReader, inner: FieldReader) -> object:
    if inner.given("input_reference[file_id]") is not None:
        reader.reject("input_reference", "A file_id is not supported: send the file itself, its URL or a data: URI.")
        return None
    return inner.given("input_reference[image_url]")


def _remember(
    prompt: str,
    params: VideoParams,
    card: ModelCard,
    reader: FieldReader,
    *,
    enhance: bool,
    add_ons: AddOns,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """What answers need later, such as the tip, which names everything in the request that has no effect or was changed."""
    tips = [*changes, *tell_unwritten(add_ons.embeddings, params.prompt, params.negative_prompt)]
    if unknown := find_unknown_words(without(add_ons.embeddings, prompt), card.words):
        tips.append(f'the model "{card.model_id}" does not know: {", ".join(word[:40] for word in unknown[:8])}')
    if ignored := reader.name_ignored(but=_READ_ELSEWHERE):
        tips.append(f"ignored fields: {', '.join(ignored)}")
    request = {"dialect": DIALECT, "native_size": size_apart(card, params), "enhance_prompt": "yes" if enhance else "no"}
    return request | ({"tip": ". ".join(tips)} if tips else {})


def was_enhanced(job: VideoJob) -> bool:
    return job.request.get("enhance_prompt") == "yes"


@dataclass(frozen=True)
class Cursor:
    """Which videos to list. `after` is a job's id; None begins at the start."""

    limit: int
    after: int | None
    oldest_first: bool


def read_cursor(
    fields: Mapping[str, Any], *, read_id: Callable[[object], int | None] | None = None, what: str = "video"
) -> Cursor:
    """`read_id`: reads the ids of what is listed; None: those of videos. Raises InvalidParams."""
    reader = FieldReader(fields)
    limit = reader.whole("limit", PAGE, default=DEFAULT_PAGE)
    order = reader.choice("order", ORDERS, default="desc")
    sent = reader.given("after")
    after = None if sent is None else (read_id or read_video_id)(sent)
    if sent is not None and after is None:
        reader.reject("after", f'The after must be the id of a {what}, such as "{what}_17": the last_id of the previous page.')
    reader.raise_errors()
    return Cursor(limit, after, oldest_first=order == "asc")


def read_variant(fields: Mapping[str, Any]) -> str:
    """The requested file of a video: one of VARIANTS. Raises InvalidParams."""
    reader = FieldReader(fields)
    variant = reader.choice("variant", VARIANTS, default="video")
    reader.raise_errors()
    return variant


def parse_video_id(sent: str) -> int:
    """The job's id. Raises JobNotFound if the text cannot be the id of a video."""
    job_id = read_video_id(sent)
    if job_id is None:
        raise JobNotFound(NO_SUCH_VIDEO)
    return job_id


def read_video_id(sent: object) -> int | None:
    """The job's id. None if the value cannot be the id of a video."""
    match = _VIDEO_ID.fullmatch(sent) if isinstance(sent, str) else None
    return int(match[1]) if match else None
