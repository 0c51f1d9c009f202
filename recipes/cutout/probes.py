"""The probe: a small model that says what a clip shows. It is trained and checked on drawn clips.

It is trained on all color-thing pairs, held-out ones too, so that it does not share the blind spots of the model it judges.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from recipes.cutout.device import mixed_precision, pick_device
from recipes.cutout.loop import Budget, Loop, load_into, save_weights
from recipes.cutout.palette import COLOURS
from recipes.cutout.things import THINGS
from recipes.cutout.world import MOTIONS, PLACES, Scene, draw_clip, pick_scene, scaled

PACKAGED = Path(__file__).with_name("probe.safetensors")
FRAMES = 16
SIDE = 96  # pixels; clips of any size are scaled to it
CLIPS_A_STEP = 12
LABELS: Mapping[str, tuple[str, ...]] = {
    "thing": tuple(THINGS),
    "colour": tuple(COLOURS),
    "motion": MOTIONS,
    "place": PLACES,
}


class Probe(nn.Module):
    """Frames [B, 16, 3, 96, 96] in -1..1 to logits [B, classes] for thing, colour, motion and place."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 160)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.SiLU()) for a, b in pairwise(widths)
        )
        # Thing, color and place are the same wherever they are in the frame. Motion is position over time.
        self.still = nn.ModuleDict({name: nn.Linear(160, len(LABELS[name])) for name in ("thing", "colour", "place")})
        self.where = nn.Sequential(nn.Conv2d(160, 12, 1), nn.SiLU(), nn.Flatten(), nn.Linear(12 * 36, 64))
        self.motion = nn.Sequential(
            nn.Conv1d(64, 96, 3, padding=1), nn.SiLU(), nn.Conv1d(96, 96, 3, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(96 * FRAMES, len(MOTIONS)),
        )  # fmt: skip

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        batch = len(frames)
        x = frames.flatten(0, 1)
        for layer in self.layers:
            x = layer(x)
        seen = x.amax((2, 3)).unflatten(0, (batch, FRAMES)).mean(1)
        logits = {name: head(seen) for name, head in self.still.items()}
        track = self.where(x).unflatten(0, (batch, FRAMES))
        logits["motion"] = self.motion(track.transpose(1, 2))
        return logits


@dataclass(frozen=True)
class Labeled:
    """Drawn clips, float32 [B, 16, 3, 96, 96] in -1..1, and the class number of each label."""

    frames: Tensor
    labels: dict[str, Tensor]


def title(label: str) -> str:
    """A label's name in tables. The label itself is part of the weights' names, so its spelling stays."""
    return "color" if label == "colour" else label


def labels_of(scene: Scene) -> dict[str, str]:
    actor = scene.actors[0]
    return {"thing": actor.thing, "colour": actor.colour, "motion": actor.motion, "place": scene.place}


def draw_labeled(rng: random.Random, count: int) -> Labeled:
    scenes = [pick_scene(rng, held_out=rng.random() < 0.125) for _ in range(count)]
    frames = np.stack([draw_clip(scene, FRAMES) for scene in scenes])
    labels = {
        name: torch.tensor([classes.index(labels_of(scene)[name]) for scene in scenes]) for name, classes in LABELS.items()
    }
    return Labeled(to_input(frames), labels)


def to_input(frames: np.ndarray) -> Tensor:
    """Clips uint8 [B, 16, H, W, 3] to the probe's input, float32 [B, 16, 3, 96, 96] in -1..1."""
    seen = scaled(frames.reshape(-1, *frames.shape[2:]), SIDE).reshape(*frames.shape[:2], SIDE, SIDE, 3)
    return torch.from_numpy(seen).movedim(-1, 2).float() / 127.5 - 1


def train_probe(folder: Path, budget: Budget) -> None:
    device = pick_device()
    torch.manual_seed(0)
    probe = Probe().to(device)
    loop = Loop({"probe": probe}, folder / "probe", lr=2e-3, average_decay=0.9)
    rng = random.Random(f"probe {loop.step}")

    def loss() -> Tensor:
        batch = draw_labeled(rng, CLIPS_A_STEP)
        with mixed_precision(device):
            logits = probe(_spoil(batch.frames.to(device), rng))
        losses = [F.cross_entropy(logits[name].float(), target.to(device)) for name, target in batch.labels.items()]
        return torch.stack(losses).sum()

    loop.run(loss, budget)


def _spoil(frames: Tensor, rng: random.Random) -> Tensor:
    """Blurs, tints and adds noise, so that the probe judges what a clip shows, not how clean it is."""
    if rng.random() < 0.7:
        small = rng.choice((36, 48, 64))
        flat = F.interpolate(frames.flatten(0, 1), size=(small, small), mode="bilinear", antialias=True)
        frames = F.interpolate(flat, size=(SIDE, SIDE), mode="bilinear").unflatten(0, frames.shape[:2])
    noise = torch.randn_like(frames) * rng.uniform(0, 0.1)
    tint = torch.randn(frames.shape[0], 1, 3, 1, 1, device=frames.device) * 0.04
    return frames * rng.uniform(0.9, 1.1) + noise + tint


def load_probe(folder: Path) -> Probe:
    """The folder's probe or, without one, the packaged probe, so that measuring does not require training a probe."""
    trained = folder / "probe" / "weights.safetensors"
    probe = Probe()
    load_into({"probe": probe}, trained if trained.exists() else PACKAGED)
    return probe.eval()


def package_probe(folder: Path, target: Path = PACKAGED) -> None:
    """Writes the folder's probe beside this file, in fp16."""
    save_weights({"probe": load_probe(folder).half()}, target)
    target.chmod(0o644)  # safetensors writes files that only their owner can read


@torch.no_grad()
def judge(probe: Probe, frames: np.ndarray) -> list[dict[str, str]]:
    """What the probe sees in clips uint8 [B, 16, H, W, 3]: the most likely class of each label."""
    logits = probe(to_input(frames))
    best = {name: values.argmax(1).tolist() for name, values in logits.items()}
    return [{name: LABELS[name][best[name][i]] for name in LABELS} for i in range(len(frames))]
