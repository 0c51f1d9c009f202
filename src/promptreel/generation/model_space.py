"""ModelSpace: the noise table that a checkpoint was trained on, and scheduler objects that are pinned to it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

# What of a checkpoint's scheduler_config.json describes its training; the rest is a choice of sampling, and ours.
_TRAINING_KEYS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps", "rescale_betas_zero_snr")
# diffusers' own bound for a last step of pure noise, whose sigma would be infinite.
_LEAST_ALPHA = 2.0**-24


class ModelSpace:
    """The training noise levels (`alphas_cumprod`, float64 [T]) and what the network predicts."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Reads a scheduler configuration; raises ValueError for a prediction type that is neither epsilon nor v."""
        training = {key: config[key] for key in _TRAINING_KEYS if config.get(key) is not None}
        self.alphas_cumprod: Tensor = diffusers.DDIMScheduler(**training).alphas_cumprod.double().clamp(min=_LEAST_ALPHA)
        self.prediction_type: str = config.get("prediction_type") or "epsilon"
        if self.prediction_type not in {"epsilon", "v_prediction"}:
            raise ValueError(f"prediction_type {self.prediction_type!r} is neither 'epsilon' nor 'v_prediction'")

    @property
    def betas(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        alphas = self.alphas_cumprod
        steps = torch.cat([1 - alphas[:1], 1 - alphas[1:] / alphas[:-1]])
        return steps.numpy().astype(np.float32)

    def epsilon_of_v(self, v: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """The noise that a prediction `v` at a whole `timestep` says is in `latents` (Salimans and Ho 2022)."""
        alpha = float(self.alphas_cumprod[int(timestep)])
        return alpha**0.5 * v + (1 - alpha) ** 0.5 * latents

    def scheduler(self, name: str, *, timestep_spacing: str) -> Any:
        """A diffusers scheduler with everything that matters pinned, nothing inherited by luck.

        `clip_sample` is off (DDPM and DDIM default to clipping, which ruins latents); the noise table and prediction type are
        the checkpoint's.
        """
        kind = getattr(diffusers, name)
        pinned = {
            "num_train_timesteps": len(self.alphas_cumprod),
            "trained_betas": self.betas,
            "prediction_type": self.prediction_type,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "timestep_spacing": timestep_spacing,
            "steps_offset": 0,
        }
        accepted = inspect.signature(kind.__init__).parameters
        return kind(**{key: value for key, value in pinned.items() if key in accepted})
