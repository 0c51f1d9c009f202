"""Shows what a training folder's stages can do so far, in pictures and figures."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from PIL import Image
from torch import Tensor

from recipes.cutout.captions import plain_caption
from recipes.cutout.diffusion import build_scheduler
from recipes.cutout.picture import load_picture
from recipes.cutout.text import build_tokenizer
from recipes.cutout.vae import draw_frames, load_vae, psnr
from recipes.cutout.world import pick_scene

UNSEEN_FRAMES = 128
COLUMNS = 8
PICTURES = 24
STEPS = 20
GUIDANCE = 4.0


@torch.no_grad()
def look_into(folder: Path) -> str:
    """Writes vae.png (drawn frames, with the VAE's reconstructions below) and picture.png. Returns the figures."""
    device = torch.device("cpu")
    vae = load_vae(folder, device)
    frames = draw_frames(random.Random("unseen frames"), UNSEEN_FRAMES)
    back = torch.cat([vae.decoder(vae.encoder(part)) for part in frames.split(16)])
    rows = [part for i in range(0, 4 * COLUMNS, COLUMNS) for part in (frames[i : i + COLUMNS], back[i : i + COLUMNS])]
    _save_sheet(rows, folder / "vae.png")
    figures = f"VAE: {psnr(frames, back):.2f} dB on {UNSEEN_FRAMES} unseen frames, scaling factor {vae.config.scaling_factor}"
    if (folder / "picture" / "average.safetensors").exists():
        _save_sheet(list(sample_pictures(folder, vae, device).split(COLUMNS)), folder / "picture.png")
    return figures


def sample_pictures(folder: Path, vae: AutoencoderDC, device: torch.device) -> Tensor:
    """One picture for each of `prompts()`: [24, 3, 192, 192]."""
    unet, encoder = load_picture(folder, device)
    tokenizer, scheduler = build_tokenizer(), build_scheduler()
    texts = [text for prompt in prompts() for text in ("", prompt)]
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    text = encoder(tokens)[0]
    scheduler.set_timesteps(STEPS)
    size = (PICTURES, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    latents = torch.randn(size, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        without, with_text = unet(latents.repeat_interleave(2, 0), timestep, text).sample.unflatten(0, (-1, 2)).unbind(1)
        latents = scheduler.step(without + GUIDANCE * (with_text - without), timestep, latents).prev_sample
    drawn: Tensor = vae.decoder(latents / vae.config.scaling_factor)
    return drawn


def prompts() -> list[str]:
    """Fixed prompts. Every third one is of a held-out pair."""
    found = []
    for number in range(PICTURES):
        scene = pick_scene(random.Random(f"look {number}"), held_out=number % 3 == 2)
        found.append(plain_caption(scene.actors[0], scene.place))
    return found


def _save_sheet(rows: list[Tensor], target: Path) -> None:
    """Writes rows of pictures, each [N, 3, H, W] in -1..1."""
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    pixels: np.ndarray = ((sheet.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(target, optimize=True)
