"""A clip that starts from another: frames become latents as the VAE was trained to see them, and strength says what is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny

from promptreel.errors import GenerationFailed
from promptreel.generation.engine import Engine
from promptreel.media import Clip
from promptreel.models.registry import ModelRegistry
from tests.generation.conftest import CPU
from tests.generation.test_animatediff import PARAMS, go_on

KL_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
DC_BLOCKS = {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock"}


def make_clip(num_frames: int = PARAMS.num_frames) -> Clip:
    """Of the size of PARAMS, each frame another one."""
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, PARAMS.height, PARAMS.width, 3), np.uint8)
    return Clip(frames, PARAMS.fps)


@pytest.fixture(scope="module")
def engine(models: ModelRegistry) -> Engine:
    return Engine(models, CPU)


def make_vae(kind: str) -> tuple[Any, str]:
    """A small one with random weights, and the name of what it encodes to."""
    torch.manual_seed(0)
    match kind:
        case "kl":
            shapes = {"block_out_channels": (8, 16), "norm_num_groups": 4, **KL_BLOCKS}
            return AutoencoderKL(**shapes, latent_channels=4, scaling_factor=0.2, shift_factor=0.5), "latent_dist.mean"
        case "dc":
            shapes = {"encoder_block_out_channels": (8, 16), "decoder_block_out_channels": (8, 16), **DC_BLOCKS}
            layers = {"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1)}
            scales = {"encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ())}
            return AutoencoderDC(**shapes, **layers, **scales, latent_channels=4, scaling_factor=0.7), "latent"
        case _:
            blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
            layers = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
            return AutoencoderTiny(**blocks, **layers, latent_channels=4, scaling_factor=1.5), "latents"


@pytest.mark.parametrize("kind", ["kl", "dc", "tiny"])
def test_latents_are_the_vaes_own_scaled_as_in_training(engine: Engine, kind: str) -> None:
    vae, name = make_vae(kind)
    frames = torch.from_numpy(make_clip().frames)
    checkpoint = replace(engine.load("tiny"), vae=vae.eval().requires_grad_(False))

    latents = checkpoint.encode(frames)

    encoded: Any = vae.encode(frames.permute(0, 3, 1, 2) / 127.5 - 1)
    for part in name.split("."):
        encoded = getattr(encoded, part)
    shift = vae.config.get("shift_factor") or 0.0
    assert latents.shape[:3] == (1, 4, 6)
    assert torch.allclose(latents[0].transpose(0, 1), (encoded - shift) * vae.config.scaling_factor, atol=1e-5)


def test_frames_that_stand_still_are_encoded_once(engine: Engine) -> None:
    checkpoint = engine.load("tiny")
    seen: list[int] = []
    hook = checkpoint.vae.encoder.register_forward_pre_hook(lambda _encoder, args: seen.append(len(args[0])))
    still = torch.from_numpy(make_clip(2).frames)[[0, 0, 0, 1, 1, 0]]
    latents = checkpoint.encode(still)
    hook.remove()

    assert sum(seen) == 3
    assert torch.equal(latents[:, :, 0], latents[:, :, 2])
    assert not torch.equal(latents[:, :, 2], latents[:, :, 3])


@pytest.mark.parametrize("scheduler", ["UniPCMultistepScheduler", "DDIMInverseScheduler"])
def test_clip_follows_the_init_the_seed_and_the_strength(engine: Engine, scheduler: str) -> None:
    params = replace(PARAMS, scheduler=scheduler, strength=0.5)
    frames = engine.generate(params, go_on, init=make_clip()).clip.frames

    assert np.array_equal(engine.generate(params, go_on, init=make_clip()).clip.frames, frames)
    assert not np.array_equal(engine.generate(params, go_on).clip.frames, frames)
    assert not np.array_equal(engine.generate(replace(params, strength=0.9), go_on, init=make_clip()).clip.frames, frames)
    if scheduler != "DDIMInverseScheduler":  # which draws nothing
        assert not np.array_equal(engine.generate(replace(params, seed=1), go_on, init=make_clip()).clip.frames, frames)


def test_strength_of_one_keeps_nothing_of_the_init(engine: Engine) -> None:
    params = replace(PARAMS, strength=1.0)

    assert np.array_equal(
        engine.generate(params, go_on, init=make_clip()).clip.frames, engine.generate(params, go_on).clip.frames
    )


def test_init_of_another_length_fails_by_name(engine: Engine) -> None:
    with pytest.raises(GenerationFailed, match="could not make this clip"):
        engine.generate(PARAMS, go_on, init=make_clip(PARAMS.num_frames - 1))
