"""The engine: VideoParams in, Clip out.

It owns the denoising loop. A sampler (samplers/sampler.py) says what the network must see next, a family (families/) says how
its networks are loaded, run and decoded; the engine brings the two together and applies guidance.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from promptreel.errors import CheckpointUnusable, GenerationFailed, OutOfMemory
from promptreel.generation.devices import Device
from promptreel.generation.families.animatediff import LoadedCheckpoint, load_animatediff
from promptreel.generation.samplers.sampler import Sample
from promptreel.generation.samplers.stock import stock_samplers
from promptreel.jobs.job import JobStage
from promptreel.jobs.params import VideoParams
from promptreel.media import Clip
from promptreel.models.registry import ModelCard, ModelRegistry

OnProgress = Callable[[JobStage, float], None]
"""Told the stage and the share of it that is done (0 to 1), between any two calls; it may raise to stop the job there."""


class Engine:
    """Generates clips on one device; keeps the checkpoint that it used last."""

    def __init__(self, models: ModelRegistry, device: Device) -> None:
        self.models = models
        self.device = device
        self.samplers: dict[str, Sample] = stock_samplers()
        self._loaded: LoadedCheckpoint | None = None

    def generate(self, params: VideoParams, on_progress: OnProgress) -> Clip:
        """One clip at the checkpoint's native size, or at the size asked where it has none.

        Raises ModelNotFound, CheckpointUnusable, OutOfMemory or GenerationFailed, and whatever `on_progress` raises.
        """
        on_progress(JobStage.LOADING, 0.0)
        checkpoint = self.load(params.model_id)
        with _named_failures(params):
            text = self._encode_texts(checkpoint, params)
            latents = self._denoise(checkpoint, params, text, on_progress)
            on_progress(JobStage.DECODING, 0.0)
            frames = checkpoint.decode(latents)
        return Clip(frames.numpy(), params.fps)

    def load(self, model_id: str) -> LoadedCheckpoint:
        """The checkpoint, loaded if it is not already."""
        card = self.models.get(model_id)
        if self._loaded is None or self._loaded.card != card:
            self._loaded = None  # freed before the next one is loaded: two may not fit
            self._loaded = _load(card, self.device)
        return self._loaded

    def measure(self, model_id: str) -> float:
        """Seconds that one frame of one row takes in a call, timed on a guided call of the longest clip, after a warm-up."""
        checkpoint = self.load(model_id)
        card = checkpoint.card
        width, height = card.native_width or 256, card.native_height or 256
        latents = torch.zeros(checkpoint.latent_shape(card.max_frames, width, height)).expand(2, -1, -1, -1, -1)
        text = checkpoint.encode_text("").expand(2, -1, -1)
        timesteps = torch.full((2,), 500)
        checkpoint.denoise(latents, timesteps, text)
        started = time.monotonic()
        checkpoint.denoise(latents, timesteps, text)
        return (time.monotonic() - started) / (2 * card.max_frames)

    def _encode_texts(self, checkpoint: LoadedCheckpoint, params: VideoParams) -> Tensor:
        """Embeddings [rows, tokens, width]: the prompt's, with the negative prompt's before it when guidance is used.

        One text at a time, so that neither depends on the other.
        """
        texts = [params.negative_prompt, params.prompt] if is_guided(params) else [params.prompt]
        return torch.cat([checkpoint.encode_text(text) for text in texts])

    def _denoise(self, checkpoint: LoadedCheckpoint, params: VideoParams, text: Tensor, on_progress: OnProgress) -> Tensor:
        """Clean latents [1, C, T, h, w]. All randomness comes from the seed, on the CPU, so that every device draws alike."""
        generator = torch.Generator().manual_seed(params.seed)
        shape = checkpoint.latent_shape(params.num_frames, *generated_size(checkpoint.card, params))
        noise = torch.randn(shape, generator=generator)
        sampler = self.samplers[params.scheduler](checkpoint.space, noise, params.num_inference_steps, generator)
        call = next(sampler)
        while True:
            on_progress(JobStage.DENOISING, call.number / call.total)
            rows = len(text)
            output = checkpoint.denoise(call.latents.expand(rows, -1, -1, -1, -1), call.timestep.expand(rows), text)
            try:
                call = sampler.send(guide(output, params.guidance_scale))
            except StopIteration as finished:
                latents: Tensor = finished.value
                return latents


def _load(card: ModelCard, device: Device) -> LoadedCheckpoint:
    match card.family:
        case "animatediff":
            return load_animatediff(card, device)
        case other:
            raise CheckpointUnusable(f"model {card.model_id!r} is of family {other!r}; only 'animatediff' can be run")


def generated_size(card: ModelCard, params: VideoParams) -> tuple[int, int]:
    """Width and height in pixels at which the clip is made, before it is scaled to what was asked."""
    return card.native_width or params.width, card.native_height or params.height


def is_guided(params: VideoParams) -> bool:
    """Guidance of 1 is none: the unconditional half of the work is left out."""
    return params.guidance_scale > 1


def guide(output: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): rows (negative, prompt) become one, u + scale * (c - u)."""
    if len(output) == 1:
        return output
    negative, prompt = output.chunk(2)
    return negative + scale * (prompt - negative)


class _named_failures:  # noqa: N801 - reads as a statement
    """Turns torch's failures into ours, where they enter."""

    def __init__(self, params: VideoParams) -> None:
        self.params = params

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        params = self.params
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            raise OutOfMemory(
                f"the device has too little memory for {params.num_frames} frames of {params.width}x{params.height}: "
                "ask for fewer frames or a smaller size"
            ) from error
        if isinstance(error, RuntimeError):
            raise GenerationFailed(f"the model {params.model_id!r} could not make this clip: {error}") from error
