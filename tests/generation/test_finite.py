"""A clip that is not finite fails, and says where it stopped being so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from promptreel.errors import GenerationFailed
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.media import Clip
from tests.generation.test_animatediff import PARAMS, go_on

INIT = Clip(np.full((6, 24, 32, 3), 90, np.uint8), 8)


def first_weights(checkpoint: LoadedCheckpoint, place: str) -> nn.Parameter:
    vae = checkpoint.vae
    parts = {"unet": checkpoint.unet, "text": checkpoint.prompts.text_encoder, "decoder": vae.decoder, "encoder": vae.encoder}
    parameters: Iterator[nn.Parameter] = parts[place].parameters()
    return next(each for each in parameters if each.dim() > 1)


@pytest.mark.parametrize("damage", [float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("place", "stage"),
    [("unet", "denoising"), ("text", "encoding the prompt"), ("decoder", "decoding"), ("encoder", "encoding the init")],
)
def test_weight_that_overflowed_fails_the_job_where_it_is_met(engine: Engine, place: str, stage: str, damage: float) -> None:
    weights = first_weights(engine.load("tiny"), place)
    previews: list[Clip] = []
    with torch.no_grad():
        weights.fill_(damage)

    with pytest.raises(GenerationFailed, match=rf"'tiny' made numbers that are not finite while {stage} on cpu \(float32\)"):
        engine.generate(replace(PARAMS, strength=0.5), go_on, init=INIT, on_preview=previews.append)
    assert not previews


def test_sound_checkpoint_makes_its_clip(engine: Engine) -> None:
    assert engine.generate(replace(PARAMS, strength=0.5), go_on, init=INIT).clip.num_frames == 6
