"""Writes the built-in model's files from a training folder: fp16 safetensors in diffusers' layout, and the service's card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderDC, MotionAdapter, UNet2DConditionModel
from transformers import CLIPTextModel

from recipes.cutout.captions import vocabulary
from recipes.cutout.diffusion import build_scheduler
from recipes.cutout.loop import save_weights
from recipes.cutout.motion import build_motion_adapter, join, load_motion
from recipes.cutout.picture import build_unet
from recipes.cutout.text import build_tokenizer
from recipes.cutout.vae import LATENT_CHANNELS, MEASURED_FRAMES, load_vae
from recipes.cutout.world import FPS, MAX_FRAMES, SIZE

BUILT_IN = Path(__file__).parents[2] / "src" / "promptreel" / "models" / "built_in" / "cutout"
COMPONENTS = {
    "motion_adapter": ["diffusers", "MotionAdapter"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderDC"],
}


def package(folder: Path, target: Path = BUILT_IN, *, measured_frames: int = MEASURED_FRAMES) -> None:
    """Replaces the model's files in `target`, but not the model card (README.md) beside them."""
    cpu = torch.device("cpu")
    trained, text_encoder = load_motion(folder, cpu)
    unet, adapter = build_unet(), build_motion_adapter()
    for part in (unet, adapter):
        weights = trained.state_dict()
        part.load_state_dict({name: weights[name] for name in part.state_dict()})
    vae = load_vae(folder, cpu, measured_frames=measured_frames)
    models = {"unet": unet, "motion_adapter": adapter, "text_encoder": text_encoder, "vae": vae}
    for name, model in models.items():
        save_part(model, target / name)
    build_tokenizer().save_pretrained(target / "tokenizer")
    build_scheduler().save_pretrained(target / "scheduler")
    index = {"_class_name": "AnimateDiffPipeline", "_diffusers_version": diffusers.__version__, **COMPONENTS}
    write_json(target / "model_index.json", index)
    write_json(target / "promptreel.json", card())


def unpack(folder: Path, source: Path = BUILT_IN) -> None:
    """Makes a training folder from the packaged model, so that training can continue without the original folder.

    Raises SystemExit if the packaged VAE has another number of latent channels than this recipe's.
    """
    if AutoencoderDC.load_config(source / "vae")["latent_channels"] != LATENT_CHANNELS:
        raise SystemExit(
            "the packaged model's VAE does not fit this recipe; run `take-up` to continue from the kept weights instead"
        )
    unet = UNet2DConditionModel.from_pretrained(source / "unet")
    adapter = MotionAdapter.from_pretrained(source / "motion_adapter")
    encoder = CLIPTextModel.from_pretrained(source / "text_encoder")
    vae = AutoencoderDC.from_pretrained(source / "vae")
    parts = {
        "vae": {"vae": vae},
        "picture": {"unet": unet, "text_encoder": encoder},
        "motion": {"unet": join(unet, adapter), "text_encoder": encoder},
    }
    for stage, modules in parts.items():
        (folder / stage).mkdir(parents=True, exist_ok=True)
        full = {name: module.float() for name, module in modules.items()}
        for name in ("weights", "average"):
            save_weights(full, folder / stage / f"{name}.safetensors")


def card() -> dict[str, object]:
    """What the service must know before it loads the model (docs/models.md)."""
    return {
        "name": "Cutout",
        "description": "A small world of paper cut-outs: twenty things, ten colors, ten motions, eight places. Built in.",
        "family": "animatediff",
        "native_width": SIZE,
        "native_height": SIZE,
        "max_frames": MAX_FRAMES,
        "fps": FPS,
        "default_negative_prompt": "",
        "words": vocabulary(),
    }


def save_part(model: Any, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    model.half().save_pretrained(target)
    for path in target.iterdir():
        path.chmod(0o644)  # save_pretrained writes weights that only their owner can read


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
