"""The alpha of a LoRA whose file has it in its metadata, as diffusers' training scripts write it.

diffusers hands all of this metadata to peft, which would import a module that it names. Here only the numbers are read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_KEY = "lora_adapter_metadata"
_UP = re.compile(r"(?P<part>unet|text_encoder|transformer)\.(?P<layer>.+?)\.(?:lora_B|lora\.up|lora_linear_layer\.up)\.weight")


def fold_told_alpha(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a LoRA in diffusers' naming, scaled so that alpha is the rank."""
    told = _read(metadata)
    return {name: _fold(name, tensor, told) for name, tensor in tensors.items()} if told else dict(tensors)


def _read(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        told = json.loads(metadata.get(_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _fold(name: str, tensor: Tensor, told: Mapping[str, Any]) -> Tensor:
    match = _UP.fullmatch(name)
    if match is None or tensor.ndim < 2:
        return tensor
    part, layer = match["part"], match["layer"]
    patterns = told.get(f"{part}.alpha_pattern")
    own = patterns.items() if isinstance(patterns, dict) else ()
    alpha = next((value for end, value in own if f".{layer}".endswith(f".{end}")), told.get(f"{part}.lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        return tensor
    rank = tensor.shape[1]
    return tensor.float() * (alpha / (math.sqrt(rank) if told.get(f"{part}.use_rslora") is True else rank))
