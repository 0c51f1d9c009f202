"""Writes tiny models as their authors publish them: one file in the original layout. Written by hand from the published names.

diffusers reads these layouts and does not write them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

CHANNELS = (32, 64)
HIDDEN = 64
TOKENS = 49_408
SEQUENCE = 24

_Module = TypeVar("_Module", bound=torch.nn.Module)

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def make_unet(layers: int = 2, channels: tuple[int, ...] = CHANNELS) -> UNet2DConditionModel:
    """All blocks but the last read the text, as in Stable Diffusion."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=channels,
        layers_per_block=layers,
        sample_size=8,
        down_block_types=(*("CrossAttnDownBlock2D",) * (len(channels) - 1), "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * (len(channels) - 1)),
        cross_attention_dim=HIDDEN,
        attention_head_dim=8,
    )
    return _vary(unet)


def make_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=CHANNELS,
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.18215,
    )
    return _vary(vae)


def make_text_encoder() -> CLIPTextModel:
    torch.manual_seed(2)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=TOKENS,
            hidden_size=HIDDEN,
            intermediate_size=2 * HIDDEN,
            num_attention_heads=1,
            num_hidden_layers=2,
            max_position_embeddings=77,
        )
    )
    return _vary(encoder)


def make_adapter(*, mid_block: bool = True, layers: int = 2, channels: tuple[int, ...] = CHANNELS) -> MotionAdapter:
    torch.manual_seed(3)
    adapter = MotionAdapter(
        block_out_channels=channels,
        motion_layers_per_block=layers,
        motion_max_seq_length=SEQUENCE,
        use_motion_mid_block=mid_block,
    )
    for name, weights in adapter.named_parameters():
        if "proj_out" in name:  # zero at first, so that the adapter would do nothing
            torch.nn.init.normal_(weights, std=0.1)
    return _vary(adapter)


def _vary(module: _Module) -> _Module:
    """Gives norms and biases numbers of their own: new ones are all alike, so nobody would notice if two were swapped."""
    with torch.no_grad():
        for weights in module.parameters():
            if weights.dim() == 1:
                weights.add_(0.1 * torch.randn_like(weights))
    return module


def round_to_16_bits(module: torch.nn.Module) -> None:
    """Makes all numbers such that float16 and bfloat16 hold them exactly."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.bfloat16().half().float())


def original_unet(unet: Any) -> dict[str, Tensor]:
    return {f"model.diffusion_model.{_unet_name(name, unet)}": tensor for name, tensor in unet.state_dict().items()}


def _unet_name(name: str, unet: Any) -> str:
    layers, blocks = unet.config.layers_per_block, len(unet.config.block_out_channels)
    for new, old in {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
    }.items():
        if name.startswith(f"{new}."):
            return old + name.removeprefix(new)
    part = re.match(r"(down|up|mid)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    assert part is not None, name
    where, block, kind, number, rest = part[1], int(part[2] or 0), part[3], int(part[4]), part[5]
    if kind == "resnets":
        head, _, tail = rest.partition(".")
        rest = f"{RESNET[head]}.{tail}"
    if where == "mid":
        return f"middle_block.{2 * number}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if where == "down":
        return f"input_blocks.{1 + block * (layers + 1) + number}.{int(kind == 'attentions')}.{rest}"
    place = block * (layers + 1) + (layers if kind == "upsamplers" else number)
    if kind == "upsamplers":
        has_attention = "CrossAttn" in unet.config.up_block_types[block]
        return f"output_blocks.{place}.{2 if has_attention else 1}.{rest}"
    assert block < blocks
    return f"output_blocks.{place}.{int(kind == 'attentions')}.{rest}"


def original_vae(vae: Any, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    blocks = len(vae.config.block_out_channels)
    tensors = {}
    for name, tensor in vae.state_dict().items():
        old = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        old = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", old)
        old = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda at: f"up.{blocks - 1 - int(at[1])}.block.{at[2]}", old)
        old = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda at: f"up.{blocks - 1 - int(at[1])}.upsample", old)
        old = old.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        old = old.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in old:
            for new, short in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
                old = old.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{short}.")
            tensor = tensor[:, :, None, None] if tensor.dim() == 2 else tensor  # noqa: PLW2901
        tensors[prefix + old] = tensor
    return tensors


def original_text_encoder(encoder: Any, *, level: str = "text_model.") -> dict[str, Tensor]:
    """`level`: transformers 4 had one more."""
    prefix = f"cond_stage_model.transformer.{level}"
    tensors = {prefix + name: tensor for name, tensor in encoder.state_dict().items()}
    return tensors | {f"{prefix}embeddings.position_ids": torch.arange(77)[None]}


def original_adapter(adapter: Any, prefix: str = "") -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in adapter.state_dict().items():
        old = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", name)
        old = old.replace(".norm1.", ".norms.0.").replace(".norm2.", ".norms.1.").replace(".norm3.", ".ff_norm.")
        if old.endswith("pos_embed.pe"):
            for number in (0, 1):
                tensors[prefix + old.replace("pos_embed.pe", f"attention_blocks.{number}.pos_encoder.pe")] = tensor.clone()
            continue
        tensors[prefix + old.replace(".attn1.", ".attention_blocks.0.").replace(".attn2.", ".attention_blocks.1.")] = tensor
    return tensors


def training_leftovers() -> dict[str, Tensor]:
    """What published checkpoints also have, and nobody needs."""
    return {
        "alphas_cumprod": torch.linspace(1, 0, 1000),
        "betas": torch.linspace(0, 1, 1000),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7),
        "model_ema.diffusion_modeltime_embed0weight": torch.zeros(2, 2),
        "cond_stage_model.logit_scale": torch.tensor(4.6),
        "cond_stage_model.text_projection": torch.zeros(2, 2),
    }


def save(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cast = {
        name: (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in tensors.items()
    }
    save_file(cast, path)
    return path
