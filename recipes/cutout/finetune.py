"""Teaches a packaged model a style: as a LoRA, or as a checkpoint of its own.

The pictures are drawn in the style, and have the captions that they would have without it. So the model learns how to draw
what it is asked for, and needs no word for the style. All else is as the packaged model says: its size, its words, its noise
table, its VAE and its text encoder. The last two never change, so latents and texts are computed once.

Only the picture UNet learns. The motion modules stay as they are, but they are there: they were trained together with the
UNet, which draws worse without them. So the examples are a few frames of each clip, with their positions in it. Single frames
taught the style too, but with them the UNet forgot much of the motions.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.cutout.captions import caption
from recipes.cutout.data import LENGTHS, Source, latents_of, scene_of
from recipes.cutout.device import mixed_precision, pick_device
from recipes.cutout.diffusion import UNCONDITIONAL_SHARE, Noising
from recipes.cutout.loop import Budget, Loop
from recipes.cutout.motion import Positions, join
from recipes.cutout.package import save_part, write_json
from recipes.cutout.styles import STYLES
from recipes.cutout.world import Scene, draw_frame, scaled

KEPT_LORA = Path(__file__).with_name("night-lora.safetensors")
"""What `style night --as lora` wrote on the built-in model. A new built-in model needs a new one."""
CLIPS = 700
MOMENTS = 4  # frames of a clip
BATCH = 8  # clips
GUIDANCE = 4.0
"""For clips in a style. Stronger guidance makes more of what tells the places apart, and the style has little of that."""
# The ground's color is decided at high noise. There the model must unlearn what each place looked like.
NOISY_SHARE, NOISY_FROM = 0.4, 0.6
TEXTS_AT_ONCE = 100
RANK = 8
LEARNING_RATES = {"lora": 3e-3, "checkpoint": 6e-4}
# The layers that get a LoRA: attention, and the convolutions around it, which decide the colors of the ground.
LAYERS = r"(?!.*motion_modules).*\.(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|conv1|conv2)"


@dataclass(frozen=True)
class Start:
    """The model that learns. `side` is that of its pictures in pixels; `words` are all that it knows."""

    folder: Path
    unet: UNetMotionModel
    vae: AutoencoderDC
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler
    side: int
    words: frozenset[str]


@dataclass(frozen=True)
class Examples:
    """Frames of clips and their captions, encoded: latents float32 [N, C, T, h, w], positions in their clips int64 [N, T], and
    texts float32 [N, tokens, width]. `no_text` is the empty caption's, [tokens, width].
    """

    latents: Tensor
    positions: Tensor
    texts: Tensor
    no_text: Tensor


@dataclass(frozen=True)
class Batch:
    """One step's examples: latents and noise [B, C, T, h, w], timesteps [B], positions [B, T], texts [B, tokens, width]."""

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    positions: Tensor
    texts: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def teach(folder: Path, *, style: str, form: str, model: Path, budget: Budget, clips: int = CLIPS) -> Path:
    """Trains on `model`, and returns the file or folder that `promptreel models add` takes. `form`: "lora" or "checkpoint".

    May be stopped at any time; the next call continues.
    """
    device = pick_device()
    start = load_start(model, device)
    examples = encode_examples(start, style, folder / "data", device, clips)
    torch.manual_seed(0)
    weights = choose_weights(start.unet, form)
    rate = LEARNING_RATES[form]
    adam = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    loop = Loop({"weights": weights}, folder / "state" / f"{style}-{form}", lr=rate, optimizers=[adam])
    noising, positions = Noising(device, start.scheduler), Positions(start.unet)

    def loss() -> Tensor:
        # A step's random numbers follow from its number alone, so a stopped training continues as if never stopped.
        batch = draw_batch(examples, torch.Generator().manual_seed(loop.step), len(noising.alphas)).to(device)
        with mixed_precision(device), positions.at(batch.positions):
            noisy = noising.add(batch.clean, batch.noise, batch.timesteps)
            output = start.unet(noisy, batch.timesteps, batch.texts.repeat_interleave(MOMENTS, 0)).sample
        return noising.loss(output, batch.clean, batch.noise, batch.timesteps)

    loop.run(loss, budget)
    with torch.no_grad():
        for weight, average in zip(weights, loop.averages["weights"].parameters(), strict=True):
            weight.copy_(average)
    if form == "lora":
        return write_lora(start.unet, folder / f"{style}-lora.safetensors")
    return write_checkpoint(start, folder / style, style=style)


def draw_batch(examples: Examples, rng: torch.Generator, num_timesteps: int) -> Batch:
    """Random examples, some without their text, for classifier-free guidance."""
    chosen = torch.randint(len(examples.latents), (BATCH,), generator=rng)
    clean, texts = examples.latents[chosen], examples.texts[chosen]
    texts[torch.rand(BATCH, generator=rng) < UNCONDITIONAL_SHARE] = examples.no_text
    timesteps = torch.randint(num_timesteps, (BATCH,), generator=rng)
    noisy = torch.randint(round(NOISY_FROM * num_timesteps), num_timesteps, (BATCH,), generator=rng)
    timesteps = torch.where(torch.rand(BATCH, generator=rng) < NOISY_SHARE, noisy, timesteps)
    return Batch(clean, torch.randn(clean.shape, generator=rng), timesteps, examples.positions[chosen], texts)


def load_start(folder: Path, device: torch.device) -> Start:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    adapter = MotionAdapter.from_pretrained(folder / "motion_adapter").float()
    vae = AutoencoderDC.from_pretrained(folder / "vae").float()
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    card = json.loads((folder / "promptreel.json").read_text())
    return Start(
        folder=folder,
        unet=join(unet, adapter).to(device, memory_format=torch.channels_last).requires_grad_(False),
        vae=vae.eval().to(device, memory_format=torch.channels_last),
        text_encoder=text_encoder.eval().to(device),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        side=card["native_width"],
        words=frozenset(card["words"]),
    )


def encode_examples(start: Start, style: str, folder: Path, device: torch.device, count: int) -> Examples:
    """Draws, or reads what an earlier run drew, and encodes."""
    kind = f"{style}-{start.side}"

    def draw(first: int, last: int) -> np.ndarray:
        return np.stack([draw_moments(scene_of(kind, number), number) for number in range(first, last)])

    def draw_moments(scene: Scene, number: int) -> np.ndarray:
        length, moments = moments_of(number)
        return scaled(np.stack([draw_frame(scene, moment, length, STYLES[style]) for moment in moments]), start.side)

    data = latents_of(Source(kind, 14, draw), start.vae, folder, count, device)
    rng = random.Random(f"captions {style}")
    texts = encode_texts(start, ["", *(known_caption(scene, start.words, rng) for scene in data.scenes)], device)
    positions = torch.tensor([moments_of(number)[1] for number in range(count)])
    return Examples(data.values.float().transpose(1, 2), positions, texts[1:], texts[0])


def moments_of(number: int) -> tuple[int, list[int]]:
    """The length of a clip, and the positions of the frames that are learned."""
    rng = random.Random(f"moments {number}")
    length = rng.choice(LENGTHS)
    return length, sorted(rng.sample(range(length), MOMENTS))


def known_caption(scene: Scene, words: frozenset[str], rng: random.Random) -> str:
    """A caption of words that the model knows: a later world may have more."""
    while True:
        text = caption(scene, rng)
        if words.issuperset(word.strip(",").lower() for word in text.split()):
            return text


@torch.no_grad()
def encode_texts(start: Start, texts: list[str], device: torch.device) -> Tensor:
    tokens = start.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return torch.cat([start.text_encoder(part.to(device))[0].cpu() for part in tokens.split(TEXTS_AT_ONCE)])


def choose_weights(unet: UNetMotionModel, form: str) -> nn.ParameterList:
    """The weights that learn: those of a new LoRA, or all but the motion modules'."""
    if form == "lora":
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS))
    else:
        for name, weight in unet.named_parameters():
            weight.requires_grad_("motion_modules" not in name)
    return nn.ParameterList([weight for weight in unet.parameters() if weight.requires_grad])


def write_lora(unet: UNetMotionModel, target: Path) -> Path:
    """Writes the LoRA in kohya's names, which most programs read, in fp16."""
    tensors = {}
    for name, value in get_peft_model_state_dict(unet).items():
        layer, half = name.removesuffix(".weight").rsplit(".", 1)
        prefix = f"lora_unet_{layer.replace('.', '_')}"
        tensors[f"{prefix}.lora_{'down' if half == 'lora_A' else 'up'}.weight"] = value.half().cpu().contiguous()
        tensors[f"{prefix}.alpha"] = torch.tensor(float(RANK))
    save_file(tensors, target, {"modelspec.title": target.stem})  # of several entries, the order would be random
    target.chmod(0o644)  # safetensors writes files that only their owner can read
    return target


def write_checkpoint(start: Start, target: Path, *, style: str) -> Path:
    """Writes a checkpoint in diffusers' layout: the UNet that has learned, and all else as it was."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(start.folder, target, ignore=shutil.ignore_patterns("*.md"))
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(start.folder / "unet"))
    weights = start.unet.state_dict()
    unet.load_state_dict({name: weights[name].cpu() for name in unet.state_dict()})
    save_part(unet, target / "unet")
    card = json.loads((target / "promptreel.json").read_text())
    changed = {"name": f"{card['name']}, {style}", "description": f"In the style {style}.", "default_guidance": GUIDANCE}
    write_json(target / "promptreel.json", card | changed)
    return target
