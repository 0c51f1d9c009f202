"""What a UNet is trained on: noise added by the model's own table, and the loss of its prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from promptreel.errors import TrainingFailed
from promptreel.generation.model_space import ModelSpace

GAMMA = 5.0


class Noising:
    """The noise levels of a ModelSpace, on a device. Latents are [B, C, T, h, w]; timesteps are int64 [B].

    The weights are min-SNR's (Hang et al. 2023, gamma 5): steps with little noise, which teach details, count no more than
    five times what steps at equal signal and noise do. For v they are those of the ratio plus one, else the noisiest steps, in
    which a thing's place and color are decided, would teach nothing.
    """

    def __init__(self, space: ModelSpace, device: str) -> None:
        """Raises TrainingFailed for flow models."""
        if space.is_flow:
            raise TrainingFailed("The base was trained by flow matching, which this preset cannot do. Take another base.")
        alphas = space.alphas_cumprod
        self.steps = len(alphas)
        self.predicts_v = space.prediction_type == "v_prediction"
        self._signal, self._noise = (level.float().to(device) for level in (alphas.sqrt(), (1 - alphas).sqrt()))
        ratio = alphas / (1 - alphas)
        ratio = ratio + 1 if self.predicts_v else ratio
        self._weights = (ratio.clamp(max=GAMMA) / ratio).float().to(device)

    def add(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self._at(self._signal, timesteps) * clean + self._at(self._noise, timesteps) * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict: the noise, or v (Salimans and Ho 2022)."""
        if not self.predicts_v:
            return noise
        return self._at(self._signal, timesteps) * noise - self._at(self._noise, timesteps) * clean

    def losses(self, output: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """The weighted mean squared error of each row, [B]."""
        return self._weights[timesteps] * (output.float() - target.float()).square().flatten(1).mean(1)

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform, one in each `count`-th part of the table, so that batches differ less (Kingma et al. 2021)."""
        places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        return (places * self.steps).long().clamp(max=self.steps - 1)

    @staticmethod
    def _at(levels: Tensor, timesteps: Tensor) -> Tensor:
        return levels[timesteps].reshape(-1, 1, 1, 1, 1)
