"""`model_index.json`, in which a checkpoint in diffusers' layout names its pipeline and its components' classes."""

from __future__ import annotations

from pathlib import Path

from promptreel.errors import CheckpointUnusable
from promptreel.models.json_files import read_object

INDEX_NAME = "model_index.json"


def has_motion(root: Path) -> bool:
    """Whether a checkpoint's folder has motion modules of its own. Pictures' checkpoints have none: a UNet without an adapter,
    or one file without an index.

    A folder that is no checkpoint counts as having some, because the gate says best what is wrong with it.
    """
    if not (root / INDEX_NAME).is_file():
        return next(root.rglob("*.safetensors"), None) is None
    try:
        named = read_object(root / INDEX_NAME, INDEX_NAME)
    except CheckpointUnusable:
        return True
    is_of_pictures = named.get("unet") == ["diffusers", "UNet2DConditionModel"]
    has_adapter = named.get("motion_adapter", [None, None]) != [None, None] and (root / "motion_adapter").is_dir()
    return has_adapter or not is_of_pictures
