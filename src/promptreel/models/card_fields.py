"""The fields of a model's card: those of a folder's `promptreel.json`, and those that an importer may give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from promptreel.errors import InvalidParams
from promptreel.jobs.params import MAX_FRAMES, SCHEDULERS
from promptreel.models.json_files import read_model

CARD_NAME = "promptreel.json"
MAX_TEXT = 2000
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)

ModelId = Annotated[str, Field(pattern=MODEL_ID.pattern)]
Size = Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
Frames = Annotated[int, Field(ge=1, le=MAX_FRAMES)]
Fps = Annotated[int, Field(ge=1, le=30)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Phrases = Annotated[tuple[Phrase, ...], Field(max_length=50)]
Word = Annotated[str, Field(max_length=100)]
Guidance = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
Expert = Literal["high_noise", "low_noise"]
FlowShift = Annotated[float, Field(ge=0.1, le=100)] | Literal["by_size"]


def _check_scheduler(name: str) -> str:
    if name not in SCHEDULERS:
        raise ValueError(f"there is no scheduler {name[:100]!r}")
    return name


class _Fields(BaseModel):
    """What every card may say; docs/models.md describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: Text = ""
    licence: Annotated[str, Field(max_length=200)] | None = None
    native_width: Size | None = None
    native_height: Size | None = None
    trigger_words: Phrases = ()
    quality_words: Phrases = ()
    motion_adapter: ModelId | None = None
    vae: ModelId | None = None
    beta_schedule: Literal["linear", "scaled_linear"] | None = None
    default_scheduler: str | None = None
    default_steps: Annotated[int, Field(ge=1, le=50)] | None = None
    default_guidance: Guidance | None = None
    flow_shift: FlowShift | None = None
    low_noise_guidance: Guidance | None = None

    @model_validator(mode="after")
    def _phrases_are_short(self) -> Self:
        """Limits the length: the model reads all of it for each frame."""
        if sum(map(len, self.trigger_words + self.quality_words)) > MAX_TEXT:
            raise ValueError(f"trigger_words and quality_words may have {MAX_TEXT} characters together")
        return self


class CardFile(_Fields):
    """A folder's `promptreel.json`."""

    model_config = ConfigDict(strict=True)

    name: Name
    family: Annotated[str, Field(min_length=1, max_length=100)]
    base: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    max_frames: Frames
    fps: Fps
    default_negative_prompt: Text = ""
    default_scheduler: Annotated[str, AfterValidator(_check_scheduler)] | None = None
    words: frozenset[Word] = frozenset()
    reference_seconds_per_unit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _sizes_come_together(self) -> Self:
        if (self.native_width is None) != (self.native_height is None):
            raise ValueError("give native_width and native_height, or neither")
        return self


class CardFields(_Fields):
    """What an importer may say of a model. None, or nothing, means what the files or the family say."""

    name: Name | None = None
    max_frames: Frames | None = None
    fps: Fps | None = None
    default_negative_prompt: Text | None = None
    expert: Expert | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that say something, as JSON."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, "", [])}


def read_card_file(file: Path) -> dict[str, Any]:
    """What a card says, as JSON. Raises CheckpointUnusable."""
    return read_model(file, CARD_NAME, CardFile).model_dump(mode="json")


def read_card_fields(fields: Mapping[str, Any]) -> CardFields:
    """Raises InvalidParams, with what is wrong for each field."""
    try:
        card = CardFields.model_validate(dict(fields))
    except ValidationError as error:
        wrong: dict[str, list[str]] = {}
        for problem in error.errors(include_url=False):
            name = str(problem["loc"][0]) if problem["loc"] else "trigger_words"  # what is wrong with two fields
            wrong.setdefault(name, []).append(f"The {name.replace('_', ' ')} is invalid: {problem['msg']}.")
        raise InvalidParams(wrong) from error
    if (card.native_width is None) != (card.native_height is None):
        raise InvalidParams({"native_width": ["Give native_width and native_height, or neither."]})
    if card.default_scheduler is not None and card.default_scheduler not in SCHEDULERS:
        raise InvalidParams({"default_scheduler": [f"There is no scheduler {card.default_scheduler[:100]!r}."]})
    return card
