"""Data sets are drawn and encoded once for each VAE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC

from recipes.cutout.data import Latents, Source, latents_of
from recipes.cutout.vae import build_vae

CPU = torch.device("cpu")


def new_vae(seed: int) -> AutoencoderDC:
    torch.manual_seed(seed)
    return build_vae().eval()


class Pages:
    """A source of 16x16 frames, each filled with its number. Records what it draws, and is stopped at `stop_at`."""

    def __init__(self, *, stop_at: int = 1000) -> None:
        self.drawn: list[int] = []
        self.stop_at = stop_at

    def draw(self, first: int, last: int) -> np.ndarray:
        if first >= self.stop_at:
            raise KeyboardInterrupt
        self.drawn += range(first, last)
        return np.stack([np.full((1, 16, 16, 3), i, np.uint8) for i in range(first, last)])

    def latents(self, folder: Path, vae: AutoencoderDC, count: int = 120) -> Latents:
        return latents_of(Source("page", 1, self.draw), vae, folder, count, CPU)


def test_stopped_drawing_continues_where_it_stopped(tmp_path: Path) -> None:
    vae = new_vae(0)
    whole = Pages().latents(tmp_path / "whole", vae)
    stopped, second = Pages(stop_at=60), Pages()
    with pytest.raises(KeyboardInterrupt):
        stopped.latents(tmp_path / "parts", vae)

    parts = second.latents(tmp_path / "parts", vae)

    assert second.drawn == list(range(50, 120))
    assert torch.equal(whole.values, parts.values)
    assert whole.values.shape == (120, 1, 16, 1, 1)


def test_frames_are_not_drawn_again_for_same_vae(tmp_path: Path) -> None:
    first, again = Pages(), Pages()
    one = first.latents(tmp_path, new_vae(0), 5)
    other = again.latents(tmp_path, new_vae(0), 5)

    assert again.drawn == []
    assert torch.equal(one.values, other.values)


def test_latents_of_another_vae_are_not_reused(tmp_path: Path) -> None:
    one = Pages().latents(tmp_path, new_vae(0), 5)
    other = Pages().latents(tmp_path, new_vae(1), 5)

    assert not torch.allclose(one.values, other.values)
