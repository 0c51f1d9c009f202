"""Checkpoint folders for tests: real files in diffusers' layout, with a few numbers as weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

INDEX = {
    "_class_name": "AnimateDiffPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "motion_adapter": ["diffusers", "MotionAdapter"],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNetMotionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "motion_adapter": "motion_adapter/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
CARD = {
    "name": "Midjourney v4 style",
    "description": "Pictures in the style of mdjrny-v4.",
    "family": "animatediff",
    "native_width": 512,
    "native_height": 512,
    "max_frames": 32,
    "fps": 8,
    "default_negative_prompt": "blurry, watermark",
    "trigger_words": ["mdjrny-v4 style", " animated "],
    "quality_words": ["sharp focus"],
    "words": ["cat", "bench"],
    "reference_seconds_per_unit": 12.5,
}


def make_checkpoint(folder: Path, **index: object) -> Path:
    """A checkpoint that passes the check; `index` replaces entries of model_index.json."""
    for component in ("unet", "motion_adapter", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / component).mkdir(parents=True)
        (folder / component / "config.json").write_text("{}")
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "README.md").write_text("# A checkpoint\n")
    for name in WEIGHTS.values():
        tensors = {"weight": np.arange(6, dtype=np.float16).reshape(2, 3), "bias": np.zeros(3, np.float32), "none": np.zeros(0)}
        save_file(tensors, folder / name, metadata={"format": "pt"})
    (folder / "model_index.json").write_text(json.dumps(INDEX | index))
    return folder


def make_card(folder: Path, **fields: object) -> Path:
    """A folder with a card; `fields` replaces the card's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "promptreel.json").write_text(json.dumps(CARD | fields))
    return folder
