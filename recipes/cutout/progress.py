"""Weights of a training that is not done, kept beside the recipe: whoever has the repository can go on with it.

They are the averaged ones, in fp16, with how far the training had come. What is lost is the optimisers' states.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

KEPT = Path(__file__).with_name("progress")


def keep_progress(folder: Path, stage: str, target: Path = KEPT) -> None:
    """Copies the averaged weights of one stage of a training folder."""
    target.mkdir(exist_ok=True)
    _convert(folder / stage / "average.safetensors", target / f"{stage}.safetensors", torch.float16)
    shutil.copyfile(folder / stage / "progress.json", target / f"{stage}.json")


def take_up_progress(folder: Path, source: Path = KEPT) -> None:
    """Makes a training folder of the kept weights. Stages that the folder has already stay as they are."""
    for path in sorted(source.glob("*.safetensors")):
        stage = folder / path.stem
        if stage.exists():
            print(f"{stage} is there already and stays as it is")
            continue
        stage.mkdir(parents=True)
        for name in ("weights", "average"):
            _convert(path, stage / f"{name}.safetensors", torch.float32)
        shutil.copyfile(path.with_suffix(".json"), stage / "progress.json")
        print(f"{stage}: {json.loads(path.with_suffix('.json').read_text())['step']:,} steps")


def _convert(source: Path, target: Path, dtype: torch.dtype) -> None:
    tensors: dict[str, Tensor] = load_file(source)
    save_file({name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}, target)
    target.chmod(0o644)  # weights are written so that only their owner can read them
