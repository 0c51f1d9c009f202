"""ModelSpace: a checkpoint's training noise levels, what its model predicts, and diffusers schedulers pinned to both.

Samplers see every checkpoint as variance preserving. At a timestep, latents are `signal * clean + noise * epsilon` with
`signal**2 + noise**2 = 1`, and `sigma = noise / signal`. `to_model` and `from_model` convert flow models to that form.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

# The keys of scheduler_config.json that describe training. The others are about sampling, which the request decides.
_TRAINING_KEYS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps", "rescale_betas_zero_snr")
# diffusers' lower bound: at the pure noise of alpha 0, sigma would be infinite.
_LEAST_ALPHA = 2.0**-24


class ModelSpace:
    """The training noise levels (`alphas_cumprod` and `sigmas`, float64 [T], by timestep) and what the model predicts.

    `distilled`: the model was distilled to jump to clean latents in one call (Luo et al. 2023, "Latent Consistency Models").
    `is_flow`: the model was trained by flow matching (Lipman et al. 2023); samplers see it predict v.
    """

    def __init__(self, config: Mapping[str, Any], *, distilled: bool = False) -> None:
        """Reads a scheduler configuration. Raises ValueError if no sampler supports it."""
        self.is_flow = _is_flow(config)
        self.distilled = distilled
        self.alphas_cumprod: Tensor = _flow_alphas(config) if self.is_flow else _diffusion_alphas(config)
        self.sigmas: Tensor = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        self.prediction_type: str = "v_prediction" if self.is_flow else config.get("prediction_type") or "epsilon"
        if self.prediction_type not in {"epsilon", "v_prediction"}:
            raise ValueError(f"prediction_type {self.prediction_type!r} is neither 'epsilon' nor 'v_prediction'")
        self._schedulers: dict[tuple[str, str], Any] = {}

    @property
    def last_timestep(self) -> int:
        """The noisiest timestep."""
        return len(self.sigmas) - 1

    @property
    def betas(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        alphas = self.alphas_cumprod
        steps = torch.cat([1 - alphas[:1], 1 - alphas[1:] / alphas[:-1]])
        return steps.numpy().astype(np.float32)

    def sigma_at(self, timestep: Tensor | float) -> float:
        """Noise over signal at a timestep; interpolated linearly, as in diffusers' sigma-based schedulers."""
        return float(np.interp(float(timestep), np.arange(len(self.sigmas)), self.sigmas.numpy()))

    def timestep_at(self, sigma: float) -> Tensor:
        """The inverse of `sigma_at`: float32, possibly fractional, clamped to the trained timesteps."""
        return torch.tensor(np.interp(sigma, self.sigmas.numpy(), np.arange(len(self.sigmas))), dtype=torch.float32)

    def epsilon(self, output: Tensor, latents: Tensor, sigma: float) -> Tensor:
        """The noise in `latents`, from the model's output at `sigma` (v: Salimans and Ho 2022). All shapes are equal."""
        if self.prediction_type == "epsilon":
            return output
        signal, noise = vp_scales(sigma)
        return signal * output + noise * latents

    def clean(self, output: Tensor, latents: Tensor, sigma: float) -> Tensor:
        """The clean latents in `latents`, from the model's output at `sigma`. All shapes are equal."""
        signal, noise = vp_scales(sigma)
        if self.prediction_type == "epsilon":
            return (latents - noise * output) / signal
        return signal * latents - noise * output

    def to_model(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Converts a call's latents and 0-dim timestep to the model's own form; only flow models need it.

        Flow latents are `(1 - time) * clean + time * epsilon`. They have the same sigma at `time = sigma / (1 + sigma)`.
        """
        if not self.is_flow:
            return latents, timestep
        time, length = self._flow_time(timestep)
        return latents * length, torch.tensor(time * len(self.sigmas), dtype=torch.float32)

    def from_model(self, output: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """Converts the model's output to the space's `prediction_type`; `latents` and `timestep` are the call's.

        A flow model predicts `u = epsilon - clean`. Let r be the length of (1 - time, time), and y = r * latents its input.
        Then `v = ((1 - 2 * time) * y + r**2 * u) / r`, which is finite at both ends.
        """
        if not self.is_flow:
            return output
        time, length = self._flow_time(timestep)
        return (1 - 2 * time) * latents + length * output

    def _flow_time(self, timestep: Tensor) -> tuple[float, float]:
        """Flow time from 0 (clean) to 1 (noise), and the length of (1 - time, time)."""
        sigma = self.sigma_at(timestep)
        return sigma / (1 + sigma), math.hypot(1, sigma) / (1 + sigma)

    def scheduler(self, name: str, **chosen: Any) -> Any:
        """A new diffusers scheduler with all relevant arguments pinned.

        The noise table and prediction type are the checkpoint's. `clip_sample` is off: DDPM and DDIM clip by default, which
        ruins latents. `chosen` overrides all of these.
        """
        key = (name, repr(sorted(chosen.items())))
        if key not in self._schedulers:
            self._schedulers[key] = self._build_scheduler(name, chosen)
        return copy.deepcopy(self._schedulers[key])  # building takes up to 0.2 s (KDPM2); copying is quick

    def _build_scheduler(self, name: str, chosen: dict[str, Any]) -> Any:
        kind = getattr(diffusers, name)
        pinned = {
            "num_train_timesteps": len(self.alphas_cumprod),
            "trained_betas": self.betas,
            "prediction_type": self.prediction_type,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "lower_order_final": True,
            "steps_offset": 0,
        } | chosen
        accepted = inspect.signature(kind.__init__).parameters
        return kind(**{key: value for key, value in pinned.items() if key in accepted})


def vp_scales(sigma: float) -> tuple[float, float]:
    """Signal and noise at `sigma`. Their squares add up to 1."""
    length = math.hypot(1, sigma)
    return 1 / length, sigma / length


def _diffusion_alphas(config: Mapping[str, Any]) -> Tensor:
    training = {key: config[key] for key in _TRAINING_KEYS if config.get(key) is not None}
    betas: Tensor = diffusers.DDIMScheduler(**training).betas
    # float64, so that `ModelSpace.betas` returns exactly these betas.
    return (1 - betas.double()).cumprod(0).clamp(min=_LEAST_ALPHA)


def _is_flow(config: Mapping[str, Any]) -> bool:
    """Whether the class is one of diffusers' FlowMatch schedulers, or another one configured for flow."""
    by_class = str(config.get("_class_name", "")).startswith("FlowMatch")
    return by_class or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _flow_alphas(config: Mapping[str, Any]) -> Tensor:
    """The variance-preserving table with the flow model's sigma at each trained time, shifted as configured.

    The last time, pure noise, moves half a step earlier, where sigma is finite but still the highest.
    """
    if config.get("use_dynamic_shifting"):
        raise ValueError("use_dynamic_shifting is not supported: the noise levels would depend on the size of the clip")
    if config.get("invert_sigmas"):
        raise ValueError("invert_sigmas is not supported: time must run from clean latents at 0 to noise at 1")
    key = "shift" if "shift" in config else "flow_shift"
    shift = float(config.get(key) or 1.0)
    steps = int(config.get("num_train_timesteps") or 1000)
    times = (torch.arange(1, steps + 1, dtype=torch.float64) / steps).clamp(max=1 - 0.5 / steps)
    sigmas = shift * times / (1 - times)
    return 1 / (1 + sigmas**2)
