"""Small random LoRAs for the tiny checkpoint, in the layouts in which people publish them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from promptreel.generation.add_ons import LoraFile

RANK = 2
ALPHA = 1.0
UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
Halves = dict[str, tuple[Tensor, Tensor]]


def draw_layers(module: nn.Module, endings: tuple[str, ...], *, motion: bool = False, seed: int = 0) -> Halves:
    """By layer, its down [rank, in] and up [out, rank]."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, layer in module.named_modules():
        if name.endswith(endings) and isinstance(layer, nn.Linear) and ("motion_modules" in name) == motion:
            down = torch.randn((RANK, layer.in_features), generator=generator)
            layers[name] = (down, torch.randn((layer.out_features, RANK), generator=generator))
    return layers


def kohya(unet: Halves, text: Halves) -> dict[str, Tensor]:
    tensors = {}
    for prefix, layers in (("lora_unet_", unet), ("lora_te_text_model_", text)):
        for name, (down, up) in layers.items():
            key = prefix + name.replace(".", "_")
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return tensors


def diffusers(unet: Halves, text: Halves) -> dict[str, Tensor]:
    """Without alpha: it is the rank."""
    in_text = {f"text_encoder.text_model.{name}.lora_linear_layer": halves for name, halves in text.items()}
    in_unet = {f"unet.{name}.lora": halves for name, halves in unet.items()}
    return {
        f"{name}.{half}.weight": tensor
        for name, halves in (in_unet | in_text).items()
        for half, tensor in zip(("down", "up"), halves, strict=True)
    }


def peft_in_diffusers(unet: Halves, text: Halves) -> dict[str, Tensor]:
    tensors = {}
    for prefix, layers in (("unet.", unet), ("text_encoder.text_model.", text)):
        for name, (down, up) in layers.items():
            tensors |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    return tensors


def peft(unet: Halves, _text: Halves) -> dict[str, Tensor]:
    """What peft saves of a UNet by itself."""
    return {f"base_model.model.{key.removeprefix('unet.')}": value for key, value in peft_in_diffusers(unet, {}).items()}


def attention_processors(unet: Halves, _text: Halves) -> dict[str, Tensor]:
    """diffusers' first layout."""
    tensors = {}
    for name, (down, up) in unet.items():
        attention, layer = name.removesuffix(".0").rsplit(".", 1)
        key = f"{attention}.processor.{layer}_lora"
        tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return tensors


def motion(unet: Halves, _text: Halves) -> dict[str, Tensor]:
    """AnimateDiff's own layout, for layers of motion modules."""
    tensors = {}
    for name, (down, up) in unet.items():
        modules, rest = name.split(".transformer_blocks.")
        block, attention, layer = rest.removesuffix(".0").split(".")
        number = int(attention.removeprefix("attn")) - 1
        key = f"{modules}.temporal_transformer.transformer_blocks.{block}.attention_blocks.{number}.processor.{layer}_lora"
        tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return tensors


Layout = Callable[[Halves, Halves], dict[str, Tensor]]


def save_lora(path: Path, tensors: dict[str, Tensor], *, strength: float = 1.0) -> LoraFile:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return LoraFile(path.stem, path, hashlib.sha256(path.read_bytes()).hexdigest(), strength)


def draw_lora(model: Any, layout: Layout = kohya, *, seed: int = 0) -> dict[str, Tensor]:
    """A LoRA for a loaded AnimateDiff model."""
    unet = draw_layers(model.unet, UNET_LAYERS, motion=layout is motion, seed=seed)
    return layout(unet, draw_layers(model.prompts.text_encoder, TEXT_LAYERS, seed=seed + 1))
