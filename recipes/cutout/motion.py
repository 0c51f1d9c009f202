"""Stage 3: the motion modules, trained on clips together with the picture model.

A clip costs forty pictures, so most steps see four or eight frames of many clips, each with the position it has in its clip:
what the motion modules learn of frames 3, 17 and 30 holds for the frames between them. Towards the end of the budget steps see
whole clips too, because attention over forty frames must be practised.

The first steps see single frames, from near the ends of clips, and at first more late ones than early ones. What "left" does
differs from what "right" does by a sign, and that sign turns over in the middle of the clip: neither the word nor the time
says anything by itself, only both together do. From even data nothing pointed the training there, and after thousands of steps
left and right were one word to it. Late frames alone teach the word's sign; early ones among them, what time does to it.
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

TOKENS = 36  # 6x6, where the temporal attention is
FRAMES_A_STEP = {"cpu": 96, "cuda": 1280}
CLIPS = {"cpu": 900, "cuda": 12_000}
MOMENT_SCENES = {"cpu": 5000, "cuda": 60_000}
ENDS_ALONE_UNTIL = 0.3  # of the budget, only single frames near the ends of clips are seen; later, they are
ENDS = 0.25  # of the steps
ENDS_EVEN_FROM = 0.4  # until then there are more late ones than early ones
WHOLE_CLIPS_FROM = 0.7  # from then on whole clips are
WHOLE_CLIPS = 0.4  # of the other steps


def build_motion_adapter() -> MotionAdapter:
    """Temporal attention at 6x6 only (no layers at 12x12, where it would cost more than all the rest): 1.8 M parameters."""
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
def look_at_own_frame(network: nn.Module) -> None:
    """Lets one head of each second temporal attention begin by attending to its own frame.

    Only through such a head does a frame learn its own position: positions are added before an attention, and one that looks at
    all frames alike hands their mean on. Without it the attention stayed even for thousands of steps, and what a motion does to
    frame 3 but not to frame 30 could not be learned where the noise hides the frames.
    """
    for name, module in network.named_modules():
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
    """Tells the motion modules which frames of their clips a batch holds, by the rows of their position tables."""

    def __init__(self, unet: UNetMotionModel) -> None:
        self.tables = [(module, module.pe) for module in unet.modules() if hasattr(module, "pe")]

    @contextmanager
    def at(self, positions: Tensor) -> Iterator[None]:
        """Within, the motion modules take row b of `positions` (int64 [B, T]) for the frames of clip b."""
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
    """Whole clips and moments of clips, and which of them a step sees."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        vae = load_vae(folder, device)
        self.whole = clip_latents(vae, folder / "data", CLIPS[device.type], device)
        self.moments = moment_latents(vae, folder / "data", MOMENT_SCENES[device.type], device)
        self.times = torch.tensor([moments_of(i)[1] for i in range(len(self.moments.scenes))])
        self.frames_a_step = FRAMES_A_STEP[device.type]

    def pick(self, rng: random.Random, share: float) -> Batch:
        """The batch of one step; `share` of the budget is used up."""
        if share <= ENDS_ALONE_UNTIL or rng.random() < ENDS:
            return self._pick_ends(rng, share_early=min(0.5, share / ENDS_EVEN_FROM / 2))
        if share > WHOLE_CLIPS_FROM and rng.random() < WHOLE_CLIPS:
            return self._pick_whole(rng)
        return self._pick_moments(rng, rng.choice((4, MOMENTS)))

    def _pick_whole(self, rng: random.Random) -> Batch:
        """A clip of some length is the middle of the drawn forty frames."""
        length = rng.choice(LENGTHS)
        first = (MAX_FRAMES - length) // 2
        chosen = [rng.randrange(len(self.whole.scenes)) for _ in range(max(1, self.frames_a_step // length))]
        latents = self.whole.values[chosen, first : first + length].float().transpose(1, 2)
        return Batch(latents, torch.arange(length).expand(len(chosen), -1), [self.whole.scenes[i] for i in chosen])

    def _pick_ends(self, rng: random.Random, *, share_early: float) -> Batch:
        """Single frames from near the beginning or the end of longer clips, where a motion has gone furthest."""
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
