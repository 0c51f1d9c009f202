"""What the picture and motion stages train towards: v-prediction on the noise schedule of DDPM (Ho et al. 2020).

Stable Diffusion's schedule ends at a signal-to-noise ratio of 0.005. That is too much for clips: the frames repeat each other,
so that over 16 frames of 6x6 tokens the noisiest clip of the training still shows where its thing is and how it moves, and the
model learns to look there instead of reading the prompt. Sampling then begins with noise that shows nothing, and the motion
comes out at random (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed"). DDPM's linear schedule
ends at 0.00004, a finite sigma of 157 that every sampler can take.

v (Salimans and Ho 2022) instead of eps, because at high noise a small network's errors in eps are multiplied by up to 15 when
the clean latents are computed from it, and a colour is decided there. The weight is min-SNR's (Hang et al. 2023, gamma 5) with
one added: in terms of the clean latents' error, min(SNR, 5) + 1, which keeps the noisiest timesteps, where a thing's place and
colour are decided, from vanishing. In clips, the part of the error that differs between frames counts more at high noise: it is
small beside the rest there, and it is what the words for motions are learned from. The best prediction is the same, whichever
parts of the error weigh more: the mean of what there may be.
"""

from __future__ import annotations

import random

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

UNCONDITIONAL_SHARE = 0.1
GAMMA = 5.0
MOVING_WEIGHT = 20.0
NOISY_SHARE = 0.3
MOVING_DIMENSIONS = 5  # [B, C, T, h, w]

SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULER_CONFIG)


class Noising:
    """Noise levels, targets and weights; tensors of shape [B, ...] with one timestep a row."""

    def __init__(self, device: torch.device) -> None:
        self.alphas = build_scheduler().alphas_cumprod.to(device)

    def add(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha = self._shaped(timesteps, clean)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha = self._shaped(timesteps, clean)
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        ratio = self.alphas[timesteps] / (1 - self.alphas[timesteps])
        weight = (ratio.clamp(max=GAMMA) + 1) / (ratio + 1)
        error = output.float() - target
        squared = error.square().flatten(1).mean(1)
        if clean.ndim == MOVING_DIMENSIONS:
            moving = (error - error.mean(2, keepdim=True)).square().flatten(1).mean(1)
            squared = squared + MOVING_WEIGHT * (1 - self.alphas[timesteps]) ** 8 * moving
        return (squared * weight).mean()

    @staticmethod
    def draw_timesteps(count: int, device: torch.device) -> Tensor:
        """Most of them anywhere, the others among the noisiest, where motions are decided: int64 [count]."""
        anywhere = torch.randint(0, 1000, (count,), device=device)
        noisy = torch.randint(600, 1000, (count,), device=device)
        return torch.where(torch.rand(count, device=device) < NOISY_SHARE, noisy, anywhere)

    def _shaped(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.alphas[timesteps].reshape(-1, *[1] * (like.ndim - 1))


def encode_captions(
    captions: list[str], tokenizer: CLIPTokenizer, encoder: CLIPTextModel, rng: random.Random, device: torch.device
) -> Tensor:
    """Text embeddings [B, 32, 128]; one caption in ten becomes the empty one, which classifier-free guidance needs."""
    kept = ["" if rng.random() < UNCONDITIONAL_SHARE else text for text in captions]
    tokens = tokenizer(kept, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return encoder(tokens.to(device))[0]
