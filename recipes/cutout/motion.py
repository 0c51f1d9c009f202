"""Stage 3: the motion modules, trained on clips together with the picture model.

A whole clip costs as much as forty pictures. So most steps train on four or eight frames of many clips, each frame with its
position in its clip. What the motion modules learn from frames 3, 17 and 30 holds for the frames between them. Near the end of
the budget, some steps train on whole clips, because the model must also learn attention over forty frames.

The first steps train on single frames from near the ends of clips, at first more late frames than early ones. The reason:
"left" and "right" differ only by a sign, and this sign flips in the middle of the clip. So neither the word nor the time
predicts anything alone; only both together do. With as many early frames as late ones, the model still took left and right for
the same word after thousands of steps. Late frames alone teach what the word does. Early frames then teach what time does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from recipes.cutout.captions import caption_for_training
from recipes.cutout.data import LENGTHS, MOMENTS, clip_latents, moment_latents, moments_of
from recipes.cutout.device import mixed_precision, pick_device
from recipes.cutout.diffusion import Noising, encode_captions
from recipes.cutout.loop import Budget, Loop, load_into
from recipes.cutout.picture import build_unet, load_picture
from recipes.cutout.text import build_text_encoder, build_tokenizer
from recipes.cutout.vae import load_vae
from recipes.cutout.world import MAX_FRAMES, Scene

TOKENS = 36  # 6x6, the size at which the temporal attention works
FRAMES_A_STEP = {"cpu": 96, "cuda": 1280}
CLIPS = {"cpu": 900, "cuda": 12_000}
MOMENT_SCENES = {"cpu": 5000, "cuda": 60_000}
# What steps train on: "ends" are single frames near the ends of clips. UNTIL and FROM are shares of the budget.
ENDS_ALONE_UNTIL = 0.3
ENDS = 0.25  # the share of steps on ends after that
ENDS_EVEN_FROM = 0.4  # until then, late ends are more frequent than early ones
WHOLE_CLIPS_FROM = 0.7
WHOLE_CLIPS = 0.4  # the share of whole clips among the other steps after that


def build_motion_adapter() -> MotionAdapter:
    """1.8 M parameters. Temporal attention at 6x6 only; at 12x12 it would cost more than everything else."""
    adapter = MotionAdapter(
        block_out_channels=(96, 160),
        motion_layers_per_block=1,
        motion_transformer_layers_per_block=(0, 1),
        motion_norm_num_groups=16,
        motion_num_attention_heads=4,
        motion_max_seq_length=MAX_FRAMES,
        use_motion_mid_block=False,
    )
    look_at_own_frame(adapter)
    return adapter


@torch.no_grad()
def look_at_own_frame(adapter: nn.Module) -> None:
    """Initializes one head of each second temporal attention so that every frame attends to itself.

    A frame knows its position only through such a head. Positions are added before the attention, and a head that attends to
    all frames alike passes on their mean. Without this initialization, attention stayed uniform for thousands of steps. So at
    high noise, the model could not learn that a motion changes frame 3 otherwise than frame 30.
    """
    for name, module in adapter.named_modules():
        if "motion_modules" in name and name.endswith("attn2"):
            width = module.to_q.out_features // module.heads
            for projection in (module.to_q, module.to_k):
                projection.weight[:width] = torch.eye(width, projection.in_features)


def join(unet: UNet2DConditionModel, adapter: MotionAdapter) -> UNetMotionModel:
    return UNetMotionModel.from_unet2d(unet, adapter)


def load_motion(folder: Path, device: torch.device) -> tuple[UNetMotionModel, CLIPTextModel]:
    """The averaged motion model and text encoder of a training folder."""
    unet = join(build_unet(), build_motion_adapter())
    encoder = build_text_encoder(build_tokenizer())
    load_into({"unet": unet, "text_encoder": encoder}, folder / "motion" / "average.safetensors")
    return unet.to(device), encoder.to(device)


class Positions:
    """Tells the motion modules which frames of its clips a batch holds, by replacing their position tables."""

    def __init__(self, unet: UNetMotionModel) -> None:
        self.tables = [(module, module.pe) for module in unet.modules() if hasattr(module, "pe")]

    @contextmanager
    def at(self, positions: Tensor) -> Iterator[None]:
        """While this is open, the frames of clip b have the positions in row b of `positions`, int64 [B, T]."""
        for module, table in self.tables:
            module.pe = table[0][positions].repeat_interleave(TOKENS, 0)
        try:
            yield
        finally:
            for module, table in self.tables:
                module.pe = table


@dataclass(frozen=True)
class Batch:
    """Frames of some clips: latents float32 [B, 16, T, 12, 12], their positions int64 [B, T], and the clips' scenes."""

    latents: Tensor
    positions: Tensor
    scenes: list[Scene]


class Clips:
    """All training data, and the choice of each step's batch."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        vae = load_vae(folder, device)
        self.whole = clip_latents(vae, folder / "data", CLIPS[device.type], device)
        self.moments = moment_latents(vae, folder / "data", MOMENT_SCENES[device.type], device)
        self.times = torch.tensor([moments_of(i)[1] for i in range(len(self.moments.scenes))])
        self.frames_a_step = FRAMES_A_STEP[device.type]

    def pick(self, rng: random.Random, share: float) -> Batch:
        """The batch of one step, when `share` of the budget is used up."""
        if share <= ENDS_ALONE_UNTIL or rng.random() < ENDS:
            return self._pick_ends(rng, share_early=min(0.5, share / ENDS_EVEN_FROM / 2))
        if share > WHOLE_CLIPS_FROM and rng.random() < WHOLE_CLIPS:
            return self._pick_whole(rng)
        return self._pick_moments(rng, rng.choice((4, MOMENTS)))

    def _pick_whole(self, rng: random.Random) -> Batch:
        """Clips of one random length: the middle of the forty drawn frames."""
        length = rng.choice(LENGTHS)
        first = (MAX_FRAMES - length) // 2
        chosen = [rng.randrange(len(self.whole.scenes)) for _ in range(max(1, self.frames_a_step // length))]
        latents = self.whole.values[chosen, first : first + length].float().transpose(1, 2)
        return Batch(latents, torch.arange(length).expand(len(chosen), -1), [self.whole.scenes[i] for i in chosen])

    def _pick_ends(self, rng: random.Random, *, share_early: float) -> Batch:
        """Single frames from near the start or end of clips of over 16 frames, where motions have gone furthest."""
        chosen: list[int] = []
        seen: list[list[int]] = []
        while len(chosen) < self.frames_a_step:
            number = rng.randrange(len(self.moments.scenes))
            length, moments = moments_of(number)
            early = rng.random() < share_early
            at_end = [i for i, moment in enumerate(moments) if (moment < 0.4 * length if early else moment >= 0.6 * length)]
            if length > min(LENGTHS) and at_end:
                chosen.append(number)
                seen.append([rng.choice(at_end)])
        return self._moments(chosen, torch.tensor(seen))

    def _pick_moments(self, rng: random.Random, count: int) -> Batch:
        chosen = [rng.randrange(len(self.moments.scenes)) for _ in range(self.frames_a_step // count)]
        return self._moments(chosen, torch.tensor([sorted(rng.sample(range(MOMENTS), count)) for _ in chosen]))

    def _moments(self, chosen: list[int], seen: Tensor) -> Batch:
        clips = torch.tensor(chosen)[:, None]
        latents = self.moments.values[clips, seen].float().transpose(1, 2)
        return Batch(latents, self.times[clips, seen], [self.moments.scenes[i] for i in chosen])


def train_motion(folder: Path, budget: Budget) -> None:
    device = pick_device()
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    picture, encoder = load_picture(folder, device)
    unet = join(picture, build_motion_adapter()).to(device, memory_format=torch.channels_last)
    clips = Clips(folder, device)
    positions = Positions(unet)
    loop = Loop({"unet": unet, "text_encoder": encoder}, folder / "motion", lr=1e-3)
    noising = Noising(device)
    rng = random.Random(f"motion {loop.step}")

    def loss() -> Tensor:
        batch = clips.pick(rng, budget.share_used(loop.step, loop.seconds))
        clean = batch.latents.to(device)
        timesteps = noising.draw_timesteps(len(clean), device)
        noise = torch.randn_like(clean)
        with mixed_precision(device), positions.at(batch.positions.to(device)):
            captions = [caption_for_training(scene, rng) for scene in batch.scenes]
            text = encode_captions(captions, tokenizer, encoder, rng, device).repeat_interleave(clean.shape[2], 0)
            output = unet(noising.add(clean, noise, timesteps), timesteps, text).sample
        return noising.loss(output, clean, noise, timesteps)

    loop.run(loss, budget)
