"""What stages 2 and 3 learn from: scenes drawn once and encoded once, kept as latents with their scenes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.cutout.device import mixed_precision
from recipes.cutout.world import MAX_FRAMES, Scene, draw_clip, draw_frame, pick_scene

PAIRS_PERCENT = 8
LENGTHS = (16, 24, 32, 40)
MOMENTS = 8
ENCODE_AT_ONCE = 160


@dataclass(frozen=True)
class Latents:
    """Scaled latents of drawn scenes: float16 [N, T, 16, 12, 12] (T is 1 for pictures), of about unit variance."""

    values: Tensor
    scenes: list[Scene]


def scene_of(kind: str, number: int) -> Scene:
    """The scenes of a data set are numbered, so that a stopped run finds the same ones again."""
    return pick_scene(random.Random(f"{kind} {number}"), pairs=PAIRS_PERCENT)


@torch.no_grad()
def encode(vae: AutoencoderDC, frames: np.ndarray, device: torch.device) -> Tensor:
    """Frames uint8 [N, 192, 192, 3] to unscaled latents float16 [N, 16, 12, 12]."""
    pieces = []
    for start in range(0, len(frames), ENCODE_AT_ONCE):
        piece = torch.from_numpy(frames[start : start + ENCODE_AT_ONCE]).to(device).permute(0, 3, 1, 2)
        with mixed_precision(device):
            encoded = vae.encoder((piece.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))
        pieces.append(encoded.half().cpu())
    return torch.cat(pieces)


def picture_latents(vae: AutoencoderDC, folder: Path, count: int, device: torch.device) -> Latents:
    """`count` scenes, one frame of each, at a random time of its clip."""

    def frames(first: int, last: int) -> np.ndarray:
        times = random.Random(f"times {first}")
        return np.stack(
            [draw_frame(scene_of("picture", i), times.randrange(MAX_FRAMES), MAX_FRAMES) for i in range(first, last)]
        )[:, None]

    return _cached(vae, folder / "pictures.safetensors", "picture", count, 160, frames, device)


def moments_of(number: int) -> tuple[int, list[int]]:
    """The length of a scene's clip and eight positions in it, in their order: the frames that `moment_latents` holds."""
    rng = random.Random(f"moments {number}")
    length = rng.choice(LENGTHS)
    return length, sorted(rng.sample(range(length), MOMENTS))


def moment_latents(vae: AutoencoderDC, folder: Path, count: int, device: torch.device) -> Latents:
    """`count` scenes, eight frames of each: a clip at a fifth of its price."""

    def frames(first: int, last: int) -> np.ndarray:
        return np.stack([_draw_moments(scene_of("moment", i), i) for i in range(first, last)])

    return _cached(vae, folder / "moments.safetensors", "moment", count, 20, frames, device)


def _draw_moments(scene: Scene, number: int) -> np.ndarray:
    length, moments = moments_of(number)
    return np.stack([draw_frame(scene, position, length) for position in moments])


def clip_latents(vae: AutoencoderDC, folder: Path, count: int, device: torch.device) -> Latents:
    """`count` scenes, 40 frames of each."""

    def frames(first: int, last: int) -> np.ndarray:
        return np.stack([draw_clip(scene_of("clip", i), MAX_FRAMES) for i in range(first, last)])

    return _cached(vae, folder / "clips.safetensors", "clip", count, 8, frames, device)


def _cached(
    vae: AutoencoderDC,
    path: Path,
    kind: str,
    count: int,
    at_once: int,
    frames: Callable[[int, int], np.ndarray],
    device: torch.device,
) -> Latents:
    """Draws and encodes `count` scenes, `at_once` at a time, unless `path` holds them already."""
    if not path.exists():
        pieces = []
        for first in range(0, count, at_once):
            drawn = frames(first, min(first + at_once, count))
            flat = encode(vae, drawn.reshape(-1, *drawn.shape[2:]), device)
            pieces.append(flat.unflatten(0, drawn.shape[:2]))
            if first % (at_once * 50) == 0:
                print(f"{kind}s drawn and encoded: {first} of {count}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"latents": torch.cat(pieces)}, path)
    values = load_file(path)["latents"] * vae.config.scaling_factor
    return Latents(values, [scene_of(kind, i) for i in range(len(values))])
