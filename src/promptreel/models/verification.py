"""Whether a model's files are those that were imported, and whether a job could load them."""

from __future__ import annotations

from promptreel.errors import CheckpointUnusable
from promptreel.extras import is_installed
from promptreel.models.families import WAN
from promptreel.models.gate import Checked, check_checkpoint, check_weights
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelCard, ModelRegistry
from promptreel.models.stored_files import hash_file
from promptreel.models.wan.checkpoint import check_wan


def why_unusable(card: ModelCard, models: ModelRegistry) -> str | None:
    """Why no job could load the model, or None. Looks at names, sizes, configs and headers; `verify` reads all."""
    if not is_installed("media"):
        return None
    if changed := models.missing_files(card):
        return f"{changed[0]} is gone, or was changed. Import the model again."
    if card.kind is not ModelKind.CHECKPOINT or not card.has_motion:
        return None
    try:
        _check(card)
    except CheckpointUnusable as error:
        return error.message
    return None


def verify(card: ModelCard, models: ModelRegistry) -> None:
    """Raises CheckpointUnusable with what is wrong, and StorageFailed."""
    if card.record is not None:
        for name, file in card.record.files.items():
            path = models.file_path(file)
            if not path.exists():
                raise CheckpointUnusable(f"{name} is gone from the data directory. Import the model again.")
            if hash_file(path) != file:
                raise CheckpointUnusable(f"{name} is not the file that was imported: it was changed. Import the model again.")
    if card.kind is not ModelKind.CHECKPOINT or not card.has_motion:
        return
    check_weights(_check(card))


def _check(card: ModelCard) -> Checked:
    return check_wan(card) if card.family == WAN.name else check_checkpoint(card)
