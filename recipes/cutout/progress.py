"""Keeps the weights of an unfinished training beside the recipe, so that anyone with the repository can continue it.

The averaged weights are kept in fp16, with the number of steps and seconds. The optimizers' states are lost.
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
    """Copies one stage's averaged weights from a training folder."""
    target.mkdir(exist_ok=True)
    _convert(folder / stage / "average.safetensors", target / f"{stage}.safetensors", torch.float16)
    shutil.copyfile(folder / stage / "progress.json", target / f"{stage}.json")


def take_up_progress(folder: Path, source: Path = KEPT) -> None:
    """Makes a training folder from the kept weights. Skips stages that the folder already has."""
    for path in sorted(source.glob("*.safetensors")):
        stage = folder / path.stem
        if stage.exists():
            print(f"{stage} already exists: skipped")
            continue
        stage.mkdir(parents=True)
        for name in ("weights", "average"):
            _convert(path, stage / f"{name}.safetensors", torch.float32)
        shutil.copyfile(path.with_suffix(".json"), stage / "progress.json")
        print(f"{stage}: {json.loads(path.with_suffix('.json').read_text())['step']:,} steps")


def _convert(source: Path, target: Path, dtype: torch.dtype) -> None:
    tensors: dict[str, Tensor] = load_file(source)
    save_file({name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}, target)
    target.chmod(0o644)  # safetensors writes files that only their owner can read
