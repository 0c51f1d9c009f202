"""Stage 3: the motion modules, trained on clips together with the picture model.

A clip costs forty pictures, so most steps see a few of a clip's frames only, each with the position it has in the whole:
what the motion modules learn of frames 3, 17 and 30 holds for the frames between them. The last third of the budget sees
whole clips, because attention over forty frames must have been practised.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor
from transformers import CLIPTextModel

from recipes.cutout.captions import caption
from recipes.cutout.data import Latents, clip_latents
from recipes.cutout.device import mixed_precision, pick_device
from recipes.cutout.diffusion import Noising, encode_captions
from recipes.cutout.loop import Budget, Loop, load_into
from recipes.cutout.picture import build_unet, load_picture
from recipes.cutout.text import build_text_encoder, build_tokenizer
from recipes.cutout.vae import load_vae
from recipes.cutout.world import MAX_FRAMES

FRAMES_A_STEP = {"cpu": 96, "cuda": 1280}
CLIPS = {"cpu": 900, "cuda": 12_000}
SPARSE_SHARE = 0.67
LENGTHS = (16, 24, 32, 40)


def build_motion_adapter() -> MotionAdapter:
    """Temporal attention at 6x6 only (no layers at 12x12, where it would cost more than all the rest): 1.8 M parameters."""
    return MotionAdapter(
        block_out_channels=(96, 160),
        motion_layers_per_block=1,
        motion_transformer_layers_per_block=(0, 1),
        motion_norm_num_groups=16,
        motion_num_attention_heads=4,
        motion_max_seq_length=MAX_FRAMES,
        use_motion_mid_block=False,
    )


def join(unet: UNet2DConditionModel, adapter: MotionAdapter) -> UNetMotionModel:
    return UNetMotionModel.from_unet2d(unet, adapter)


def load_motion(folder: Path, device: torch.device) -> tuple[UNetMotionModel, CLIPTextModel]:
    """The averaged motion model and text encoder of a training folder."""
    unet = join(build_unet(), build_motion_adapter())
    encoder = build_text_encoder(build_tokenizer())
    load_into({"unet": unet, "text_encoder": encoder}, folder / "motion" / "average.safetensors")
    return unet.to(device), encoder.to(device)


class Positions:
    """Tells the motion modules which frames of a clip a batch holds, by the rows of their position tables."""

    def __init__(self, unet: UNetMotionModel) -> None:
        self.tables = [(module, module.pe.clone()) for module in unet.modules() if hasattr(module, "pe")]

    def use(self, frames: list[int]) -> None:
        for module, table in self.tables:
            module.pe = table[:, frames]

    def reset(self) -> None:
        for module, table in self.tables:
            module.pe = table


@dataclass(frozen=True)
class Window:
    """Which frames of the drawn clips a step sees: `frames` of the forty, at `positions` of a shorter clip."""

    frames: list[int]
    positions: list[int]


def pick_window(rng: random.Random, share: float) -> Window:
    """A clip of some length is the middle of the drawn forty frames; early in training only a few frames of it."""
    length = rng.choice(LENGTHS)
    skipped = (MAX_FRAMES - length) // 2
    seen = list(range(length)) if share > SPARSE_SHARE else sorted(rng.sample(range(length), 8))
    return Window([skipped + i for i in seen], seen)


def train_motion(folder: Path, budget: Budget) -> None:
    device = pick_device()
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    picture, encoder = load_picture(folder, device)
    unet = join(picture, build_motion_adapter()).to(device, memory_format=torch.channels_last)
    data = clip_latents(load_vae(folder, device), folder / "data", CLIPS[device.type], device)
    positions = Positions(unet)
    loop = Loop({"unet": unet, "text_encoder": encoder}, folder / "motion", lr=1e-3)
    noising = Noising(device)
    rng = random.Random(f"motion {loop.step}")

    def loss() -> Tensor:
        window = pick_window(rng, budget.share_used(loop.step, loop.seconds))
        clips = max(1, FRAMES_A_STEP[device.type] // len(window.frames))
        chosen = [rng.randrange(len(data.scenes)) for _ in range(clips)]
        clean = _clips(data, chosen, window, device)
        timesteps = torch.randint(0, 1000, (clips,), device=device)
        noise = torch.randn_like(clean)
        positions.use(window.positions)
        with mixed_precision(device):
            text = encode_captions([caption(data.scenes[i], rng) for i in chosen], tokenizer, encoder, rng, device)
            text = text.repeat_interleave(len(window.frames), 0)
            output = unet(noising.add(clean, noise, timesteps), timesteps, text).sample
        return noising.loss(output, clean, noise, timesteps)

    loop.run(loss, budget)


def _clips(data: Latents, chosen: list[int], window: Window, device: torch.device) -> Tensor:
    """Latents [B, 8, T, 12, 12] of the chosen clips' frames."""
    return data.values[chosen][:, window.frames].to(device).float().transpose(1, 2)
