"""`model_index.json`, in which a checkpoint in diffusers' layout names its pipeline and its components' classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptreel.errors import CheckpointUnusable
from promptreel.models.json_files import read_object

INDEX_NAME = "model_index.json"


def read_components(index: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the index names as components: for each, the library and the class, unless a stranger wrote something else."""
    named = {key: value for key, value in index.items() if isinstance(value, list) and not key.startswith("_")}
    return {key: value for key, value in named.items() if value != [None, None]}


def has_motion(root: Path) -> bool:
    """Whether a checkpoint's folder has motion modules of its own. Pictures' checkpoints have none: a UNet without an adapter,
    or one file without an index.

    A folder that is no checkpoint counts as having some, because the gate says best what is wrong with it.
    """
    index = root / INDEX_NAME
    try:
        if not index.exists():
            return index.is_symlink() or next(root.rglob("*.safetensors"), None) is None
        if not index.is_file():  # such as a pipe, which nobody may ever write to
            return True
        named = read_components(read_object(index, INDEX_NAME))
    except (OSError, CheckpointUnusable):
        return True
    is_of_pictures = named.get("unet") == ["diffusers", "UNet2DConditionModel"]
    return not is_of_pictures or ("motion_adapter" in named and (root / "motion_adapter").is_dir())
