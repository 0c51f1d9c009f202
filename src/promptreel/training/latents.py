"""The examples of a training as the UNet sees them: latents and embedded texts. Computed once and kept in the job's folder."""

from __future__ import annotations

import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from promptreel.encoding.decoding import decode_init
from promptreel.encoding.inits import read_init
from promptreel.errors import InitUnusable, TrainingFailed
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.jobs.training_params import ExampleKind
from promptreel.media import Init
from promptreel.training.orders import Order, describe
from promptreel.training.tensor_files import load_tensors, save_tensors

CACHE = "examples.safetensors"
LONGEST = 4
"""A clip of more frames than the model takes gives so many times as many; each step trains on a part of it."""
WIDEST = 3.0
"""Of the sides of a bucket. What is wider is cut."""
HELD_OUT_FROM = 10
"""With so many examples, a tenth of them is not learned from, but shows whether the model learns what they share."""


@dataclass(frozen=True)
class Examples:
    """`latents` [C, T, h, w] of each example, and `texts` [N, tokens, width], their captions. `empty` and `class_text`:
    [tokens, width]. `held_out`: the numbers of those for validation."""

    latents: Sequence[Tensor]
    texts: Tensor
    empty: Tensor
    class_text: Tensor | None
    held_out: tuple[int, ...]

    def buckets(self) -> list[list[int]]:
        """The numbers of the examples to learn from, by the shape of their latents."""
        found = defaultdict(list)
        for number, latents in enumerate(self.latents):
            if number not in self.held_out:
                found[tuple(latents.shape)].append(number)
        return list(found.values())


def prepare_examples(order: Order, base: LoadedCheckpoint, on_cached: Callable[[int, int], None]) -> Examples:
    """Reads them from the job's folder, if they were computed for the same order and base.

    Raises TrainingFailed for an example that cannot be read, with its place in the list.
    """
    named = hashlib.sha256(f"{base.model_hash} {describe(order.params.to_json())}".encode()).hexdigest()[:16]
    file = order.path / f"{named}-{CACHE}"
    if not file.is_file():
        save_tensors(file, _compute(order, base, on_cached))
    tensors = load_tensors(file)
    latents = [tensors[f"latents {number}"] for number in range(len(order.examples))]
    return Examples(latents, tensors["texts"], tensors["empty"], tensors.get("class"), _hold_out(order))


def _hold_out(order: Order) -> tuple[int, ...]:
    count = len(order.examples)
    if count < HELD_OUT_FROM:
        return ()
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(order.params.seed))
    return tuple(shuffled[: count // HELD_OUT_FROM].tolist())


def _compute(order: Order, base: LoadedCheckpoint, on_cached: Callable[[int, int], None]) -> dict[str, Tensor]:
    params = order.params
    captions = [example.caption or params.instance_prompt for example in params.examples]
    others = {"empty": "", **({"class": params.class_prompt} if params.class_prompt else {})}
    chunks = max(base.count_chunks(text) for text in (*captions, *others.values()))

    def embed(text: str) -> Tensor:
        return base.encode_text(text, chunks=chunks)[0].float().cpu().clone()

    tensors = {"texts": torch.stack([embed(caption) for caption in captions])}
    tensors |= {name: embed(text) for name, text in others.items()}
    for number, path in enumerate(order.examples):
        on_cached(number, len(order.examples))
        tensors[f"latents {number}"] = base.encode(_read_frames(order, base, number, Path(path)))[0].clone()
    on_cached(len(order.examples), len(order.examples))
    return tensors


def _read_frames(order: Order, base: LoadedCheckpoint, number: int, path: Path) -> Tensor:
    """uint8 [T, H, W, 3], in the size of its bucket."""
    params = order.params
    is_clip = order.preset.examples is ExampleKind.CLIP
    try:
        init = read_init(path.read_bytes(), ["video"] if is_clip else ["image"], named="example")
        width, height = _choose_size(order, base, init)
        wanted = LONGEST * params.num_frames if is_clip else 1
        frames = list(decode_init(init, num_frames=wanted, fps=params.fps, width=width, height=height))
    except (OSError, InitUnusable) as error:
        raise TrainingFailed(f"Example {number + 1} of {len(order.examples)} cannot be read: {error}") from error
    if is_clip:
        frames[-1] = (frames[-1][0], 1)  # a shorter clip would hold its last frame
    shown = [frame for frame, times in frames for _ in range(times)]
    if is_clip and len(shown) < 2:
        raise TrainingFailed(f"Example {number + 1} of {len(order.examples)} has one frame only: nothing moves in it.")
    return torch.from_numpy(np.stack(shown))


def _choose_size(order: Order, base: LoadedCheckpoint, init: Init) -> tuple[int, int]:
    """The model's only size, or one of about the asked area in the example's own shape: its bucket."""
    card, params = base.card, order.params
    if card.native_width is not None and card.native_height is not None:
        return card.native_width, card.native_height
    multiple = base.pixels_a_latent * 2 ** (len(base.unet.config.block_out_channels) - 1)
    width, height = _measure(init)
    ratio = min(WIDEST, max(1 / WIDEST, width / height))
    area = params.width * params.height
    sides = (math.sqrt(area * ratio), math.sqrt(area / ratio))
    across, down = (max(1, round(side / multiple)) * multiple for side in sides)
    return across, down


def _measure(init: Init) -> tuple[int, int]:
    if init.kind == "image":
        with Image.open(io.BytesIO(init.data)) as picture:
            return picture.size
    with av.open(io.BytesIO(init.data), "r", format=init.ending) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height
