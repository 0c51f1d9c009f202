"""LoRAs for Wan, in any of the namings in which they are published (models/wan/lora.py)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from promptreel.errors import CheckpointUnusable
from promptreel.generation.add_ons import LoraFile
from promptreel.generation.lora import activate, check_peft, fits_nowhere, naming_misfits
from promptreel.generation.told_alpha import fold_told_alpha
from promptreel.models.wan.lora import Role, read_name

log = logging.getLogger(__name__)

_FIRST, _SECOND = "transformer", "transformer_2"
_PARTS: dict[str, Role] = {"lora_A.weight": "down", "lora_B.weight": "up", "lora_B.bias": "bias"}


def add_wan_loras(experts: Mapping[str, Any], files: Sequence[LoraFile]) -> set[str]:
    """Adds LoRAs to experts that nobody else uses. Returns those that are changed.

    Raises CheckpointUnusable for a file that fits none of them.
    """
    check_peft()
    strengths: dict[str, dict[str, float]] = defaultdict(dict)
    for number, file in enumerate(files):
        name = f"lora_{number}"
        with naming_misfits(file):
            for expert, tensors in _read(file, experts).items():
                experts[expert].load_lora_adapter(tensors, prefix=None, adapter_name=name)
                strengths[expert][name] = file.strength
    for expert, own in strengths.items():
        activate(experts[expert], own)
    return set(strengths)


def _read(file: LoraFile, experts: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The file's tensors by expert, named as peft does."""
    roles: dict[bool, dict[str, dict[Role, Tensor]]] = {False: defaultdict(dict), True: defaultdict(dict)}
    tensors, metadata = file.read_with_metadata()
    unknown = 0
    for name, tensor in fold_told_alpha(tensors, metadata).items():
        found = read_name(name)
        if found is None:
            unknown += 1
        else:
            roles[found.is_of_second][found.layer][found.role] = tensor
    if unknown:
        log.warning("%d tensors of the LoRA %s, such as changes of norms, have no effect", unknown, file.model_id)
    changes = {}
    for expert in _choose(file, experts):
        layers = roles[True] if expert == _SECOND and roles[True] else roles[False]
        there = {name for name, module in experts[expert].named_modules() if isinstance(module, nn.Linear | nn.Conv3d)}
        changes[expert] = {
            f"{layer}.{part}": tensor
            for layer, own in layers.items()
            if layer in there
            for part, tensor in _to_peft(own).items()
        }
    changes = {expert: own for expert, own in changes.items() if own}
    if not changes:
        raise fits_nowhere(file)
    return changes


def _choose(file: LoraFile, experts: Mapping[str, Any]) -> list[str]:
    """The experts that the LoRA is for."""
    wanted = {None: [_FIRST, _SECOND], "high_noise": [_FIRST], "low_noise": [_SECOND]}[file.expert]
    chosen = [name for name in wanted if name in experts]
    if not chosen:
        raise CheckpointUnusable(
            f"The LoRA {file.model_id!r} is for the expert of low noise, and the model has none. Take another LoRA."
        )
    return chosen


def _to_peft(own: Mapping[Role, Tensor]) -> dict[str, Tensor]:
    """One layer's tensors, scaled so that alpha is the rank; none if a half is missing."""
    if "down" not in own or "up" not in own:
        return {}
    tensors = {part: own[role] for part, role in _PARTS.items() if role in own}
    if "alpha" in own:
        tensors["lora_B.weight"] = own["up"].float() * (float(own["alpha"]) / own["down"].shape[0])
    return tensors
