"""Which layers of a UNet a preset trains: a LoRA on some of them (peft), or all layers as they are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from promptreel.training.presets import ATTENTION, BLOCKS, MOTION

TRAINED = "trained"
"""The name of the LoRA that a training makes."""
LOKR = frozenset({"lycoris", "lokr"})
FACTOR = 4
"""Of LoKr's Kronecker product: its smaller matrices have so many rows. So a LoKr of a quarter of the rank is a LoRA of the
rank, in fewer numbers."""

_SPATIAL = r"(?!.*motion_modules).*\.attentions\.\d+\.transformer_blocks\.\d+\."
_TO = r"attn[12]\.(to_q|to_k|to_v|to_out\.0)"
_LINEAR = {
    ATTENTION: _SPATIAL + _TO,
    BLOCKS: rf"{_SPATIAL}({_TO}|ff\.net\.(0\.proj|2))",
    MOTION: rf".*motion_modules\..*\.{_TO}",
}
_TARGETS = {**_LINEAR, BLOCKS: rf"{_LINEAR[BLOCKS]}|(?!.*motion_modules).*\.resnets\.\d+\.conv[12]"}


def add_lora(unet: nn.Module, layers: str, *, name: str = TRAINED, rank: int, kind: str = "lora") -> dict[str, nn.Parameter]:
    """Adds a LoRA, which changes nothing yet; draws its numbers from torch's own generator. Returns its weights by name.

    `layers`: as in presets.py. `kind`: one of LOKR for a Kronecker product (Yeh et al. 2023) in place of a product; without
    convolutions, for which it is none.
    """
    if kind in LOKR:
        size = max(1, rank // FACTOR)
        config: Any = LoKrConfig(r=size, alpha=size, decompose_factor=FACTOR, target_modules=_LINEAR[layers])
    else:
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS[layers])
    inject_adapter_in_model(config, unet, adapter_name=name)
    added = {key: weights for key, weights in unet.named_parameters() if name in key.split(".")}
    for weights in added.values():
        weights.data = weights.data.float()  # the base's format is too coarse for small steps
        weights.requires_grad_(True)
    return added


def train_all(unet: nn.Module) -> dict[str, nn.Parameter]:
    """All weights but those of the motion modules."""
    trained = {name: weights for name, weights in unet.named_parameters() if "motion_modules" not in name}
    for weights in trained.values():
        weights.requires_grad_(True)
    return trained


def use_loras(unet: nn.Module, *names: str) -> None:
    """Of the LoRAs in the UNet, uses these and no others. All can still be trained: a copy of the UNet may use them."""
    for layer in unet.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_adapter([name for name in names if name in layer._get_available_adapters()])
            for name, weights in layer.named_parameters():
                weights.requires_grad_(not name.startswith("base_layer."))


def share_parameters(module: nn.Module) -> Any:
    """A copy of a module that has the same parameters and buffers: what is learned in one is learned in both."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def leave_out_motion(unet: nn.Module) -> Any:
    """A copy that shares the weights, in which nothing is between the motion modules' inputs and outputs."""
    copied = share_parameters(unet)
    for module in copied.modules():
        if isinstance(modules := getattr(module, "motion_modules", None), nn.ModuleList):
            for number in range(len(modules)):
                modules[number] = _PassOn()
    return copied


class _PassOn(nn.Module):
    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


def read_halves(unet: nn.Module, *, name: str = TRAINED) -> Mapping[str, tuple[Tensor, Tensor]]:
    """By layer, the two halves [rank, in] and [out, rank] of what a LoRA adds; their product is all of it. float32.

    Those of a convolution are [rank, in, h, w] and [out, rank, 1, 1].
    """
    return {
        key: halves
        for key, layer in unet.named_modules()
        if isinstance(layer, BaseTunerLayer) and (halves := _halves(layer, name)) is not None
    }


@torch.no_grad()
def _halves(layer: Any, name: str) -> tuple[Tensor, Tensor] | None:
    if name in getattr(layer, "lora_A", ()):
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        return down.detach().float().cpu(), layer.scaling[name] * up.detach().float().cpu()
    if name in getattr(layer, "lokr_w1", ()):
        return _factor(layer, name)
    return None


def _factor(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """A Kronecker product as the product that it is: kron(A, B C) = kron(A, B) kron(1, C)."""
    first = layer.lokr_w1[name].detach().float().cpu() * layer.scaling[name]
    if name in layer.lokr_w2:
        second = layer.lokr_w2[name].detach().float().cpu()
        left, right = second, torch.eye(second.shape[1])
    else:
        left, right = (half[name].detach().float().cpu() for half in (layer.lokr_w2_a, layer.lokr_w2_b))
    return torch.kron(torch.eye(first.shape[1]), right), torch.kron(first, left)
