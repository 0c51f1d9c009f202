"""The model card: how the built-in model was made, what it knows, and the figures that `evaluate` measured."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.cutout.captions import vocabulary
from recipes.cutout.package import BUILT_IN
from recipes.cutout.palette import COLOURS
from recipes.cutout.things import THINGS
from recipes.cutout.vae import DOWN, LATENT_CHANNELS
from recipes.cutout.world import HELD_OUT, MAX_FRAMES, MOTIONS, PLACES, SIZE, SUPPORTS

STAGES = ("vae", "picture", "motion")

TEXT = """# Cutout, the built-in model

A small text-to-video model of a world of paper cut-outs. It was trained by `recipes/cutout` on drawings alone: no picture, clip
or word of anyone else's is in it. Its licence is the project's, Apache-2.0. It serves to try the service on any machine, and to
test it for real; it is no model of the world at large.

## What it knows

Things: {things}.
Colors: {colours}.
Motions: {motions}.
Places: {places}. Or sitting on a {supports}.

It reads {words} words, synonyms among them ("kitten", "crimson", "moving to the left"); an answer's `tip` names words of a
prompt that are not among them. What a prompt leaves open is drawn at random. Two things in one clip ("a red cat and a blue
ball") were in its training now and then, and often go wrong.

## How it is built

The anatomy of Stable Diffusion with AnimateDiff, made small, in diffusers' classes: CLIPTextModel (3 layers, width 128, 32
tokens), UNet2DConditionModel (96 and 160 channels; attention at 6x6), MotionAdapter (temporal attention at 6x6, {frames} frames
at most), AutoencoderDC ({latent_channels} latent channels, {down}x down). It predicts v on DDPM's linear noise schedule. Clips
are made at {size}x{size} and scaled to the size that was asked. Weights: {megabytes:.1f} MB of fp16 safetensors.

## How it was trained

{training}

{held_out} colour-thing pairs of {pairs} were never drawn in training ("held-out pairs" below).

## How well it does

Prompts such as "a red cat moving left on grass", UniPC, 20 steps, guidance 7.5, one clip of 16 frames each, made by the
service's engine from the files beside this card. A probe (recipes/cutout/probes.py) says what it sees; it is checked on drawn
clips first. Looks (recipes/cutout/looks.py): sharpness is the share of an edge that lies between two neighbouring pixels, dirt
the spread of levels within patches of one paper, flicker the change from frame to frame where nothing moves.

{table}

![Four frames each of the first clips](../../../../../docs/cutout.png)
"""


def write_card(folder: Path, table: str, target: Path = BUILT_IN) -> None:
    """Writes README.md beside the model's files, with figures from the training folder."""
    text = TEXT.format(
        things=", ".join(THINGS),
        colours=", ".join(COLOURS),
        motions=", ".join(MOTIONS),
        places=", ".join(PLACES),
        supports=", a ".join(SUPPORTS),
        words=len(vocabulary()),
        frames=MAX_FRAMES,
        size=SIZE,
        latent_channels=LATENT_CHANNELS,
        down=DOWN,
        megabytes=sum(path.stat().st_size for path in target.rglob("*.safetensors")) / 1e6,
        training="\n".join(f"- {line}" for line in training_lines(folder)),
        held_out=len(HELD_OUT),
        pairs=len(COLOURS) * len(THINGS),
        table=table,
    )
    (target / "README.md").write_text(text)


def training_lines(folder: Path) -> list[str]:
    """Steps and minutes of each stage, as the training loop kept them."""
    lines = []
    for stage in STAGES:
        progress = json.loads((folder / stage / "progress.json").read_text())
        lines.append(f"{stage}: {progress['step']:,} steps in {progress['seconds'] / 60:.0f} minutes")
    return lines
