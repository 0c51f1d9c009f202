"""The objective of the picture and motion stages: v-prediction on DDPM's linear noise schedule (Ho et al. 2020).

Noise schedule: Stable Diffusion's ends at a signal-to-noise ratio (SNR) of 0.005. That is too high for clips. Their frames
repeat each other, so 16 frames of 6x6 tokens show where the thing is and how it moves, even at the last timestep. The model
learns to look there instead of reading the prompt. But sampling starts from pure noise, so the motion becomes random (Lin et
al. 2024, "Common diffusion noise schedules and sample steps are flawed"). DDPM's schedule ends at an SNR of 0.00004. That is a
sigma of 157, which every sampler accepts.

Why v (Salimans and Ho 2022): computing the clean latents from a predicted eps multiplies its error by sigma. At high noise,
where colors are decided, a small model's errors would become too large.

Loss weights: min-SNR (Hang et al. 2023, gamma 5) plus one, which is min(SNR, 5) + 1 for the error of the clean latents. "Plus
one" keeps weight on the noisiest timesteps, where a thing's place and color are decided. In clips at high noise, the part of
the error that differs between frames gets extra weight: it is small there, but teaches the words for motions. The weights do
not change the best prediction, which is the mean of all possible targets.
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
CLIP_DIMENSIONS = 5  # [B, C, T, h, w]

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
    """Adds noise and computes the loss. Latents are [B, ...]; timesteps are int64 [B]."""

    def __init__(self, device: torch.device, scheduler: DDIMScheduler | None = None) -> None:
        """`scheduler` has the noise table of the model that is trained; it must predict v. Default: `build_scheduler`'s."""
        self.alphas = (scheduler or build_scheduler()).alphas_cumprod.to(device)

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
        if clean.ndim == CLIP_DIMENSIONS:
            moving = (error - error.mean(2, keepdim=True)).square().flatten(1).mean(1)
            squared = squared + MOVING_WEIGHT * (1 - self.alphas[timesteps]) ** 8 * moving
        return (squared * weight).mean()

    @staticmethod
    def draw_timesteps(count: int, device: torch.device) -> Tensor:
        """Random timesteps, int64 [count]: most are uniform, the others from the noisiest, where motions are decided."""
        anywhere = torch.randint(0, 1000, (count,), device=device)
        noisy = torch.randint(600, 1000, (count,), device=device)
        return torch.where(torch.rand(count, device=device) < NOISY_SHARE, noisy, anywhere)

    def _shaped(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.alphas[timesteps].reshape(-1, *[1] * (like.ndim - 1))


def encode_captions(
    captions: list[str], tokenizer: CLIPTokenizer, encoder: CLIPTextModel, rng: random.Random, device: torch.device
) -> Tensor:
    """Text embeddings [B, 48, 128]. One caption in ten is replaced by an empty one, for classifier-free guidance."""
    kept = ["" if rng.random() < UNCONDITIONAL_SHARE else text for text in captions]
    tokens = tokenizer(kept, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return encoder(tokens.to(device))[0]
