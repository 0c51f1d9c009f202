"""Stage 1: the VAE, frames [N, 3, 192, 192] in -1..1 to latents [N, 16, 12, 12] and back.

A small AutoencoderDC (Chen et al. 2024, "Deep Compression Autoencoder"): residual blocks with RMS norm and pixel-unshuffle
shortcuts. It learns flat colors far sooner than AutoencoderKL, which has group norms. Only the first and the last convolution
run at full resolution.

Training makes latents that a small UNet can generate:
- Their variance is held near one.
- The decoder gets them with noise of random strength, so it tolerates the UNet's errors.
- Latents at half size must decode to frames at half size ("Improving the Diffusability of Autoencoders", Skorokhodov et al.
  2025). This keeps detail that only the VAE understands out of the latents' finest scale.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from diffusers import AutoencoderDC
from torch import Tensor

from recipes.cutout.device import mixed_precision, pick_device
from recipes.cutout.loop import Budget, Loop, load_into
from recipes.cutout.quick import quicken, run_in_bf16
from recipes.cutout.world import MAX_FRAMES, SIZE, draw_frame, pick_scene

LATENT_CHANNELS = 16
DOWN = 16  # pixels along a latent's side
BATCH = 16
CROPS = 32  # frames in a batch of crops: twice the scenes in half the pixels
CROP = 96  # pixels along a crop's side
CROPPED_SHARE = 0.75  # of the steps; the others use whole frames
HALVED = 8  # frames of a batch that are also decoded at half size
HALVED_WEIGHT = 0.25
LATENT_NOISE = 0.2  # the largest standard deviation; the latents have unit variance
MEASURED_FRAMES = 512  # to compute the scaling factor


def build_vae() -> AutoencoderDC:
    channels, layers = (16, 32, 64, 128, 128), (0, 1, 1, 2, 2)
    return AutoencoderDC(
        in_channels=3,
        latent_channels=LATENT_CHANNELS,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * 5,
        decoder_qkv_multiscales=((),) * 5,
        upsample_block_type="interpolate",
        downsample_block_type="pixel_unshuffle",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )


def draw_frames(rng: random.Random, count: int, *, held_out: bool = False) -> Tensor:
    """Frames of `count` different scenes, float32 [count, 3, 192, 192] in -1..1."""
    frames = [
        draw_frame(pick_scene(rng, pairs=12, held_out=held_out), rng.randrange(MAX_FRAMES), MAX_FRAMES) for _ in range(count)
    ]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(folder: Path, budget: Budget) -> None:
    device = pick_device()
    torch.manual_seed(0)
    vae = build_vae().to(device, memory_format=torch.channels_last)
    loop = Loop({"vae": vae}, folder / "vae", lr=2e-3)
    quicken(vae)
    rng = random.Random(f"vae {loop.step}")

    def loss() -> Tensor:
        frames = draw_batch(rng).to(device, memory_format=torch.channels_last)
        latents = run_in_bf16(vae.encoder, frames)
        drawn = run_in_bf16(vae.decoder, add_noise(latents))
        halves = run_in_bf16(vae.decoder, F.avg_pool2d(latents[:HALVED], 2))
        whole = reconstruction_loss(drawn.float(), frames)
        half = reconstruction_loss(halves.float(), F.avg_pool2d(frames[:HALVED], 2))
        return whole + HALVED_WEIGHT * half + variance_loss(latents.float())

    loop.run(loss, budget)


def draw_batch(rng: random.Random) -> Tensor:
    """The frames of one step: 16 whole ones, or 32 crops, mostly from near the middle, where things are."""
    if rng.random() >= CROPPED_SHARE:
        return draw_frames(rng, BATCH)
    return torch.stack([_crop(frame, rng) for frame in draw_frames(rng, CROPS)])


def _crop(frame: Tensor, rng: random.Random) -> Tensor:
    """[3, 192, 192] to [3, 96, 96]."""
    top, left = (int((rng.random() + rng.random()) / 2 * (SIZE - CROP + 1)) for _ in range(2))
    return frame[:, top : top + CROP, left : left + CROP]


def add_noise(latents: Tensor) -> Tensor:
    """Adds noise to latents [N, C, h, w], of a random strength for each frame."""
    strength = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents + strength * torch.randn_like(latents)


def variance_loss(latents: Tensor) -> Tensor:
    """Holds latents near unit variance, so that the noise stays equally strong throughout the training."""
    return 0.1 * (latents.square().mean() - 1).square()


def load_vae(folder: Path, device: torch.device, *, measured_frames: int = MEASURED_FRAMES) -> AutoencoderDC:
    """A training folder's averaged VAE, with the scaling factor that gives its latents unit variance."""
    vae = build_vae()
    load_into({"vae": vae}, folder / "vae" / "average.safetensors")
    vae = vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    vae.register_to_config(scaling_factor=measure_scaling(vae, device, measured_frames))
    return vae


@torch.no_grad()
def measure_scaling(vae: AutoencoderDC, device: torch.device, count: int) -> float:
    """1 / the standard deviation of the latents of `count` drawn frames, to four significant digits."""
    frames = draw_frames(random.Random("scaling"), count).to(device, memory_format=torch.channels_last)
    with mixed_precision(device):
        latents = torch.cat([vae.encoder(part) for part in frames.split(64)])
    return float(f"{1 / latents.float().std().item():.4g}")


def reconstruction_loss(drawn: Tensor, frames: Tensor) -> Tensor:
    """The absolute errors of colors and of edges, and the squared error, which PSNR measures."""
    edges = sum((drawn.diff(dim=axis) - frames.diff(dim=axis)).abs().mean() for axis in (2, 3))
    error = drawn - frames
    return error.abs().mean() + 0.5 * edges + error.square().mean()


def psnr(frames: Tensor, drawn: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, over all pictures together. Their values are in -1..1, so the peak is 2."""
    error = (frames - drawn.clamp(-1, 1)).square().mean()
    return float(10 * torch.log10(4 / error))
