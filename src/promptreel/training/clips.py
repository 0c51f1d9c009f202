"""Learns a movement from clips: a LoRA on the motion modules, while one for each clip learns its looks and is thrown away.

After MotionDirector (Zhao et al. 2023), whose trick this is, and whose loss compares frames with one of them: what all frames
share is looks, and what differs is movement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from promptreel.training.layers import TRAINED, add_lora, leave_out_motion, share_parameters, use_loras
from promptreel.training.orders import Order
from promptreel.training.pictures import is_better_without_motion
from promptreel.training.presets import ATTENTION, rate_for
from promptreel.training.task import Batch, Gradients, Group, Setup, add_up, drop_captions

MOST_RANK_OF_LOOKS = 8


@dataclass(frozen=True, kw_only=True)
class ClipTask:
    """The groups: what is kept, and the looks of all clips.

    Copies of the UNet share all weights, and each uses LoRAs of its own, so that forwards may run side by side: the setup's
    uses what is kept and the looks of a clip; `shown`, for single frames, only the looks; `plain` what is kept; `base` nothing.
    """

    setup: Setup
    order: Order
    groups: tuple[Group, ...]
    shown: Any
    plain: Any
    base: Any
    leaves_out_motion: bool

    def draw(self, generator: torch.Generator) -> Batch:
        """See Task. Rows are parts of one clip, at any place in it."""
        examples, params = self.setup.examples, self.order.params
        numbers = [number for bucket in examples.buckets() for number in bucket]
        number = numbers[int(torch.randint(len(numbers), (), generator=generator))]
        clip = examples.latents[number]
        frames = min(params.num_frames, clip.shape[1])
        starts = torch.randint(clip.shape[1] - frames + 1, (params.batch_size,), generator=generator).tolist()
        clean = torch.stack([clip[:, start : start + frames] for start in starts])
        return Batch(
            clean,
            torch.randn(clean.shape, generator=generator),
            self.setup.noising.draw_timesteps(len(starts), generator),
            drop_captions(examples, [number] * len(starts), params.caption_dropout, generator),
            clip=number,
        )

    def measure(self, batch: Batch, parts: int) -> tuple[float, Gradients]:
        """See Task."""
        use_loras(self.setup.unet, TRAINED, _name_looks(batch.clip))
        use_loras(self.shown, _name_looks(batch.clip))
        pieces = batch.to(self.setup.device.name).split(parts)
        works: list[Callable[[], tuple[float, Gradients]]] = []
        for piece in pieces:
            share = len(piece) / len(batch)
            works += [partial(self._learn_looks, piece, share), partial(self._learn_movement, piece, share)]
        if self.setup.examples.class_text is not None:
            works += [partial(self._preserve, piece, len(piece) / len(batch)) for piece in pieces]
        return add_up(self.setup.compute.run_each(works))

    def _learn_looks(self, piece: Batch, share: float) -> tuple[float, Gradients]:
        """Of one frame, by the clip's own LoRA."""
        frame = int(piece.timesteps[0]) % piece.clean.shape[2]
        one = Batch(piece.clean[:, :, frame : frame + 1], piece.noise[:, :, frame : frame + 1], piece.timesteps, piece.texts)
        looks = _name_looks(piece.clip)
        _, gradients = self._differentiate(self._losses(self.shown, one).mean() * share, self.groups[1], looks)
        return 0.0, gradients

    def _learn_movement(self, piece: Batch, share: float) -> tuple[float, Gradients]:
        noising = self.setup.noising
        output = self._predict(self.setup.unet, piece)
        target = noising.target(piece.clean, piece.noise, piece.timesteps)
        learned = noising.losses(output, target, piece.timesteps).mean() * share
        anchor = int(piece.timesteps[0]) % piece.clean.shape[2]
        apart = noising.losses(_apart(output.float(), anchor), _apart(target, anchor), piece.timesteps).mean() * share
        _, gradients = self._differentiate(learned + apart, self.groups[0])
        return float(learned.detach()), gradients

    def _preserve(self, piece: Batch, share: float) -> tuple[float, Gradients]:
        """What the base makes of `class_prompt` stays."""
        setup, text = self.setup, self.setup.examples.class_text
        assert text is not None
        texts = text.to(piece.clean.device).expand(len(piece), -1, -1)
        plain = Batch(piece.clean, piece.noise, piece.timesteps, texts)
        with torch.no_grad():
            target = self._predict(self.base, plain).float()
        losses = setup.noising.losses(self._predict(self.plain, plain), target, piece.timesteps)
        return 0.0, self._differentiate(losses.mean() * share, self.groups[0])[1]

    def _losses(self, unet: Any, batch: Batch) -> Tensor:
        target = self.setup.noising.target(batch.clean, batch.noise, batch.timesteps)
        return self.setup.noising.losses(self._predict(unet, batch), target, batch.timesteps)

    def _predict(self, unet: Any, batch: Batch) -> Tensor:
        noisy = self.setup.noising.add(batch.clean, batch.noise, batch.timesteps)
        return self.setup.forward(unet, noisy, batch.timesteps, batch.texts)

    def _differentiate(self, loss: Tensor, group: Group, only: str = "") -> tuple[float, Gradients]:
        weights = {name: weight for name, weight in group.weights.items() if not only or only in name.split(".")}
        gradients = torch.autograd.grad(loss, list(weights.values()))
        return float(loss.detach()), dict(zip(weights, gradients, strict=True))

    def validate(self) -> float | None:
        """See Task."""
        setup, held_out = self.setup, self.setup.examples.held_out
        if not held_out:
            return None
        return setup.judge(self.plain, setup.fixed_batches(held_out, self.order.params.num_frames))


def learn_clips(order: Order, setup: Setup) -> ClipTask:
    """A LoRA on the motion modules, and one for each clip on the attention of its pictures."""
    unet, params, preset = setup.unet, order.params, order.preset
    is_left_out = is_better_without_motion(setup)
    base = share_parameters(unet)
    kept = add_lora(unet, preset.layers, rank=params.rank, kind=params.lora_type)
    rank = min(params.rank, MOST_RANK_OF_LOOKS)
    looks: dict[str, nn.Parameter] = {}
    for number in range(len(order.examples)):
        looks |= add_lora(unet, ATTENTION, name=_name_looks(number), rank=rank)
    rate = rate_for(params.learning_rate, unet.config.block_out_channels[0])
    rate_of_looks = rate * preset.spatial_rate / preset.learning_rate
    shown = leave_out_motion(unet) if is_left_out else share_parameters(unet)
    plain = share_parameters(unet)
    use_loras(plain, TRAINED)
    groups = (Group("trained", rate, kept), Group("spatial", rate_of_looks, looks))
    return ClipTask(setup=setup, order=order, groups=groups, shown=shown, plain=plain, base=base, leaves_out_motion=is_left_out)


def _name_looks(clip: int) -> str:
    return f"clip{clip}"


def _apart(frames: Tensor, anchor: int) -> Tensor:
    """Frames [B, C, T, h, w] as they differ from one of them; as long as before, if they are independent."""
    return 2**0.5 * frames - frames[:, :, anchor : anchor + 1]
