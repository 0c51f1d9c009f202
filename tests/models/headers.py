"""Safetensors files of which only the header is written: the numbers are a hole in the file, so any size is cheap."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def write_header(path: Path, shapes: Shapes, dtype: str = "F16", **metadata: str) -> dict[str, Path]:
    """`position_ids` are whole numbers, as in published files."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, shape in shapes.items():
        kind = "I64" if name.endswith("position_ids") else dtype
        size = math.prod(shape) * {"I64": 8, "F32": 4}.get(kind, 2)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    written = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + at)
    return {path.name: path}


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def original() -> Any:
    """How the parts are laid out in public files. A function, because of what it imports."""
    return import_module("tests.generation.original_files")


def full_size_parts() -> dict[str, Any]:
    """Stable Diffusion 1.5 and AnimateDiff v1 to v3, without memory for their weights."""
    # Here, because these take seconds to import, in every process that collects tests.
    import torch  # noqa: PLC0415
    from diffusers import AutoencoderKL, AutoencoderTiny, MotionAdapter, UNet2DConditionModel  # noqa: PLC0415
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
            "text_encoder": CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)),
            "tiny_vae": AutoencoderTiny(),
            "v1": MotionAdapter(use_motion_mid_block=False, motion_max_seq_length=24),
            "v2": MotionAdapter(),
            "v3": MotionAdapter(use_motion_mid_block=False),
        }


def checkpoint_shapes(parts: Mapping[str, Any], *, level: str = "text_model.") -> dict[str, tuple[int, ...]]:
    """A whole checkpoint in the original layout."""
    whole = original().original_unet(parts["unet"]) | original().original_vae(parts["vae"])
    return shapes_of(whole | original().original_text_encoder(parts["text_encoder"], level=level))
