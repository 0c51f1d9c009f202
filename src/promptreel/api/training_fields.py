"""Reads a request for a training, in the words of either API: fields in, a wish and its examples out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from promptreel.api.field_reader import FieldReader, Limits, is_url
from promptreel.api.import_fields import VISIBILITIES
from promptreel.api.init_fields import decode_file
from promptreel.api.webhook_field import read_webhook
from promptreel.errors import InvalidParams
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.keys import Caller
from promptreel.jobs.params import MAX_SEED
from promptreel.jobs.training_params import ExampleKind
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.training.examples import SentExample
from promptreel.training.plan import (
    LEAST_RATE,
    LEAST_SIDE,
    LORA_TYPES,
    MOST_RANK,
    MOST_RATE,
    MOST_SAMPLE_PROMPTS,
    MOST_SIDE,
    Wanted,
    check_number,
    find_preset,
)

MAX_TEXT = 2000
MAX_ID = 255
STEPS = Limits(1, 10**9, clamps=True, unset=0)  # the preset says how many there may be
BATCH = Limits(1, 10**6, clamps=True, unset=0)
RANK = Limits(1, MOST_RANK)
RATE = Limits(LEAST_RATE, MOST_RATE)
SIDE = Limits(LEAST_SIDE, MOST_SIDE, unset=0)
FRAMES = Limits(1, 240, unset=0)
FPS = Limits(1, 30, unset=0)
SEED = Limits(0, MAX_SEED, unset=-1)
Fetch = Callable[[str, ExampleKind], bytes]
"""The file behind a URL. Raises UrlUnusable."""

EXAMPLE_FIELDS = ("images", "videos")
_READ_ELSEWHERE = ("key", "track_id", *EXAMPLE_FIELDS)
_SHOWN_LENGTH = 100


@dataclass(frozen=True, kw_only=True)
class Words:
    """An API's names of the fields, and the preset of requests that name none. `tells_ignored`: whether fields that have no
    effect are noted.
    """

    base: str
    model_id: str
    steps: str
    visibility: str
    preset: str
    tells_ignored: bool = False

    def rename(self, error: InvalidParams) -> InvalidParams:
        """The error with the API's names of the fields."""
        names = {"base": self.base, "model_id": self.model_id, "steps": self.steps}
        return InvalidParams({names.get(name, name): messages for name, messages in error.fields.items()})


@dataclass(frozen=True, kw_only=True)
class SentTraining:
    """A request for a training. `field`: the one with the examples. `notes`: what was changed of it."""

    wanted: Wanted
    examples: tuple[SentExample, ...]
    field: str
    webhook_url: str | None
    track_id: str | None
    notes: tuple[str, ...]


def read_training(sent: Mapping[str, Any], words: Words, *, caller: Caller, fetcher: SafeFetcher, fetch: Fetch) -> SentTraining:
    """Fetches nothing yet. `fetch` reads the examples that are URLs. Raises InvalidParams with all wrong fields."""
    reader = FieldReader(_gather_parts(sent))
    wanted = _read_wanted(reader, words, caller)
    webhook_url = read_webhook(reader, fetcher)
    track_id = reader.scalar("track_id", maximum=MAX_TEXT)
    field = next((name for name in EXAMPLE_FIELDS if reader.given(name) is not None), _field_of(wanted.preset))
    values = _read_list(reader, field)
    if not values:
        reader.reject(field, f"The {field} field is required.")
    captions = _read_captions(reader, field, values)
    notes = [f"{name} was moved to {value:g}" for name, value in reader.clamped.items()]
    if words.tells_ignored and (ignored := reader.name_ignored(but=_READ_ELSEWHERE)):
        notes.append(f"ignored fields: {', '.join(ignored)}")
    reader.raise_errors()
    preset = find_preset(wanted.preset)
    check_number(len(values), preset, field=field)
    examples = [_to_example(value, caption, preset.examples, fetch) for value, caption in zip(values, captions, strict=True)]
    return SentTraining(
        wanted=wanted,
        examples=tuple(examples),
        field=field,
        webhook_url=webhook_url,
        track_id=track_id,
        notes=tuple(notes),
    )


def _read_wanted(reader: FieldReader, words: Words, caller: Caller) -> Wanted:
    is_public = caller.api_key_id is None or reader.choice(words.visibility, VISIBILITIES, default="private") == "public"
    texts: dict[str, Any] = {
        name: _read_text(reader, name) for name in ("trigger", "instance_prompt", "class_prompt", "motion_adapter", "name")
    }
    wholes = {"rank": RANK, "width": SIDE, "height": SIDE, "num_frames": FRAMES, "fps": FPS, "seed": SEED, "batch_size": BATCH}
    numbers: dict[str, Any] = {name: reader.whole(name, limits, default=None) for name, limits in wholes.items()}
    prompts = [each for each in _read_list(reader, "sample_prompts") if isinstance(each, str) and each.strip()]
    if len(prompts) > MOST_SAMPLE_PROMPTS or any(len(each) > MAX_TEXT for each in prompts):
        why = f"There may be {MOST_SAMPLE_PROMPTS} sample prompts, of {MAX_TEXT} characters at most."
        reader.reject("sample_prompts", why)
    return Wanted(
        base=_read_text(reader, words.base, maximum=MAX_ID) or DEFAULT_MODEL_ID,
        preset=(_read_text(reader, "preset") or words.preset).lower(),
        model_id=_read_text(reader, words.model_id, maximum=MAX_ID),
        lora_type=reader.choice("lora_type", LORA_TYPES, default=LORA_TYPES[0]),
        steps=reader.whole(words.steps, STEPS, default=None),
        learning_rate=reader.number("learning_rate", RATE, default=None),
        sample_prompts=tuple(prompts),
        is_public=is_public,
        replace=reader.yes_no("replace", default=False),
        **texts,
        **numbers,
    )


def _read_text(reader: FieldReader, name: str, *, maximum: int = MAX_TEXT) -> str | None:
    """None also for null in words, and for a text of spaces."""
    if reader.given(name) is None:
        return None
    return (reader.text(name, maximum=maximum) or "").strip() or None


def _field_of(preset: str) -> str:
    return EXAMPLE_FIELDS[find_preset(preset).examples is ExampleKind.CLIP]


def _gather_parts(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with `images[]` and `images[0]`, `images[1]` of forms as lists."""
    gathered: dict[str, Any] = dict(sent)
    for name in (*EXAMPLE_FIELDS, "captions", "sample_prompts"):
        parts = [(key, value) for key, value in sent.items() if key.startswith(f"{name}[")]
        if not parts or sent.get(name) is not None:
            continue
        parts.sort(key=lambda part: (len(part[0]), part[0]))
        gathered[name] = [each for _, value in parts for each in (value if isinstance(value, list) else [value])]
    return gathered


def _read_list(reader: FieldReader, name: str) -> list[Any]:
    """A list; as text, a list in JSON; or one value."""
    value = reader.given(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            reader.reject(name, f"The {name} must be a list.")
            return []
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]


def _read_captions(reader: FieldReader, field: str, values: list[Any]) -> list[str | None]:
    """From the field `captions`, in the order of the examples, or from examples that are objects with a caption."""
    captions = _read_list(reader, "captions")
    if captions and len(captions) != len(values):
        reader.reject("captions", f"The captions must be one for each of the {len(values)} {field}, not {len(captions)}.")
        return [None] * len(values)
    inner = [value.get("caption") if isinstance(value, Mapping) else None for value in values]
    found = [mine or given for mine, given in zip(inner, captions or [None] * len(values), strict=True)]
    if any(each is not None and (not isinstance(each, str) or len(each) > MAX_TEXT) for each in found):
        reader.reject("captions", f"A caption must be a string, of {MAX_TEXT} characters at most.")
    return found


def _to_example(value: Any, caption: str | None, kind: ExampleKind, fetch: Fetch) -> SentExample:
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("url", "image", "video", "data") if value.get(name)), None)
    if isinstance(value, bytes):
        return SentExample("a file", caption, lambda: value)
    if is_url(value):
        url = str(value).strip()
        return SentExample(_shorten(url), caption, lambda: fetch(url, kind))
    shown = "a data: URI" if isinstance(value, str) and value.lstrip()[:5].lower() == "data:" else _shorten(repr(value))
    return SentExample(shown, caption, partial(decode_file, str(kind), value, wanted="a URL, a data: URI or base64"))


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."
