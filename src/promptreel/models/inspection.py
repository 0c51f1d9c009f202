"""What a model's files are, and whether they can be used: a look at their headers and configs, before the model is stored.

Kind and base are told from the names and shapes of tensors, never from the names of files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptreel.errors import CheckpointUnusable
from promptreel.extras import is_installed
from promptreel.jobs.import_params import ImportParams
from promptreel.models.gate import INDEX_NAME, check_checkpoint, check_weights
from promptreel.models.json_files import read_object
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import CARD_NAME, DEFAULT_MAX_FRAMES, ModelCard, read_card_file, to_card
from promptreel.models.store import ModelRecord
from promptreel.models.stored_files import link_files
from promptreel.models.weights import StoredTensor, check_finite, read_tensors

ANIMATEDIFF = "animatediff"
SD15_BLOCKS = (320, 640, 1280, 1280)
LINEAR_WHY = (
    "the noise table is linear, from 0.00085 to 0.012: AnimateDiff's motion modules were trained on it, whatever the scheduler "
    "of the image checkpoint says. --beta-schedule gives another one"
)
_CONTEXT_OF_SD15 = 768
_ATTENTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """`card`: what the importer said of the model, completed by what its files say."""

    kind: ModelKind
    family: str | None
    base: str | None
    card: Mapping[str, Any]


def inspect(
    paths: Mapping[str, Path],
    params: ImportParams,
    *,
    facts: Mapping[str, str] | None = None,
    reads_weights: bool = False,
) -> Inspected:
    """`paths`: where each file is, by the author's name. `reads_weights`: checks every number, which takes seconds.

    Raises CheckpointUnusable with what is wrong, and what to do.
    """
    with tempfile.TemporaryDirectory(dir=next(iter(paths.values())).parent, prefix=".look-") as folder:
        root = link_files(paths, Path(folder))
        found = _inspect_pipeline(root) if INDEX_NAME in paths else _inspect_files(root, paths)
        if params.expects not in {None, found.kind.value}:
            raise CheckpointUnusable(f"This is a {_name(found.kind)}, not a {params.expects}.")
        card = {**(facts or {}), **found.card, **params.card}
        found = Inspected(kind=found.kind, family=found.family, base=found.base, card=card)
        if is_installed("media"):
            _check(root, paths, found, reads_weights=reads_weights)
    return found


def _inspect_pipeline(root: Path) -> Inspected:
    """A checkpoint in diffusers' layout. Its own card, if it has one, is the default."""
    config = read_object(root / "unet" / "config.json", "unet/config.json")
    has_motion = (root / "motion_adapter").is_dir() or config.get("_class_name") == "UNetMotionModel"
    card: dict[str, Any] = {"has_motion": has_motion}
    if (root / CARD_NAME).is_file():
        own = read_card_file(root)
        card |= {name: value for name, value in own.items() if value not in (None, [], "") and name != "family"}
    elif has_motion:
        card |= {"beta_schedule": "linear", **_linear(), "max_frames": _max_frames(root / "motion_adapter")}
    return Inspected(kind=ModelKind.CHECKPOINT, family=ANIMATEDIFF, base=_base_of(config), card=card)


def _inspect_files(root: Path, paths: Mapping[str, Path]) -> Inspected:
    """A model of one network, or a single file with all of them."""
    weights = [root / name for name in sorted(paths) if name.endswith(".safetensors")]
    tensors = read_tensors(weights, root)
    config = read_object(root / "config.json", "config.json") if "config.json" in paths else {}
    kind = _kind_of(tensors)
    if kind is ModelKind.MOTION_ADAPTER:
        base = _base_of(config) if config else "sd15" if _has_channels(tensors, SD15_BLOCKS[0]) else None
        card = {**_linear(), "max_frames": _max_frames(root), "has_motion": True}
        return Inspected(kind=kind, family=ANIMATEDIFF, base=base, card=card)
    if kind is ModelKind.CHECKPOINT:
        attention = tensors.get(_ATTENTION)
        if attention is not None and attention.shape[-1] == _CONTEXT_OF_SD15:
            return Inspected(kind=kind, family=ANIMATEDIFF, base="sd15", card={"has_motion": False})
        raise CheckpointUnusable("This is a checkpoint of another architecture than Stable Diffusion 1.5, and cannot be run.")
    return Inspected(kind=kind, family=None, base=None, card={})


def _kind_of(tensors: Mapping[str, StoredTensor]) -> ModelKind:
    def any_has(*parts: str) -> bool:
        return any(part in name for name in tensors for part in parts)

    if any_has("lora_down", "lora_up", ".lora_A.", ".lora_B.", ".lora.", "lora_linear_layer"):
        return ModelKind.LORA
    if any_has("motion_modules.", "temporal_transformer."):
        return ModelKind.MOTION_ADAPTER
    if any(name.startswith("model.diffusion_model.") for name in tensors):
        return ModelKind.CHECKPOINT
    if "decoder.conv_in.weight" in tensors or "first_stage_model.decoder.conv_in.weight" in tensors:
        return ModelKind.VAE
    if len(tensors) <= 3 and any_has("emb_params", "*", "clip_l", "<"):
        return ModelKind.EMBEDDING
    raise CheckpointUnusable(
        "Its tensors are those of no model that is known here: no checkpoint, motion adapter, VAE, LoRA or embedding."
    )


def _base_of(config: Mapping[str, Any]) -> str:
    """What a network fits on: networks fit whose blocks have equally many channels."""
    blocks = config.get("block_out_channels")
    if not isinstance(blocks, list) or not all(isinstance(each, int) for each in blocks):
        return "sd15"
    return "sd15" if tuple(blocks) == SD15_BLOCKS else "x".join(map(str, blocks))[:64]


def _has_channels(tensors: Mapping[str, StoredTensor], channels: int) -> bool:
    return any(tensor.shape[:1] == (channels,) for name, tensor in tensors.items() if "motion_modules" in name)


def _linear() -> dict[str, Any]:
    return {"noise_table": "linear", "noise_table_why": LINEAR_WHY}


def _max_frames(folder: Path) -> int:
    """The frames of a window: as many as AnimateDiff was trained on, if the modules carry so many."""
    try:
        most = json.loads((folder / "config.json").read_bytes()).get("motion_max_seq_length")
    except (OSError, ValueError, AttributeError):
        return DEFAULT_MAX_FRAMES
    return min(DEFAULT_MAX_FRAMES, most) if isinstance(most, int) and most > 0 else DEFAULT_MAX_FRAMES


def _check(root: Path, paths: Mapping[str, Path], found: Inspected, *, reads_weights: bool) -> None:
    """The gate, for a checkpoint that is whole. Others meet it together with their adapter."""
    if found.kind is ModelKind.CHECKPOINT and found.card.get("has_motion"):
        checkpoint = check_checkpoint(_card_at(root, found))
        if reads_weights:
            check_weights(checkpoint)
        return
    if reads_weights:
        weights = [root / name for name in sorted(paths) if name.endswith(".safetensors")]
        for file in weights:
            check_finite(read_tensors([file], root).values(), root)


def _card_at(root: Path, found: Inspected) -> ModelCard:
    record = ModelRecord(
        id=root.name.strip("."), kind=found.kind, family=found.family, base=found.base, card=found.card, files={}, source=""
    )
    return to_card(record, root)


def _name(kind: ModelKind) -> str:
    return kind.value.replace("_", " ")
