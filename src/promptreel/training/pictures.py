"""Learns pictures: the picture UNet's part of a model with motion modules, on one frame a row."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from promptreel.training.layers import add_lora, leave_out_motion, share_parameters, train_all
from promptreel.training.orders import Order
from promptreel.training.presets import rate_for
from promptreel.training.task import Batch, Gradients, Group, Setup, add_up, drop_captions, preserved_rows

MOST_JUDGED = 8


@dataclass(frozen=True, kw_only=True)
class PictureTask:
    """`shown`: the UNet as pictures pass through it, which shares the trained weights. `base`: the same before the training."""

    setup: Setup
    order: Order
    groups: tuple[Group, ...]
    shown: Any
    base: Any
    leaves_out_motion: bool

    def draw(self, generator: torch.Generator) -> Batch:
        """See Task. All rows are of one bucket; an example comes again only once its bucket has no other."""
        examples, params = self.setup.examples, self.order.params
        buckets = examples.buckets()
        sizes = torch.tensor([len(bucket) for bucket in buckets], dtype=torch.float)
        bucket = buckets[int(torch.multinomial(sizes, 1, generator=generator))]
        order = torch.randperm(len(bucket), generator=generator).tolist()
        numbers = [bucket[order[row % len(order)]] for row in range(params.batch_size)]
        clean = torch.stack([examples.latents[number] for number in numbers])
        return Batch(
            clean,
            torch.randn(clean.shape, generator=generator),
            self.setup.noising.draw_timesteps(len(numbers), generator),
            drop_captions(examples, numbers, params.caption_dropout, generator),
        )

    def measure(self, batch: Batch, parts: int) -> tuple[float, Gradients]:
        """See Task."""
        pieces = batch.to(self.setup.device.name).split(parts)
        preserved = sum(preserved_rows(len(piece)) for piece in pieces)
        return add_up(self.setup.compute.run_each(partial(self._measure, piece, len(batch), preserved) for piece in pieces))

    def _measure(self, piece: Batch, rows: int, preserved: int) -> tuple[float, Gradients]:
        setup, noising = self.setup, self.setup.noising
        noisy = noising.add(piece.clean, piece.noise, piece.timesteps)
        target, timesteps, texts = noising.target(piece.clean, piece.noise, piece.timesteps), piece.timesteps, piece.texts
        kept, class_text = preserved_rows(len(piece)), setup.examples.class_text
        if class_text is not None:
            class_texts = class_text.to(noisy.device).expand(kept, -1, -1)
            with torch.no_grad():
                target = torch.cat([target, setup.forward(self.base, noisy[:kept], timesteps[:kept], class_texts).float()])
            texts, timesteps, noisy = (
                torch.cat(pair) for pair in ((texts, class_texts), (timesteps, timesteps[:kept]), (noisy, noisy[:kept]))
            )
        losses = noising.losses(setup.forward(self.shown, noisy, timesteps, texts), target, timesteps)
        learned = losses[: len(piece)].sum() / rows
        loss = learned + losses[len(piece) :].sum() / preserved if class_text is not None else learned
        weights = self.groups[0].weights
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        return float(learned.detach()), {
            name: gradient for name, gradient in zip(weights, gradients, strict=True) if gradient is not None
        }

    def validate(self) -> float | None:
        """See Task."""
        held_out = self.setup.examples.held_out
        return self.setup.judge(self.shown, self.setup.fixed_batches(held_out)) if held_out else None


def learn_pictures(order: Order, setup: Setup) -> PictureTask:
    """A LoRA on the preset's layers, or all weights."""
    unet, preset, params = setup.unet, order.preset, order.params
    is_left_out = is_better_without_motion(setup)
    base = _as_shown(copy.deepcopy(unet) if preset.is_whole else share_parameters(unet), is_left_out)
    weights = train_all(unet) if preset.is_whole else add_lora(unet, preset.layers, rank=params.rank, kind=params.lora_type)
    return PictureTask(
        setup=setup,
        order=order,
        groups=(Group("trained", rate_for(params.learning_rate, unet.config.block_out_channels[0]), weights),),
        shown=_as_shown(unet, is_left_out),
        base=base,
        leaves_out_motion=is_left_out,
    )


def is_better_without_motion(setup: Setup) -> bool:
    """Whether pictures pass by the motion modules: if the base predicts these pictures better so.

    The UNet of Stable Diffusion was trained on pictures before there were motion modules, which were never shown a single
    frame. But a UNet that was trained together with its motion modules needs them, as the built-in model does.
    """
    batches = setup.fixed_batches(range(min(MOST_JUDGED, len(setup.examples.latents))))
    return setup.judge(leave_out_motion(setup.unet), batches) < setup.judge(setup.unet, batches)


def _as_shown(unet: Any, is_left_out: bool) -> Any:
    return leave_out_motion(unet) if is_left_out else unet
