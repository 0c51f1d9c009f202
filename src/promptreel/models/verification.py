"""Whether a model's files are those that were imported, and whether a job could load them."""

from __future__ import annotations

from promptreel.errors import CheckpointUnusable
from promptreel.extras import is_installed
from promptreel.models.families import WAN, get_family
from promptreel.models.gate import Checked, check_checkpoint, check_image_checkpoint, check_part, check_weights
from promptreel.models.inspection import read_all_tensors
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelCard, ModelRegistry
from promptreel.models.safety import check_folder
from promptreel.models.stored_files import hash_file
from promptreel.models.wan.checkpoint import check_wan
from promptreel.models.weights import check_finite


def why_unusable(card: ModelCard, models: ModelRegistry) -> str | None:
    """Why no job could load the model, or None. Looks at names, sizes, configs and headers; `verify` reads all."""
    if changed := models.missing_files(card):
        return f"{changed[0]} is gone, or was changed. Import the model again."
    if not is_installed("media"):
        return None
    try:
        _check_headers(card)
    except CheckpointUnusable as error:
        return error.message
    return None


def verify(card: ModelCard, models: ModelRegistry) -> None:
    """Raises CheckpointUnusable with what is wrong, and StorageFailed."""
    if card.record is None:
        check_weights(_check_whole(card))
        return
    paths = {name: models.file_path(file) for name, file in card.record.files.items()}
    for name, path in paths.items():
        if not path.exists():
            raise CheckpointUnusable(f"{name} is gone from the data directory. Import the model again.")
        if hash_file(path) != card.record.files[name]:
            raise CheckpointUnusable(f"{name} is not the file that was imported: it was changed. Import the model again.")
    _check_headers(card)
    check_finite(read_all_tensors(paths).values(), {path: name for name, path in paths.items()})


def _check_headers(card: ModelCard) -> None:
    """Raises CheckpointUnusable."""
    match card.kind:
        case ModelKind.CHECKPOINT if card.has_motion:
            _check_whole(card)
        case ModelKind.CHECKPOINT:
            check_image_checkpoint(check_folder(card.path))
        case ModelKind.MOTION_ADAPTER | ModelKind.VAE:
            check_part(check_folder(card.path), card.kind.value)


def _check_whole(card: ModelCard) -> Checked:
    return check_wan(card) if get_family(card) is WAN else check_checkpoint(card)
