"""What an importer may say of a model: the fields of its card that are not found out from its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from promptreel.errors import InvalidParams
from promptreel.jobs.params import MAX_FRAMES, SCHEDULERS
from promptreel.models.registry import MAX_TEXT, MODEL_ID, Expert, FlowShift, Phrases, Size

ModelId = Annotated[str, Field(pattern=MODEL_ID.pattern)]


class CardFields(BaseModel):
    """All are optional: None, or nothing, means what the files or the family say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, min_length=1, max_length=200)
    description: str = Field(default="", max_length=MAX_TEXT)
    licence: str | None = Field(default=None, max_length=200)
    native_width: Size | None = None
    native_height: Size | None = None
    max_frames: int | None = Field(default=None, ge=1, le=MAX_FRAMES)
    fps: int | None = Field(default=None, ge=1, le=30)
    default_negative_prompt: str | None = Field(default=None, max_length=MAX_TEXT)
    trigger_words: Phrases = ()
    quality_words: Phrases = ()
    motion_adapter: ModelId | None = None
    vae: ModelId | None = None
    beta_schedule: Literal["linear", "scaled_linear"] | None = None
    default_scheduler: str | None = None
    default_steps: int | None = Field(default=None, ge=1, le=50)
    default_guidance: float | None = Field(default=None, ge=0, le=20)
    flow_shift: FlowShift | None = None
    low_noise_guidance: float | None = Field(default=None, ge=0, le=20)
    expert: Expert | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that say something, as JSON."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, "", [])}


def read_card_fields(fields: Mapping[str, Any]) -> CardFields:
    """Raises InvalidParams, with what is wrong for each field."""
    try:
        card = CardFields.model_validate(dict(fields))
    except ValidationError as error:
        wrong: dict[str, list[str]] = {}
        for problem in error.errors(include_url=False):
            name = str(problem["loc"][0])
            wrong.setdefault(name, []).append(f"The {name.replace('_', ' ')} is invalid: {problem['msg']}.")
        raise InvalidParams(wrong) from error
    if (card.native_width is None) != (card.native_height is None):
        raise InvalidParams({"native_width": ["Give native_width and native_height, or neither."]})
    if card.default_scheduler is not None and card.default_scheduler not in SCHEDULERS:
        raise InvalidParams({"default_scheduler": [f"There is no scheduler {card.default_scheduler[:100]!r}."]})
    return card
