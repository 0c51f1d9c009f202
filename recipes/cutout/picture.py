"""Stage 2: the picture model (a UNet2DConditionModel and the CLIP text encoder), trained on single frames."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from recipes.cutout.captions import caption_for_training
from recipes.cutout.data import picture_latents
from recipes.cutout.device import mixed_precision, pick_device
from recipes.cutout.diffusion import Noising, encode_captions
from recipes.cutout.loop import Budget, Loop, load_into
from recipes.cutout.text import WIDTH, build_text_encoder, build_tokenizer
from recipes.cutout.vae import LATENT_CHANNELS, load_vae

BATCH = {"cpu": 64, "cuda": 512}
PICTURES = {"cpu": 32_000, "cuda": 400_000}


def build_unet() -> UNet2DConditionModel:
    """6.6 M parameters. Convolutions at 12x12; attention at 6x6, where a token is a sixth of the picture's side."""
    return UNet2DConditionModel(
        sample_size=12,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def load_picture(folder: Path, device: torch.device) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The averaged picture model and text encoder of a training folder."""
    unet, encoder = build_unet(), build_text_encoder(build_tokenizer())
    load_into({"unet": unet, "text_encoder": encoder}, folder / "picture" / "average.safetensors")
    return unet.to(device), encoder.to(device)


def train_picture(folder: Path, budget: Budget) -> None:
    device = pick_device()
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    unet = build_unet().to(device, memory_format=torch.channels_last)
    encoder = build_text_encoder(tokenizer).to(device)
    data = picture_latents(load_vae(folder, device), folder / "data", PICTURES[device.type], device)
    loop = Loop({"unet": unet, "text_encoder": encoder}, folder / "picture", lr=1.5e-3)
    noising = Noising(device)
    rng = random.Random(f"picture {loop.step}")

    def loss() -> Tensor:
        chosen = [rng.randrange(len(data.scenes)) for _ in range(BATCH[device.type])]
        clean = data.values[chosen, 0].to(device).float().contiguous(memory_format=torch.channels_last)
        timesteps = torch.randint(0, 1000, (len(chosen),), device=device)
        noise = torch.randn_like(clean)
        with mixed_precision(device):
            text = encode_captions([caption_for_training(data.scenes[i], rng) for i in chosen], tokenizer, encoder, rng, device)
            output = unet(noising.add(clean, noise, timesteps), timesteps, text).sample
        return noising.loss(output, clean, noise, timesteps)

    loop.run(loss, budget)
