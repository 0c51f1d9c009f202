"""Wan's VAE in parts: it is causal, so a clip is encoded and decoded a few frames at a time, with the bits of the whole.

Each convolution over time keeps what it last saw for the next part, as in diffusers' AutoencoderKLWan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor

from promptreel.models.wan.configs import TIME_SCALE

Run = Callable[[Callable[[], Tensor]], Tensor]
"""Runs work where the networks compute, and without gradients."""


@dataclass(frozen=True)
class WanVae:
    """`take` brings the network to `device` and returns it; it is called within `run`. It computes in float32.

    `convolutions`: how many convolutions of the encoder and of the decoder have a cache.
    """

    take: Callable[[], Any]
    config: Any
    convolutions: Mapping[str, int]
    device: str
    run: Run

    @property
    def scale(self) -> int:
        """Pixels per latent along a side."""
        return int(self.config.scale_factor_spatial)

    def latent_shape(self, num_frames: int, width: int, height: int) -> tuple[int, int, int, int, int]:
        frames = 1 + (num_frames - 1) // TIME_SCALE
        return (1, self.config.z_dim, frames, height // self.scale, width // self.scale)

    def encode(self, frames: Tensor, on_part: Callable[[], None]) -> Tensor:
        """Frames, float32 from -1 to 1 [1, 3, T, H, W], to latents [1, C, T', h, w], normalized: the distribution's mode."""
        state: list[Any] = [None] * self.convolutions["encoder"]
        parts = [self.run(partial(self._encode_some, frames[:, :, :1], state))]
        for start in range(1, frames.shape[2], TIME_SCALE):
            on_part()
            part = frames[:, :, start : start + TIME_SCALE]
            parts.append(self.run(partial(self._encode_some, part, state)))
        latents = self.run(lambda: self.take().quant_conv(torch.cat(parts, dim=2)))[:, : self.config.z_dim]
        mean, scale = self._normal(latents)
        return ((latents - mean) * scale).cpu()

    def decode(self, latents: Tensor, on_part: Callable[[], None]) -> Iterator[Tensor]:
        """Normalized latents [1, C, T', h, w] to frames, float32 from -1 to 1 [1, 3, T, H, W], a part at a time."""
        mean, scale = self._normal(latents)
        latents = self.run(lambda: self.take().post_quant_conv((latents / scale + mean).to(self.device)))
        state: list[Any] = [None] * self.convolutions["decoder"]
        for number, part in enumerate(latents.split(1, dim=2)):
            on_part()
            yield self.run(partial(self._decode_some, part, state, is_first=number == 0))

    def _encode_some(self, frames: Tensor, state: list[Any]) -> Tensor:
        frames = frames.to(self.device)
        if self.config.patch_size is not None:
            frames = patchify(frames, patch_size=self.config.patch_size)
        encoded: Tensor = self.take().encoder(frames, feat_cache=state, feat_idx=[0])
        return encoded

    def _decode_some(self, latents: Tensor, state: list[Any], *, is_first: bool) -> Tensor:
        frames: Tensor = self.take().decoder(latents, feat_cache=state, feat_idx=[0], first_chunk=is_first)
        if self.config.patch_size is not None:
            frames = unpatchify(frames, patch_size=self.config.patch_size)
        return frames.clamp(-1, 1).cpu()

    def _normal(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and inverse standard deviation of the latents, by channel."""
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(self.config.latents_mean).view(shape)
        return mean.to(like.device), (1.0 / torch.tensor(self.config.latents_std).view(shape)).to(like.device)
