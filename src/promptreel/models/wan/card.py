"""What an imported Wan checkpoint's card says: its base, and what its authors made it with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptreel.models.wan.checkpoint import WanCheckpoint
from promptreel.models.wan.lora import width_of
from promptreel.models.weights import StoredTensor

_SIZES = {1536: "1.3b", 3072: "5b", 5120: "14b"}
"""Names for the transformers' widths."""


def name_base(transformer: Mapping[str, StoredTensor], vae: Mapping[str, StoredTensor]) -> str:
    """The version of the VAE, which tells what sizes the model makes, and the size of the transformer."""
    width = transformer["patch_embedding.weight"].shape[0] if "patch_embedding.weight" in transformer else 0
    first = vae["encoder.conv_in.weight"].shape if "encoder.conv_in.weight" in vae else ()
    return f"{'wan22' if first[1:2] == (12,) else 'wan21'}-{_SIZES.get(width, width)}"


def base_of_lora(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Both 14B versions have the same layers. None for a transformer of another width than those that are published."""
    size = _SIZES.get(width_of(tensors) or 0)
    return None if size is None else f"{'wan22' if size == '5b' else 'wan21'}-{size}"


def fill_card(checkpoint: WanCheckpoint, card: Mapping[str, Any]) -> dict[str, Any]:
    """The card, completed where the import names no value."""
    own: dict[str, Any] = {"has_motion": True, "max_frames": 81, "fps": 16}
    if checkpoint.expands_timesteps:
        own |= {"max_frames": 121, "fps": 24}
    elif checkpoint.boundary_ratio is not None:
        scales = (3.5, 3.5) if checkpoint.takes_picture else (4.0, 3.0)
        own |= {"default_steps": 40, "default_guidance": scales[0], "low_noise_guidance": scales[1]}
    elif checkpoint.takes_picture:
        own |= {"default_steps": 40}
    return own | {name: value for name, value in card.items() if value is not None}
