"""The training data of stages 2 and 3: scenes, drawn and encoded once, and kept as latents."""

from __future__ import annotations

import hashlib
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

PAIRS_PERCENT = 20
LENGTHS = (16, 24, 32, 40)
MOMENTS = 8
ENCODE_AT_ONCE = 32


@dataclass(frozen=True)
class Latents:
    """Scaled latents of drawn scenes: float16 [N, T, 16, 12, 12] (T is 1 for pictures), of about unit variance."""

    values: Tensor
    scenes: list[Scene]


def scene_of(kind: str, number: int) -> Scene:
    """Scene `number` of a data set. It is the same in every run, so a stopped run can continue."""
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


@dataclass(frozen=True)
class Source:
    """A data set: its kind, and a function that draws scenes `first` to `last` (excluded) as uint8 [N, T, 192, 192, 3].

    `at_once` scenes are drawn and encoded together. A file holds fifty times as many.
    """

    kind: str
    at_once: int
    draw: Callable[[int, int], np.ndarray]


def picture_latents(vae: AutoencoderDC, folder: Path, count: int, device: torch.device) -> Latents:
    """`count` scenes, one frame of each, from a random time of its clip."""

    def draw(first: int, last: int) -> np.ndarray:
        times = random.Random(f"times {first}")
        return np.stack(
            [draw_frame(scene_of("picture", i), times.randrange(MAX_FRAMES), MAX_FRAMES) for i in range(first, last)]
        )[:, None]

    return latents_of(Source("picture", 160, draw), vae, folder, count, device)


def moments_of(number: int) -> tuple[int, list[int]]:
    """The length of a scene's clip, and the sorted positions of the eight frames that `moment_latents` keeps."""
    rng = random.Random(f"moments {number}")
    length = rng.choice(LENGTHS)
    return length, sorted(rng.sample(range(length), MOMENTS))


def moment_latents(vae: AutoencoderDC, folder: Path, count: int, device: torch.device) -> Latents:
    """`count` scenes, eight frames of each: a fifth of the cost of whole clips."""

    def draw(first: int, last: int) -> np.ndarray:
        return np.stack([_draw_moments(scene_of("moment", i), i) for i in range(first, last)])

    return latents_of(Source("moment", 20, draw), vae, folder, count, device)


def _draw_moments(scene: Scene, number: int) -> np.ndarray:
    length, moments = moments_of(number)
    return np.stack([draw_frame(scene, position, length) for position in moments])


def clip_latents(vae: AutoencoderDC, folder: Path, count: int, device: torch.device) -> Latents:
    """`count` scenes, 40 frames of each."""

    def draw(first: int, last: int) -> np.ndarray:
        return np.stack([draw_clip(scene_of("clip", i), MAX_FRAMES) for i in range(first, last)])

    return latents_of(Source("clip", 4, draw), vae, folder, count, device)


def latents_of(source: Source, vae: AutoencoderDC, folder: Path, count: int, device: torch.device) -> Latents:
    """Draws and encodes `count` scenes, or reads what an earlier run with the same VAE left in `folder`.

    Never reads another VAE's latents, because they encode other pictures.
    """
    place = folder / f"{source.kind}s-{fingerprint(vae)}"
    pieces = []
    for first in range(0, count, 50 * source.at_once):
        last = min(first + 50 * source.at_once, count)
        path = place / f"{first}-{last}.safetensors"
        if not path.exists():
            print(f"{source.kind}s drawn and encoded: {first} of {count}", flush=True)
            place.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".part")
            save_file({"latents": _draw_and_encode(source, vae, range(first, last), device)}, beside)
            beside.replace(path)
        pieces.append(load_file(path)["latents"])
    values = torch.cat(pieces) * vae.config.scaling_factor
    return Latents(values, [scene_of(source.kind, i) for i in range(count)])


def _draw_and_encode(source: Source, vae: AutoencoderDC, numbers: range, device: torch.device) -> Tensor:
    pieces = []
    for first in range(numbers.start, numbers.stop, source.at_once):
        drawn = source.draw(first, min(first + source.at_once, numbers.stop))
        pieces.append(encode(vae, drawn.reshape(-1, *drawn.shape[2:]), device).unflatten(0, drawn.shape[:2]))
    return torch.cat(pieces)


def fingerprint(vae: AutoencoderDC) -> str:
    """Eight hexadecimal digits that identify the VAE's weights."""
    digest = hashlib.sha256()
    for weight in vae.state_dict().values():
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
