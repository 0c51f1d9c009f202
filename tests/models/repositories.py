"""File lists of public repositories, rebuilt tiny: the names are theirs, the contents are ours.

Each entry names a repository as a hub has it. `tiny` fills weights with real tensors of the smallest networks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from tests.models.checkpoints import make_checkpoint

PICKLE = b"PK\x03\x04 not opened"
CHECKER = "safety_checker/model.safetensors"


def tiny_pipeline(folder: Path) -> dict[str, bytes]:
    """The files of a tiny Stable Diffusion pipeline without motion modules, by name, as `save_pretrained` lays them out."""
    make_checkpoint(folder, _class_name="StableDiffusionPipeline")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    index = json.loads(files["model_index.json"])
    index.pop("motion_adapter")
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    files["model_index.json"] = json.dumps(index).encode()
    return {
        name: content for name, content in files.items() if not name.startswith("motion_adapter/") and name != "promptreel.json"
    }


def tiny_adapter(folder: Path) -> dict[str, bytes]:
    """The two files of a tiny motion adapter in diffusers' layout."""
    make_checkpoint(folder)
    return {path.name: path.read_bytes() for path in (folder / "motion_adapter").iterdir()}


def tiny_vae(folder: Path) -> dict[str, bytes]:
    make_checkpoint(folder)
    return {path.name: path.read_bytes() for path in (folder / "vae").iterdir()}


def with_variants(
    files: Mapping[str, bytes], *, plain: bool = True, fp16: bool = True, pickled: bool = True
) -> dict[str, bytes]:
    """Weights in the forms that repositories keep side by side."""
    made: dict[str, bytes] = {}
    for name, content in files.items():
        if not name.endswith(".safetensors"):
            made[name] = content
            continue
        stem = name.removesuffix(".safetensors")
        if plain:
            made[name] = content
        if fp16:
            made[f"{stem}.fp16.safetensors"] = content
        if pickled:
            pickle = stem.replace("text_encoder/model", "text_encoder/pytorch_model")
            made[f"{pickle}.bin"] = PICKLE
            made[f"{pickle}.fp16.bin"] = PICKLE
    return made


def sharded(files: Mapping[str, bytes], name: str, folder: Path) -> dict[str, bytes]:
    """The file in two shards with an index, as `save_pretrained(max_shard_size=...)` writes them."""
    path = folder / "whole.safetensors"
    path.write_bytes(files[name])
    tensors = load_file(path)
    stem = name.removesuffix(".safetensors")
    halves: list[dict[str, np.ndarray]] = [{}, {}]
    for number, (key, array) in enumerate(sorted(tensors.items())):
        halves[number % 2][key] = array
    made = {key: content for key, content in files.items() if key != name}
    placed = {}
    for number, half in enumerate(halves, start=1):
        shard = f"{stem}-0000{number}-of-00002.safetensors"
        made[shard] = save(half, metadata={"format": "pt"})
        placed |= dict.fromkeys(half, shard.rpartition("/")[2])
    made[f"{stem}.safetensors.index.json"] = json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}).encode()
    return made
