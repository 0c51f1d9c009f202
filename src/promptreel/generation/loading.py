"""Builds networks and tokenizers, only from what the gate (models/gate.py) returned for a checkpoint."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, UNetMotionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from promptreel.errors import CheckpointUnusable
from promptreel.generation.devices import Device
from promptreel.generation.model_space import ModelSpace
from promptreel.models.gate import Network
from promptreel.models.tokenizers import TokenizerParts

_CLASSES: dict[str, Callable[..., Any]] = {
    "UNetMotionModel": UNetMotionModel,
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderDC": AutoencoderDC,
    "AutoencoderTiny": AutoencoderTiny,
    "CLIPTextModel": lambda **arguments: CLIPTextModel(CLIPTextConfig(**arguments)),
}


def load_network(network: Network, device: Device) -> Any:
    """The network on the device, in its number format.

    It is first built on the meta device, without memory, and its tensors are compared with the files'. Raises
    CheckpointUnusable.
    """
    built = build(network, _CLASSES)
    built.load_state_dict(read_weights(network, lambda _name: device.dtype), assign=True)
    if isinstance(built, CLIPTextModel):  # a buffer (0, 1, 2...), not in the files
        positions = torch.arange(built.config.max_position_embeddings, device="cpu")
        built.embeddings.position_ids = positions.expand((1, -1))
    return built.eval().requires_grad_(False).to(device.name)


def load_tokenizer(parts: TokenizerParts) -> CLIPTokenizer:
    """Raises CheckpointUnusable."""
    length = {} if parts.max_tokens is None else {"model_max_length": parts.max_tokens}
    try:
        return CLIPTokenizer(vocab=dict(parts.vocab), merges=list(parts.merges), **parts.special_tokens, **length)
    except Exception as error:
        raise not_built("CLIPTokenizer", error) from error


def make_space(table: Mapping[str, Any], *, model_id: str, distilled: bool = False) -> ModelSpace:
    """Raises CheckpointUnusable."""
    try:
        return ModelSpace(table, distilled=distilled)
    except ValueError as error:
        raise CheckpointUnusable(f"model {model_id!r} has a noise table that cannot be used: {error}") from error


def build(network: Network, classes: Mapping[str, Callable[..., Any]]) -> Any:
    """The network on the meta device, of one of these classes. Raises CheckpointUnusable."""
    try:
        with torch.device("meta"):
            built = classes[network.class_name](**network.arguments)
    except Exception as error:
        raise not_built(network.class_name, error) from error
    needed = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    if needed != {name: tensor.shape for name, tensor in network.tensors.items()}:
        raise CheckpointUnusable(f"The weights of the {network.class_name} do not fit what its config.json says.")
    return built


def not_built(class_name: str, error: BaseException) -> CheckpointUnusable:
    """For files that pass the gate and that the class still refuses. The class's own message goes to the log."""
    logging.getLogger(__name__).warning("%s cannot be built", class_name, exc_info=error)
    return CheckpointUnusable(f"A {class_name} cannot be built of the checkpoint's files; the worker's log says why.")


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointUnusable(f"{file.parent.name}/{file.name} cannot be opened. Download it again.") from error


def read_weights(network: Network, format_of: Callable[[str], torch.dtype]) -> dict[str, Tensor]:
    """Tensors by name, copied: they must not stay mapped to the files. Names for one stored tensor share it.

    `format_of`: the number format, by the tensor's name.
    """
    names: dict[Path, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, stored in network.tensors.items():
        names[stored.file][stored.name].append(name)
    weights: dict[str, Tensor] = {}
    for file, stored_names in names.items():
        with _open(file) as content:
            for name_there, (name, *others) in stored_names.items():
                dtype = format_of(name)
                tensor = content.get_tensor(name_there).reshape(network.tensors[name].shape).to(dtype, copy=True)
                if dtype is torch.float16 and not tensor.isfinite().all():
                    raise CheckpointUnusable(f"{name} is too large for float16, in which this device computes.")
                weights |= dict.fromkeys((name, *others), tensor)
    return weights
