"""Stage 1: the VAE, frames [N, 3, 96, 96] in -1..1 to latents [N, 8, 12, 12] and back.

A small AutoencoderDC (Chen et al. 2024, "Deep Compression Autoencoder"): residual blocks with RMS norm and pixel-unshuffle
shortcuts. Its flat colours come right far sooner than with AutoencoderKL's group norms. Nothing runs at full resolution but
the first and last convolution, so that forty frames were decoded in 0.16 s on two cores.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor

from recipes.cutout.device import mixed_precision, pick_device
from recipes.cutout.loop import Budget, Loop, load_into
from recipes.cutout.world import MAX_FRAMES, draw_frame, pick_scene

BATCH = 32
LATENT_NOISE = 0.05


def build_vae() -> AutoencoderDC:
    channels, layers = (16, 48, 96, 128), (0, 1, 2, 2)
    return AutoencoderDC(
        in_channels=3,
        latent_channels=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        upsample_block_type="interpolate",
        downsample_block_type="pixel_unshuffle",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )


def draw_frames(rng: random.Random, count: int, *, held_out: bool = False) -> Tensor:
    """Frames of `count` different scenes, float32 [count, 3, 96, 96] in -1..1."""
    frames = [
        draw_frame(pick_scene(rng, pairs=12, held_out=held_out), rng.randrange(MAX_FRAMES), MAX_FRAMES) for _ in range(count)
    ]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(folder: Path, budget: Budget) -> None:
    device = pick_device()
    torch.manual_seed(0)
    vae = build_vae().to(device, memory_format=torch.channels_last)
    loop = Loop({"vae": vae}, folder / "vae", lr=2e-3, average_decay=0.995)
    rng = random.Random(f"vae {loop.step}")

    def loss() -> Tensor:
        frames = draw_frames(rng, BATCH).to(device, memory_format=torch.channels_last)
        with mixed_precision(device):
            latents = vae.encoder(frames)
            drawn = vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        return reconstruction_loss(drawn.float(), frames) + 1e-3 * latents.float().square().mean()

    loop.run(loss, budget)


def load_vae(folder: Path, device: torch.device) -> AutoencoderDC:
    """The averaged VAE of a training folder, with the scaling factor that gives its latents unit variance."""
    vae = build_vae()
    load_into({"vae": vae}, folder / "vae" / "average.safetensors")
    vae = vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    vae.register_to_config(scaling_factor=measure_scaling(vae, device))
    return vae


@torch.no_grad()
def measure_scaling(vae: AutoencoderDC, device: torch.device) -> float:
    """1 / the standard deviation of the latents of 512 drawn frames, rounded to four digits."""
    frames = draw_frames(random.Random("scaling"), 512).to(device, memory_format=torch.channels_last)
    with mixed_precision(device):
        latents = torch.cat([vae.encoder(part) for part in frames.split(64)])
    return float(f"{1 / latents.float().std().item():.4g}")


def reconstruction_loss(drawn: Tensor, frames: Tensor) -> Tensor:
    """Absolute error of colours and of edges, and the squared error that PSNR counts."""
    edges = sum((drawn.diff(dim=axis) - frames.diff(dim=axis)).abs().mean() for axis in (2, 3))
    error = drawn - frames
    return error.abs().mean() + 0.5 * edges + error.square().mean()


def psnr(frames: Tensor, drawn: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in -1..1 (peak to peak 2), over all of them together."""
    error = (frames - drawn.clamp(-1, 1)).square().mean()
    return float(10 * torch.log10(4 / error))
