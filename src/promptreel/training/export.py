"""Writes what was trained in the layouts that others read.

A LoRA for pictures has kohya's names, one for motion those that AnimateDiff's authors gave theirs. What scales a LoRA is folded
into its halves, so that alpha equals the rank: some programs ignore alpha. A whole checkpoint has the files of its base.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from promptreel.models.card_fields import CARD_NAME, CardFile
from promptreel.models.composition import ModelSet
from promptreel.models.gate import check_checkpoint
from promptreel.models.registry import ModelCard
from promptreel.models.weights import StoredTensor, read_metadata
from promptreel.training.layers import read_halves
from promptreel.training.orders import Order, describe
from promptreel.training.presets import MOTION
from promptreel.training.tensor_files import file_errors, save_tensors, writing

LORA_FILE = "result.safetensors"
CHECKPOINT_FOLDER = "result"


_ATTENTION = re.compile(r"(?P<modules>.+\.motion_modules\.\d+)\.(?P<block>.+)\.attn(?P<number>[12])\.(?P<layer>\w+)(\.0)?")


def hash_params(order: Order) -> str:
    """SHA-256 of the params: equal ones give equal files on one machine."""
    return hashlib.sha256(describe(order.params.to_json()).encode()).hexdigest()


def save_lora(path: Path, unet: nn.Module, order: Order, base_hash: str) -> None:
    """Raises StorageFailed and DiskFull."""
    unfolded = read_halves(unet)
    rank = max(len(down) for down, _ in unfolded.values())
    halves = {name: fold(*_widen(down, up, rank)) for name, (down, up) in unfolded.items()}
    tensors = name_motion(halves) if order.preset.layers == MOTION else name_kohya(halves)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, describe_lora(order, base_hash, rank))


def fold(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """float16, or float32 where that is too narrow. Both halves have numbers of about one size, and so lose little of them."""
    sizes = [float(half.abs().max()) for half in (down, up)]
    balance = 2.0 ** round(torch.log2(torch.tensor(sizes[0] / sizes[1])).item() / 2) if all(sizes) else 1.0
    halves = (down / balance, up * balance)
    narrow = tuple(half.half() for half in halves)
    return (narrow[0], narrow[1]) if all(bool(half.isfinite().all()) for half in narrow) else halves


def _widen(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Adds zeros, so that all layers have one rank: not every reader looks at each layer's own."""
    more = rank - len(down)
    if not more:
        return down, up
    return nn.functional.pad(down, (0, 0, 0, more)), nn.functional.pad(up, (0, more))


def name_kohya(halves: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """As kohya-ss/sd-scripts names the layers of Stable Diffusion 1.5, which every other program reads."""
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in halves.items():
        name = f"lora_unet_{layer.replace('.', '_')}"
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(float(len(down)), dtype=down.dtype)
    return tensors


def name_motion(halves: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """As guoyww/AnimateDiff names those for camera movements. They have no alpha."""
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in halves.items():
        found = _ATTENTION.fullmatch(layer)
        assert found is not None, layer
        attention = f"{found['block']}.attention_blocks.{int(found['number']) - 1}.processor.{found['layer']}_lora"
        name = f"{found['modules']}.temporal_transformer.{attention}"
        tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    return tensors


def describe_lora(order: Order, base_hash: str, rank: int) -> dict[str, str]:
    """The metadata that other programs show, and what it was trained with. Nothing of it depends on the time."""
    params = order.params
    told = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_base_model_version": "sd_v1",
        "ss_steps": str(params.steps),
        "ss_learning_rate": str(params.learning_rate),
        "ss_seed": str(params.seed),
        "ss_num_train_images": str(len(params.examples)),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": params.name or params.model_id,
        "modelspec.trigger_phrase": params.trigger or "",
        "promptreel.base": params.base,
        "promptreel.base_hash": base_hash,
        "promptreel.preset": params.preset,
        "promptreel.params_hash": hash_params(order),
    }
    return {name: value for name, value in told.items() if value}


def save_checkpoint(folder: Path, trained: Mapping[str, Tensor], order: Order, models: ModelSet) -> None:
    """All files of the base, with the trained weights in the places and formats of its own; and a card.

    Raises StorageFailed, DiskFull and CheckpointUnusable.
    """
    checkpoint = check_checkpoint(models.checkpoint, models.adapter, models.vae)
    changed: dict[Path, dict[str, Tensor]] = defaultdict(dict)
    for name, weights in trained.items():
        stored = checkpoint.unet.tensors[name]
        changed[stored.file][stored.name] = _as_stored(weights, stored)
    own, beside = models.checkpoint.path.resolve(), folder.with_name(f".{folder.name}.part")
    with file_errors():
        shutil.rmtree(beside, ignore_errors=True)
        for name, path in checkpoint.files.items():
            if not path.is_relative_to(own):
                continue  # of a motion adapter or a VAE that is a model of its own
            target = beside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in changed:
                save_tensors(target, {**load_file(path), **changed[path]}, read_metadata(path, name))
            else:
                shutil.copyfile(path, target)
        with writing(beside / CARD_NAME) as file:
            file.write(json.dumps(_describe_card(_make_card(order, models)), indent=2).encode())
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)


def _as_stored(weights: Tensor, stored: StoredTensor) -> Tensor:
    formats = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return weights.detach().cpu().reshape(stored.shape).to(formats[stored.dtype])


def _make_card(order: Order, models: ModelSet) -> ModelCard:
    params, base = order.params, models.checkpoint
    return replace(
        base,
        name=params.name or params.model_id,
        description=f"Trained on {base.name}: {params.instance_prompt}"[:2000],
        motion_adapter=params.motion_adapter or base.motion_adapter,
    )


def _describe_card(card: ModelCard) -> dict[str, Any]:
    """What its `promptreel.json` says; without what is not known."""
    told = {name: getattr(card, name) for name in CardFile.model_fields}
    plain = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in told.items()}
    return {name: value for name, value in plain.items() if value not in (None, "", (), [])}
