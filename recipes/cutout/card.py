"""The model card: what the built-in model knows, how it was trained, and how well it does."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.cutout.captions import vocabulary
from recipes.cutout.evaluate import STEPS
from recipes.cutout.package import BUILT_IN
from recipes.cutout.palette import COLOURS
from recipes.cutout.text import MAX_TOKENS, WIDTH
from recipes.cutout.things import THINGS
from recipes.cutout.vae import DOWN, LATENT_CHANNELS
from recipes.cutout.world import HELD_OUT, MAX_FRAMES, MOTIONS, PLACES, SIZE, SUPPORTS

STAGES = ("vae", "picture", "motion")

TEXT = """# Cutout, the built-in model

A small text-to-video model of a world of paper cut-outs, for trying and testing the service on any machine. It knows nothing
else. `recipes/cutout` trained it on pictures and captions that a program makes, and on no other data. Its license is the
project's, Apache-2.0.

## What it knows

Things: {things}.
Colors: {colours}.
Motions: {motions}.
Places: {places}. Or sitting on a {supports}.

It knows {words} words, synonyms included ("kitten", "crimson", "moving to the left"). An answer's `tip` names the words of a
prompt that it does not know. What a prompt leaves open is random. Clips of two things ("a red cat and a blue ball") often go
wrong.

## How it is built

A small Stable Diffusion with AnimateDiff, in diffusers' classes: CLIPTextModel (3 layers, width {width}, {tokens} tokens),
UNet2DConditionModel (96 and 160 channels; attention at 6x6), MotionAdapter (temporal attention at 6x6, {frames} frames
at most), AutoencoderDC ({latent_channels} latent channels, {down}x down). It predicts v on DDPM's linear noise schedule. Clips
are made at {size}x{size} and scaled to the requested size. Weights: {megabytes:.1f} MB of fp16 safetensors.

## How it was trained

{training}

{held_out} of {pairs} color-thing pairs were never drawn in training ("held-out pairs" below).

## How well it does

The service's engine made clips of 16 frames with the files beside this card: prompts such as "a red cat moving left on grass",
UniPC, {steps} steps, guidance 7.5. A probe (recipes/cutout/probes.py) says what it sees in them. Its answers on drawn clips
show how far it can be trusted. recipes/cutout/looks.py measures the rest: sharpness is the share of an edge's height that lies
between two neighboring pixels; dirt is the spread of levels within patches of one paper; flicker is the change from frame to
frame where nothing moves.

{table}

![Four frames of each of the first clips](../../../../../docs/cutout.png)
"""


def write_card(folder: Path, table: str) -> None:
    """Writes README.md beside the packaged model's files. `folder` is the training folder."""
    text = TEXT.format(
        things=", ".join(THINGS),
        colours=", ".join(COLOURS),
        motions=", ".join(MOTIONS),
        places=", ".join(PLACES),
        supports=", a ".join(SUPPORTS),
        words=len(vocabulary()),
        width=WIDTH,
        tokens=MAX_TOKENS,
        frames=MAX_FRAMES,
        size=SIZE,
        latent_channels=LATENT_CHANNELS,
        down=DOWN,
        megabytes=sum(path.stat().st_size for path in BUILT_IN.rglob("*.safetensors")) / 1e6,
        training="\n".join(f"- {line}" for line in training_lines(folder)),
        held_out=len(HELD_OUT),
        pairs=len(COLOURS) * len(THINGS),
        steps=STEPS,
        table=table,
    )
    (BUILT_IN / "README.md").write_text(text)


def training_lines(folder: Path) -> list[str]:
    """The steps and minutes of each stage, from its progress.json."""
    lines = []
    for stage in STAGES:
        progress = json.loads((folder / stage / "progress.json").read_text())
        lines.append(f"{stage}: {progress['step']:,} steps in {progress['seconds'] / 60:.0f} minutes")
    return lines
