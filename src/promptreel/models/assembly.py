"""Puts the files of a model set into one folder in diffusers' layout, as hard links, for the gate and the loader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptreel.errors import CheckpointUnusable
from promptreel.models.composition import ModelSet, compose
from promptreel.models.gate import INDEX_NAME
from promptreel.models.json_files import read_object
from promptreel.models.registry import ModelCard, ModelRegistry

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


def find_card(models: ModelRegistry, model_id: str, motion_adapter: str | None) -> ModelCard:
    """The card of what a job loads: the checkpoint's, or that of the checkpoint with its adapter and VAE.

    Raises what `compose` raises, and CheckpointUnusable if the files have layouts that do not go together.
    """
    return assemble(models, compose(models, model_id, motion_adapter))


def assemble(models: ModelRegistry, found: ModelSet) -> ModelCard:
    """Raises CheckpointUnusable."""
    checkpoint = found.checkpoint
    extra = {"motion_adapter": found.adapter, "vae": found.vae}
    parts = {name: card for name, card in extra.items() if card is not None}
    if not parts:
        return checkpoint
    if checkpoint.record is None:
        raise CheckpointUnusable(
            f"{checkpoint.model_id!r} is a folder that was laid out by hand: it is used with the parts that are in it. To use "
            "others, import the folder with `promptreel models add`."
        )
    index = _read_index(checkpoint)
    files = {name: file for name, file in checkpoint.record.files.items() if name.partition("/")[0] not in {INDEX_NAME, *parts}}
    for name, card in parts.items():
        assert card.record is not None
        config, weights = _find_files(card)
        files[f"{name}/config.json"] = card.record.files[config]
        files |= {f"{name}/{each}": card.record.files[weights] for each in WEIGHTS}  # whichever of both the others have
        index[name] = ["diffusers", _class_of(card, config)]
    hashes = [card.record.hash for card in (checkpoint, *parts.values()) if card.record]
    path = models.lay_out("+".join(hashes), files, {INDEX_NAME: json.dumps(index, indent=2).encode()})
    return _to_card(found, path)


def _to_card(found: ModelSet, path: Path) -> ModelCard:
    """The noise table and the length of a window are the motion adapter's."""
    card = replace(found.checkpoint, path=path, content_hash=path.name)
    if found.adapter is None:
        return card
    table = found.adapter.record.card.get("noise_table") if found.adapter.record else None
    beta_schedule = found.adapter.beta_schedule or table or card.beta_schedule
    return replace(card, has_motion=True, beta_schedule=beta_schedule, max_frames=found.adapter.max_frames)


def _read_index(checkpoint: ModelCard) -> dict[str, Any]:
    assert checkpoint.record is not None
    if INDEX_NAME not in checkpoint.record.files:
        raise CheckpointUnusable(f"{checkpoint.model_id!r} is one file in the original layout, which cannot be run yet.")
    index = read_object(checkpoint.path / INDEX_NAME, INDEX_NAME)
    if index.get("unet", [""])[-1] == "UNetMotionModel":
        raise CheckpointUnusable(
            f"The UNet of {checkpoint.model_id!r} holds its motion modules, so it takes no motion adapter."
        )
    return index


def _find_files(card: ModelCard) -> tuple[str, str]:
    """The names of the config and of the weights."""
    assert card.record is not None
    weights = [name for name in card.record.files if name in WEIGHTS]
    if "config.json" not in card.record.files or not weights:
        raise CheckpointUnusable(f"{card.model_id!r} is in the original layout, which cannot be run yet. Take diffusers' one.")
    return "config.json", weights[0]


def _class_of(card: ModelCard, config: str) -> Any:
    return read_object(card.path / config, config).get("_class_name")
