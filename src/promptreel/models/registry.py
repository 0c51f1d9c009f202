"""The checkpoints that the service knows: all folders with a card, `promptreel.json`. Cards are read anew on each access."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from promptreel.errors import CheckpointUnusable, ModelNotFound
from promptreel.models.json_files import read_model

DEFAULT_MODEL_ID = "cutout"
CARD_NAME = "promptreel.json"
MAX_TEXT = 2000
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)

Size = Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]

Phrases = Annotated[tuple[Phrase, ...], Field(max_length=50)]
Word = Annotated[str, Field(max_length=100)]


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the service knows about a checkpoint before loading it.

    Clips are made at the native size (pixels; None: any size) and scaled to the requested size. `max_frames` is the most that
    the motion modules take at once. `trigger_words` and `quality_words` are phrases for enhanced prompts (phrases.py). `words`
    is the vocabulary; empty: no vocabulary. `beta_schedule` is the motion modules' noise table; None: the scheduler's file
    has it (noise_table.py). `reference_seconds_per_unit` was measured on two CPU cores, for estimates before the first job.
    """

    model_id: str
    name: str
    description: str
    family: str
    path: Path
    native_width: int | None
    native_height: int | None
    max_frames: int
    fps: int
    default_negative_prompt: str
    trigger_words: tuple[str, ...]
    quality_words: tuple[str, ...]
    words: frozenset[str]
    beta_schedule: str | None
    reference_seconds_per_unit: float | None


class _CardFile(BaseModel):
    """`promptreel.json`; docs/models.md describes it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1, max_length=200)
    description: str = Field(default="", max_length=MAX_TEXT)
    family: str = Field(min_length=1, max_length=100)
    native_width: Size | None = None
    native_height: Size | None = None
    max_frames: int = Field(ge=1, le=240)
    fps: int = Field(ge=1, le=30)
    default_negative_prompt: str = Field(default="", max_length=MAX_TEXT)
    trigger_words: Phrases = ()
    quality_words: Phrases = ()
    words: frozenset[Word] = frozenset()
    beta_schedule: Literal["linear", "scaled_linear"] | None = None
    reference_seconds_per_unit: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _sizes_come_together(self) -> Self:
        if (self.native_width is None) != (self.native_height is None):
            raise ValueError("give native_width and native_height, or neither")
        return self

    @model_validator(mode="after")
    def _phrases_are_no_book(self) -> Self:
        """Limits the length: the model reads all of it for each frame."""
        if sum(map(len, self.trigger_words + self.quality_words)) > MAX_TEXT:
            raise ValueError(f"trigger_words and quality_words may have {MAX_TEXT} characters together")
        return self


class ModelRegistry:
    """The checkpoints in two folders: the package's and the user's. A built-in one hides a user's one of the same name.

    `aliases`: other names for them in requests, for clients that were written for another service's models.
    """

    def __init__(self, *, built_in: Path, models_dir: Path, aliases: Mapping[str, str] | None = None) -> None:
        self._aliases = dict(aliases or {})
        self._built_in = built_in
        self._roots = (models_dir, built_in)

    def get(self, model_id: str) -> ModelCard:
        """Raises ModelNotFound, or CheckpointUnusable if the card is wrong."""
        folders = self._folders()
        meant = model_id if model_id in folders else self._aliases.get(model_id, model_id)
        if meant not in folders:
            known = ", ".join(sorted(folders))
            why = self.left_out().get(meant)
            raise ModelNotFound(
                f"There is no model {meant[:100]!r}{f': {why}' if why else '.'} Known models: {known or 'none'}. "
                f"Clients may use another name with the setting PROMPTREEL_MODEL_ALIASES={_alias_for(meant)}."
            )
        return _read_card(folders[meant])

    def is_built_in(self, model_id: str) -> bool:
        """Whether the model comes with the package."""
        folder = self._folders().get(model_id)
        return folder is not None and folder.parent == self._built_in

    def list(self, *, tell: bool = True) -> list[ModelCard]:
        """All models with a usable card, by id. Others are left out, and logged unless the caller reports them."""
        cards = []
        for _, folder in sorted(self._folders().items()):
            try:
                cards.append(_read_card(folder))
            except CheckpointUnusable as error:
                if tell:
                    logging.getLogger(__name__).warning("model left out: %s", error)
        return cards

    def left_out(self) -> dict[str, str]:
        """Entries of the user's model folder that are no usable model, by name, with the reason and what to do."""
        root = self._roots[0]
        found = sorted(root.iterdir()) if root.is_dir() else []
        reasons = {path.name: _why_left_out(path, self._built_in) for path in found if not path.name.startswith(".")}
        return {name: reason for name, reason in reasons.items() if reason}

    def _folders(self) -> dict[str, Path]:
        """Folders with a card, by id. Ids are looked up here and never joined to a path, so a request cannot choose a path."""
        return {
            folder.name: folder
            for root in self._roots
            if root.is_dir()
            for folder in root.iterdir()
            if MODEL_ID.fullmatch(folder.name) and _has_card(folder)
        }


def _alias_for(model_id: str) -> str:
    """The setting that would add this alias, if the name is valid in it."""
    return f"{model_id if MODEL_ID.fullmatch(model_id) else 'NAME'}={DEFAULT_MODEL_ID}"


def _has_card(folder: Path) -> bool:
    try:
        return (folder / CARD_NAME).is_file()
    except OSError:  # an unreadable folder must not hide the others
        return False


def _why_left_out(path: Path, built_in: Path) -> str | None:
    if not path.is_dir():
        is_checkpoint = path.suffix in {".safetensors", ".ckpt", ".pt", ".bin"}
        return "a model is a folder, not a file. Lay it out as docs/models.md says." if is_checkpoint else None
    if MODEL_ID.fullmatch(path.name) is None:
        return "the folder's name can be no id. Use up to 100 letters, digits and ._-, and begin with a letter or a digit."
    if not _has_card(path):
        return f"its folder has no card, or one that cannot be read. Write {CARD_NAME} into it, as docs/models.md says."
    if _has_card(built_in / path.name):
        return "the built-in model of this name is used in its place. Rename the folder."
    try:
        _read_card(path)
    except CheckpointUnusable as error:
        return error.message
    return None


def _read_card(folder: Path) -> ModelCard:
    card = read_model(folder / CARD_NAME, f"{folder.name}/{CARD_NAME}", _CardFile)
    return ModelCard(model_id=folder.name, path=folder, **dict(card))
