"""Builds a Wan checkpoint's networks, only from what the gate (models/wan/checkpoint.py) returned."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from promptreel.errors import CheckpointUnusable
from promptreel.generation.compute import ComputeThreads
from promptreel.generation.devices import Device
from promptreel.generation.families.family import Loadable
from promptreel.generation.families.turns import Turns, count_bytes
from promptreel.generation.families.wan import SHIFTS_BY_SIZE, LoadedWan
from promptreel.generation.families.wan_text import WanTokenizer
from promptreel.generation.families.wan_vae import WanVae
from promptreel.generation.loading import build, make_space, read_weights
from promptreel.generation.model_space import ModelSpace
from promptreel.models.composition import ModelSet
from promptreel.models.gate import Network, check_weights, hash_checkpoint
from promptreel.models.registry import ModelCard
from promptreel.models.wan.checkpoint import WanCheckpoint, check_wan

_CLASSES: dict[str, Callable[..., Any]] = {
    "WanTransformer3DModel": WanTransformer3DModel,
    "AutoencoderKLWan": AutoencoderKLWan,
    "UMT5EncoderModel": lambda **arguments: UMT5EncoderModel(UMT5Config(**arguments)),
    "CLIPVisionModel": lambda **arguments: CLIPVisionModel(CLIPVisionConfig(**arguments)),
}
_ALWAYS_FLOAT32 = frozenset({"AutoencoderKLWan", "CLIPVisionModel"})
_FREE_BYTES = 12 << 30
"""GPU memory that a clip needs besides the weights: the transformer's activations, and the VAE's in float32."""


def check_wan_model(models: ModelSet, device: Device, compute: ComputeThreads) -> Loadable:
    """Has the gate check the model's files, and all its weights. Raises CheckpointUnusable with what is wrong."""
    for part in filter(None, (models.adapter, models.vae)):
        raise CheckpointUnusable(
            f"{part.model_id!r} cannot be used with {models.checkpoint.model_id!r}: Wan has its own parts."
        )
    checkpoint = check_wan(models.checkpoint)
    check_weights(checkpoint)
    size_bytes = sum(
        math.prod(tensor.shape) * _dtype_of(network, device, name).itemsize
        for network in checkpoint.networks.values()
        for name, tensor in network.tensors.items()
        if name != "encoder.embed_tokens.weight"  # shares memory with `shared.weight`
    )
    load = partial(_load, models.checkpoint, checkpoint, hash_checkpoint(checkpoint), device, compute)
    return Loadable(size_bytes, tuple(checkpoint.files.values()), load)


def _load(card: ModelCard, checkpoint: WanCheckpoint, model_hash: str, device: Device, compute: ComputeThreads) -> LoadedWan:
    networks = {name: _load_network(network, device) for name, network in checkpoint.networks.items()}
    vae = networks["vae"]
    turns = Turns(networks, device.name, together=_fits(networks, device))
    spaces = _make_spaces(checkpoint, card)
    return LoadedWan(
        card=card,
        model_hash=model_hash,
        device=device,
        compute=compute,
        space=spaces[True],
        spaces=spaces,
        networks=turns,
        tokenizer=WanTokenizer(checkpoint.tokenizer),
        vae=WanVae(
            take=partial(turns.take, "vae"),
            config=vae.config,
            convolutions=vae._cached_conv_counts,
            device=device.name,
            run=lambda work: compute.run(torch.inference_mode()(work)),
        ),
        boundary_ratio=checkpoint.boundary_ratio,
        expands_timesteps=checkpoint.expands_timesteps,
        takes_picture=checkpoint.takes_picture,
        read_picture=_picture_reader(networks.get("image_encoder")),
    )


def _load_network(network: Network, device: Device) -> Any:
    """Builds the network on the CPU; `_dtype_of` gives each weight's dtype."""
    built = build(network, _CLASSES)
    built.load_state_dict(read_weights(network, partial(_dtype_of, network, device)), assign=True)
    match built:  # buffers, which are not in the files
        case WanTransformer3DModel():
            config = built.config
            built.rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
        case UMT5EncoderModel():
            built.set_input_embeddings(built.shared)
        case CLIPVisionModel():
            built.embeddings.position_ids = torch.arange(built.embeddings.num_positions).expand((1, -1))
    return built.eval().requires_grad_(False)


def _dtype_of(network: Network, device: Device, name: str) -> torch.dtype:
    """The device's dtype, except where diffusers and transformers keep float32."""
    if network.class_name in _ALWAYS_FLOAT32:
        return torch.float32
    kept: tuple[str, ...] = ()
    if network.class_name == "WanTransformer3DModel":
        kept = tuple(WanTransformer3DModel._keep_in_fp32_modules)
    elif device.dtype is torch.float16:
        kept = tuple(UMT5EncoderModel._keep_in_fp32_modules)
    return torch.float32 if set(kept) & set(name.split(".")) else device.dtype


def _fits(networks: dict[str, Any], device: Device) -> bool:
    """Whether the device holds all networks at once, and one clip's activations."""
    if not device.name.startswith("cuda"):
        return True
    free, _ = torch.cuda.mem_get_info(device.name)
    return sum(map(count_bytes, networks.values())) + _FREE_BYTES <= free


def _make_spaces(checkpoint: WanCheckpoint, card: ModelCard) -> dict[bool, ModelSpace]:
    """The noise levels for small clips (True) and larger ones (False)."""
    table, make = checkpoint.noise_table, partial(make_space, model_id=card.model_id)
    if card.flow_shift == "by_size":
        return {is_small: make({**table, "shift": shift}) for is_small, shift in SHIFTS_BY_SIZE.items()}
    space = make(table if card.flow_shift is None else {**table, "shift": card.flow_shift})
    return {True: space, False: space}


def _picture_reader(encoder: Any) -> Callable[[Tensor], Tensor] | None:
    """What turns a frame, uint8 [H, W, 3], into pixels [1, 3, side, side] as CLIP was trained on."""
    if encoder is None:
        return None
    side = encoder.config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    def read(frame: Tensor) -> Tensor:
        pixels: Tensor = processor(images=frame.numpy(), input_data_format="channels_last", return_tensors="pt").pixel_values
        return pixels

    return read
