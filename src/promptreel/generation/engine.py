"""The engine: VideoParams in, Clip out.

It owns the denoising loop and applies guidance. A sampler (samplers/sampler.py) says what the network must see next; a family
(families/) loads, runs and decodes. Several threads may generate at once: they share forwards (batching.py), and each clip has
the bits that it would have alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from promptreel.errors import CheckpointUnusable
from promptreel.generation.batching import StepBatcher
from promptreel.generation.compute import ROWS_OF_A_CALL, ComputeThreads, serial_arithmetic
from promptreel.generation.devices import Device
from promptreel.generation.failures import named_arithmetic_failures, named_failures
from promptreel.generation.families.animatediff import LoadedCheckpoint, load_animatediff
from promptreel.generation.finite import check_finite
from promptreel.generation.latent_previews import SECONDS_APART, OnPreview, Previews
from promptreel.generation.peak_memory import MemoryWatch
from promptreel.generation.row_plan import measure_row_plan
from promptreel.generation.samplers.catalogue import all_samplers
from promptreel.generation.samplers.sampler import Call, Sample, Start
from promptreel.generation.seat import WAIT_SECONDS, OnWait, Rows, Seat, in_turn, keep_waiting
from promptreel.generation.windows import draw_noise, predict
from promptreel.jobs.job import JobStage, OnProgress
from promptreel.jobs.params import VideoParams
from promptreel.media import Clip
from promptreel.models.registry import ModelCard, ModelRegistry


@dataclass(frozen=True)
class Generated:
    """A clip, and how it was made.

    `model_hash`: of the checkpoint. `device_seconds`: its share of the time in the network's forwards. `peak_memory_mb`: the
    peak while it was made, of all clips together; None if this machine cannot measure it.
    """

    clip: Clip
    model_hash: str
    device_seconds: float
    peak_memory_mb: float | None = None


class Engine:
    """Generates clips on one device, and keeps the last checkpoint loaded. Safe to use from several threads."""

    def __init__(
        self,
        models: ModelRegistry,
        device: Device,
        *,
        threads: int | None = None,
        preview_seconds: float = SECONDS_APART,
    ) -> None:
        """`threads`: for the networks (None: torch's default). `preview_seconds`: the least time between a job's previews."""
        self.models = models
        self.device = device
        on_gpu = device.name.startswith("cuda")
        self.compute = ComputeThreads(threads, row_threads=1 if on_gpu else ROWS_OF_A_CALL)
        self.preview_seconds = preview_seconds
        self.samplers: dict[str, Sample] = all_samplers()
        self.batcher = StepBatcher(measure_row_plan if on_gpu else None, row_threads=self.compute.row_threads)
        self.memory = MemoryWatch(device)
        self._loaded: LoadedCheckpoint | None = None
        self._in_use = 0
        self._changed = threading.Condition()
        self._loading = threading.Semaphore(1)
        self._vae = threading.Semaphore(1)  # one job at a time: a VAE's activations are the largest tensors of all

    def generate(
        self, params: VideoParams, on_progress: OnProgress, *, init: Clip | None = None, on_preview: OnPreview | None = None
    ) -> Generated:
        """One clip at the checkpoint's native size, or at the requested size if it has none.

        `init`, of that size and as many frames, is what the clip starts from, at the noise level of `strength`.
        `on_preview` gets a preview from time to time; an error in it does not end the job.
        Raises ModelNotFound, CheckpointUnusable, OutOfMemory, GenerationFailed and DeviceLost, and what `on_progress` raises.
        """
        told = _Told(on_progress)
        told(JobStage.LOADING, 0.0)
        with (
            named_failures(params),
            self.memory.watch() as peak,
            self._use(params.model_id, told.again) as checkpoint,
            serial_arithmetic(),
        ):
            made = self._make(checkpoint, params, told, init, on_preview)
        return replace(made, peak_memory_mb=peak.megabytes)

    def _make(
        self,
        checkpoint: LoadedCheckpoint,
        params: VideoParams,
        on_progress: _Told,
        init: Clip | None,
        on_preview: OnPreview | None,
    ) -> Generated:
        previews = Previews(
            on_preview,
            space=checkpoint.space,
            colors=lambda: checkpoint.colors,
            fps=params.fps,
            seconds_apart=self.preview_seconds,
        )
        with named_arithmetic_failures(params):
            text = self._encode_texts(checkpoint, params)
            start = self._start(checkpoint, params, init, on_progress.again)
            with self.batcher.seat(on_progress.again) as seat:
                latents = self._denoise(checkpoint, params, start, text, seat, on_progress, previews)
        with named_arithmetic_failures(params), in_turn(self._vae, on_progress.again):
            on_progress(JobStage.DECODING, 0.0)
            frames = checkpoint.decode(latents, on_progress.again)
        return Generated(Clip(frames.numpy(), params.fps), checkpoint.model_hash, seat.device_seconds)

    def load(self, model_id: str) -> LoadedCheckpoint:
        """The checkpoint, loaded if it is not already."""
        with self._use(model_id) as checkpoint:
            return checkpoint

    @contextmanager
    def _use(self, model_id: str, on_wait: OnWait = keep_waiting) -> Iterator[LoadedCheckpoint]:
        """The checkpoint, loaded while the block runs. It is loaded once no other is in use: two may not fit into memory."""
        with in_turn(self._loading, on_wait):
            card = self.models.get(model_id)
            with self._changed:
                while self._in_use and not self._holds(card):
                    on_wait()
                    self._changed.wait(WAIT_SECONDS)
            if not self._holds(card):
                self._loaded = None  # freed before the next one is loaded
                self._loaded = _load(card, self.device, self.compute)
            checkpoint = self._loaded
            assert checkpoint is not None
            with self._changed:
                self._in_use += 1
        try:
            yield checkpoint
        finally:
            with self._changed:
                self._in_use -= 1
                self._changed.notify_all()

    def _holds(self, card: ModelCard) -> bool:
        return self._loaded is not None and self._loaded.card == card

    def measure(self, model_id: str) -> float:
        """Seconds per frame and row in a guided call of the longest clip. Also logs how rows are batched."""
        with self._use(model_id) as checkpoint, serial_arithmetic(), self.batcher.seat() as seat:
            card = checkpoint.card
            shape = checkpoint.latent_shape(card.max_frames, card.native_width or 256, card.native_height or 256)
            latents = torch.zeros(shape).expand(ROWS_OF_A_CALL, -1, -1, -1, -1)
            text = checkpoint.encode_text("").expand(ROWS_OF_A_CALL, -1, -1)
            call = Rows(checkpoint, latents, torch.full((ROWS_OF_A_CALL,), 500.0), text, remaining=1)
            self.batcher.plan(call)
            seat.forward(call)  # the first one of a shape takes longer
            before = seat.device_seconds
            seat.forward(call)
            return (seat.device_seconds - before) / ROWS_OF_A_CALL / card.max_frames

    def _encode_texts(self, checkpoint: LoadedCheckpoint, params: VideoParams) -> Tensor:
        """Embeddings [rows, tokens, width]: the prompt's, after the negative prompt's if there is guidance.

        Each text is encoded alone, so that neither changes the other's bits. `clip_skip` applies to both.
        """
        texts = [params.negative_prompt, params.prompt] if is_guided(params) else [params.prompt]
        chunks = max(map(checkpoint.count_chunks, texts))
        return torch.cat([checkpoint.encode_text(text, params.clip_skip, chunks) for text in texts])

    def _denoise(
        self,
        checkpoint: LoadedCheckpoint,
        params: VideoParams,
        start: Start,
        text: Tensor,
        seat: Seat,
        on_progress: OnProgress,
        previews: Previews,
    ) -> Tensor:
        """Clean latents [1, C, T, h, w]. All random numbers are drawn from the seed on the CPU: equal on every device."""
        space = checkpoint.space
        sampler = self.samplers[params.scheduler](space, start)
        call = next(sampler)
        while True:
            latents, timestep = space.to_network(call.latents, call.timestep)
            rows = text if call.guided else text[-1:]
            count = len(rows)
            asked = Rows(
                checkpoint,
                latents.expand(count, -1, -1, -1, -1),
                timestep.float().expand(count),
                rows,
                remaining=call.total - call.number,
            )
            output = predict(asked, seat.forward, partial(_tell_progress, on_progress, call))
            check_finite(output, "denoising", model_id=params.model_id, device=self.device)
            prediction = space.from_network(guide(output, params.guidance_scale), call.latents, call.timestep)
            previews.offer(call, prediction)
            try:
                call = sampler.send(prediction)
            except StopIteration as finished:
                return check_finite(finished.value, "denoising", model_id=params.model_id, device=self.device)

    def _start(
        self, checkpoint: LoadedCheckpoint, params: VideoParams, init: Clip | None, on_wait: OnWait = keep_waiting
    ) -> Start:
        generator = torch.Generator().manual_seed(params.seed)
        shape = checkpoint.latent_shape(params.num_frames, *generated_size(checkpoint.card, params))
        noise = draw_noise(shape, checkpoint.card.max_frames, generator)
        if init is None:
            return Start(noise, params.num_inference_steps, generator, guided=is_guided(params))
        with in_turn(self._vae, on_wait):
            latents = checkpoint.encode(torch.from_numpy(init.frames), on_wait)
        return Start(noise, params.num_inference_steps, generator, latents, params.strength, is_guided(params))


class _Told:
    """Passes progress on; `again` repeats the latest."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._latest = (JobStage.LOADING, 0.0)

    def __call__(self, stage: JobStage, share: float) -> None:
        self._latest = (stage, share)
        self.again()

    def again(self) -> None:
        self._on_progress(*self._latest)


def _load(card: ModelCard, device: Device, compute: ComputeThreads) -> LoadedCheckpoint:
    match card.family:
        case "animatediff":
            return load_animatediff(card, device, compute)
        case other:
            raise CheckpointUnusable(f"model {card.model_id!r} is of family {other!r}; only 'animatediff' can be run")


def _tell_progress(on_progress: OnProgress, call: Call, share_of_call: float) -> None:
    on_progress(JobStage.DENOISING, (call.number + share_of_call) / call.total)


def generated_size(card: ModelCard, params: VideoParams) -> tuple[int, int]:
    """Width and height in pixels at which the clip is made, before it is scaled to the requested size."""
    return card.native_width or params.width, card.native_height or params.height


def is_guided(params: VideoParams) -> bool:
    """At a guidance scale of 1 or less, the negative prompt is not computed."""
    return params.guidance_scale > 1


def guide(output: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): rows (negative, prompt) become one, u + scale * (c - u)."""
    if len(output) == 1:
        return output
    negative, prompt = output.chunk(2)
    return negative + scale * (prompt - negative)
