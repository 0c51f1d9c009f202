"""The models that the service knows: all folders with a card, `promptreel.json`, and the imported ones.

Nothing is cached: cards and rows are read anew on each access, so that no process sees an old state.
"""

from __future__ import annotations

import builtins
import copy
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from promptreel.errors import CheckpointUnusable, InvalidParams, ModelNotFound, NotAvailable
from promptreel.jobs.keys import Caller
from promptreel.models.card_fields import CARD_NAME, MODEL_ID, CardFile, Expert
from promptreel.models.index import has_motion
from promptreel.models.json_files import read_model
from promptreel.models.kinds import ANIMATEDIFF, ModelKind
from promptreel.models.store import ModelRecord, ModelStore
from promptreel.models.stored_files import StoredFile, StoredFiles

DEFAULT_MODEL_ID = "cutout"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the service knows about a model before loading it.

    Clips are made at the native size (pixels; None: any size) and scaled to the requested size. `max_frames` is the most that
    the motion modules take at once; for Wan, the most frames of a clip. `trigger_words` and `quality_words` are phrases for
    enhanced prompts (phrases.py). `words` is the vocabulary; empty: no vocabulary. `beta_schedule` is the motion modules' noise
    table; None: the scheduler's file has it (noise_table.py). `kind` and `base` say what it is and what it fits on.
    `motion_adapter` and `vae` are ids of other models that it is made with; `has_motion`: whether it has motion modules of its
    own. `record`: an imported model's row. `content_hash`: the hash of its files. `flow_shift`,
    `low_noise_guidance` and a LoRA's `expert` are Wan's (docs/models.md). `reference_seconds_per_unit` was measured on two CPU
    cores, for estimates before the first job.
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
    kind: ModelKind = ModelKind.CHECKPOINT
    base: str | None = None
    motion_adapter: str | None = None
    vae: str | None = None
    licence: str | None = None
    default_scheduler: str | None = None
    default_steps: int | None = None
    default_guidance: float | None = None
    flow_shift: float | Literal["by_size"] | None = None
    low_noise_guidance: float | None = None
    expert: Expert | None = None
    has_motion: bool = True
    content_hash: str | None = None
    base_model: str | None = None
    record: ModelRecord | None = field(default=None, compare=False)

    @property
    def is_public(self) -> bool:
        """Whether all callers see it."""
        return self.record is None or self.record.is_public

    @property
    def created_at(self) -> datetime:
        """When the model was imported, or its folder last changed."""
        if self.record is not None and self.record.created_at is not None:
            return self.record.created_at
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)


class ModelRegistry:
    """The models in two folders, the package's and the user's, and the imported ones. If several have the same id, the built-in
    model wins, then the user's folder, then the imported model.

    `store` and `files`: the imported models; None: there are none. `aliases`: other names for models in requests, for clients
    that were written for another service's models.
    """

    def __init__(
        self,
        *,
        built_in: Path,
        models_dir: Path,
        store: ModelStore | None = None,
        files: StoredFiles | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._aliases = dict(aliases or {})
        self._built_in = built_in
        self._roots = (models_dir, built_in)
        self._store = store
        self._files = files
        self._caller: Caller | None = None

    def seen_by(self, caller: Caller) -> ModelRegistry:
        """The registry as this caller sees it: without the private models of others, which look like unknown ids."""
        theirs = copy.copy(self)
        theirs._caller = caller
        return theirs

    def get(self, model_id: str) -> ModelCard:
        """A model of any kind. Raises ModelNotFound, or CheckpointUnusable if the card is wrong."""
        folders = self._folders()
        for name in dict.fromkeys((model_id, self._aliases.get(model_id, model_id))):
            if name in folders:
                return _read_card(folders[name])
            if record := self._find_record(name):
                return self._to_card(record)
        raise self._not_found(self._aliases.get(model_id, model_id))

    def _not_found(self, model_id: str) -> ModelNotFound:
        known = ", ".join(sorted({*self._folders(), *(record.id for record in self._records())}))
        why = self.left_out().get(model_id)
        return ModelNotFound(
            f"There is no model {model_id[:100]!r}{f': {why}' if why else '.'} Known models: {known or 'none'}. "
            f"To accept this name for another model, set PROMPTREEL_MODEL_ALIASES={_alias_for(model_id)}."
        )

    def is_built_in(self, model_id: str) -> bool:
        """Whether the model comes with the package."""
        folder = self._folders().get(model_id)
        return folder is not None and folder.parent == self._built_in

    def list(self, *, tell: bool = True) -> list[ModelCard]:
        """All models with a usable card, checkpoints first, by id. The others are left out, and logged if `tell`."""
        folders, cards = self._folders(), []
        for folder in folders.values():
            try:
                cards.append(_read_card(folder))
            except CheckpointUnusable as error:
                if tell:
                    logging.getLogger(__name__).warning("model left out: %s", error)
        cards += [self._to_card(record) for record in self._records() if record.id not in folders]
        return sorted(cards, key=lambda card: (card.kind is not ModelKind.CHECKPOINT, card.model_id))

    def left_out(self) -> dict[str, str]:
        """Entries of the user's model folder that are not usable models, by name, with the reason and what to do."""
        root = self._roots[0]
        found = sorted(root.iterdir()) if root.is_dir() else []
        reasons = {path.name: _why_left_out(path, self._built_in) for path in found if not path.name.startswith(".")}
        return {name: reason for name, reason in reasons.items() if reason}

    def remove(self, model_id: str, *, force: bool = False) -> ModelRecord:
        """Removes an imported model, and its files unless another model has them. A caller can remove only its own models.

        The row goes first. A crash leaves files that no row names; the next removal or import sweeps them.

        Raises ModelNotFound; NotAvailable for a model that cannot be removed this way; ModelInUse unless `force`.
        """
        card = self.get(model_id)
        if self.is_built_in(card.model_id):
            raise NotAvailable(f'The model "{card.model_id}" is built in and cannot be deleted.')
        if card.record is None or self._store is None:
            raise NotAvailable(
                f"The model {card.model_id!r} was not imported. Remove its folder, <data-dir>/models/{card.model_id}. "
                "No restart is needed."
            )
        if self._caller is not None and card.record.api_key_id != self._caller.api_key_id:
            raise NotAvailable(
                f"The model {card.model_id!r} was imported by somebody else. The service's operator can remove it with "
                f"`promptreel models remove {card.model_id}`."
            )
        removed = self._store.remove(card.model_id, force=force)
        self.sweep()
        return removed

    def file_path(self, file: StoredFile) -> Path:
        """Where a file of an imported model is."""
        assert self._files is not None
        return self._files.path(file)

    def only_file(self, card: ModelCard) -> tuple[Path, str]:
        """Where the one file of an imported model is, and its SHA-256. Raises CheckpointUnusable if it has none or several."""
        files = (
            [] if card.record is None else [file for name, file in card.record.files.items() if name.endswith(".safetensors")]
        )
        if len(files) != 1:
            raise CheckpointUnusable(f"The model {card.model_id!r} is not one .safetensors file: import it as one.")
        return self.file_path(files[0]), files[0].sha256

    def is_stored(self, file: StoredFile) -> bool:
        """Whether a file of an imported model is there, and has its size."""
        return self._files is not None and self._files.is_there(file)

    def missing_files(self, card: ModelCard) -> builtins.list[str]:
        """The files of an imported model that are not there, or have another size."""
        files = card.record.files if card.record else {}
        return [name for name, file in files.items() if not self.is_stored(file)]

    def sweep(self) -> int:
        """Deletes stored files that no model has. Returns how many bytes that freed."""
        return 0 if self._files is None or self._store is None else self._files.sweep(self._store.hashes)

    def free_id(self, given: str | None, suggested: str, *, source: str, replace: bool) -> str:
        """The id for a model to import. A given id is used as it is; it may replace a model. A suggested id gets a number if it
        is taken, unless by the caller's own model that this import repeats or may replace.

        Raises InvalidParams if the given one cannot be used.
        """
        if given is not None:
            self.check_id(given)
            return given
        for number in itertools.count(1):
            name = suggested if number == 1 else f"{suggested[:95]}-{number}"
            taken = name in self._folders() or (self._store is not None and self._store.find(name) is not None)
            if not taken or ((record := self._find_own(name)) is not None and (replace or record.source == source)):
                return name
        raise AssertionError("unreachable")

    def check_id(self, model_id: str) -> None:
        """Raises InvalidParams if no model may be imported under this id."""
        if MODEL_ID.fullmatch(model_id) is None:
            raise _bad_id("An id has up to 100 letters, digits and ._-, and begins with a letter or a digit.")
        if model_id in self._folders():
            raise _bad_id(f"The id {model_id!r} is that of a model's folder. Choose another one.")
        if self._store is not None and self._store.find(model_id) is not None and self._find_own(model_id) is None:
            raise _bad_id(f"The id {model_id!r} is taken. Choose another one.")

    def _records(self) -> builtins.list[ModelRecord]:
        return [] if self._store is None else [record for record in self._store.list() if self._sees(record)]

    def _find_record(self, model_id: str) -> ModelRecord | None:
        record = None if self._store is None else self._store.find(model_id)
        return record if record is not None and self._sees(record) else None

    def _find_own(self, model_id: str) -> ModelRecord | None:
        record = self._find_record(model_id)
        is_own = record is not None and (self._caller is None or record.api_key_id == self._caller.api_key_id)
        return record if is_own else None

    def _sees(self, record: ModelRecord) -> bool:
        return self._caller is None or record.is_public or record.api_key_id == self._caller.api_key_id

    def _to_card(self, record: ModelRecord) -> ModelCard:
        assert self._files is not None
        return to_card(record, self._files.lay_out(record.hash, record.files))

    def _folders(self) -> dict[str, Path]:
        """Folders with a card, by id. Ids are looked up here and never joined to a path, so a request cannot choose a path."""
        return {
            folder.name: folder
            for root in self._roots
            if root.is_dir()
            for folder in root.iterdir()
            if MODEL_ID.fullmatch(folder.name) and _has_card(folder)
        }


def _bad_id(message: str) -> InvalidParams:
    return InvalidParams({"model_id": [message]})


def _alias_for(model_id: str) -> str:
    """The value that would add this alias. NAME stands for a name that is not valid there."""
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
        return "the folder's name is not a valid id. Use up to 100 letters, digits and ._-, and begin with a letter or a digit."
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
    card = read_model(folder / CARD_NAME, f"{folder.name}/{CARD_NAME}", CardFile)
    moves = card.family != ANIMATEDIFF or has_motion(folder)
    return ModelCard(model_id=folder.name, path=folder, has_motion=moves, **dict(card))


DEFAULT_FPS, DEFAULT_MAX_FRAMES = 8, 16
"""What AnimateDiff's motion adapters were trained at."""


def to_card(record: ModelRecord, path: Path) -> ModelCard:
    """The card of an imported model, whose files are in the folder `path`."""
    told = record.card
    return ModelCard(
        model_id=record.id,
        name=told.get("name") or record.id,
        description=told.get("description") or "",
        family=record.family or "",
        path=path,
        native_width=told.get("native_width"),
        native_height=told.get("native_height"),
        max_frames=told.get("max_frames") or DEFAULT_MAX_FRAMES,
        fps=told.get("fps") or DEFAULT_FPS,
        default_negative_prompt=told.get("default_negative_prompt") or "",
        trigger_words=tuple(told.get("trigger_words") or ()),
        quality_words=tuple(told.get("quality_words") or ()),
        words=frozenset(told.get("words") or ()),
        beta_schedule=told.get("beta_schedule"),
        reference_seconds_per_unit=told.get("reference_seconds_per_unit"),
        kind=record.kind,
        base=record.base,
        motion_adapter=told.get("motion_adapter"),
        vae=told.get("vae"),
        licence=told.get("licence"),
        default_scheduler=told.get("default_scheduler"),
        default_steps=told.get("default_steps"),
        default_guidance=told.get("default_guidance"),
        flow_shift=told.get("flow_shift"),
        low_noise_guidance=told.get("low_noise_guidance"),
        expert=told.get("expert"),
        has_motion=bool(told.get("has_motion")),
        content_hash=record.hash,
        base_model=told.get("base_model"),
        record=record,
    )
