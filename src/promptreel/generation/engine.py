"""The engine: VideoParams in, Clip out.

It owns the denoising loop. A sampler (samplers/sampler.py) says what the model must see next; a family (families/family.py)
loads, encodes prompts, applies guidance, runs and decodes. Several threads may generate at once: they share forwards
(batching.py), and each clip has the bits that it would have alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from promptreel.generation.add_ons import AddOnFile, EmbeddingFile, LoraFile
from promptreel.generation.batching import StepBatcher
from promptreel.generation.compute import ROWS_OF_A_CALL, ComputeThreads, serial_arithmetic
from promptreel.generation.devices import Device
from promptreel.generation.failures import named_arithmetic_failures, named_failures
from promptreel.generation.families.animatediff import check_animatediff
from promptreel.generation.families.family import EncodedInit, Loadable, LoadedModel, Prepared
from promptreel.generation.finite import check_finite
from promptreel.generation.latent_previews import SECONDS_APART, OnPreview, Previews
from promptreel.generation.peak_memory import MemoryWatch
from promptreel.generation.residency import Residency
from promptreel.generation.row_plan import measure_row_plan
from promptreel.generation.samplers.catalogue import all_samplers
from promptreel.generation.samplers.sampler import Call, Sample
from promptreel.generation.seat import OnWait, Seat, in_turn
from promptreel.jobs.job import JobStage, OnProgress
from promptreel.jobs.params import VideoParams
from promptreel.media import Clip
from promptreel.models import families
from promptreel.models.composition import ModelSet, compose, find_add_ons
from promptreel.models.families import get_family
from promptreel.models.phrases import words_of
from promptreel.models.registry import ModelCard, ModelRegistry


@dataclass(frozen=True)
class Generated:
    """A clip, and how it was made.

    `model_hash`: of all models but the add-ons. `lora_hashes`, `embedding_hashes`: by id. `cards`: see `ModelSet.told`.
    `device_seconds`: its share of the time in forwards. `peak_memory_mb`: the peak while it was made, of all clips together;
    None if this machine cannot measure it.
    """

    clip: Clip
    model_hash: str
    device_seconds: float
    lora_hashes: Mapping[str, str] = field(default_factory=dict)
    embedding_hashes: Mapping[str, str] = field(default_factory=dict)
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    peak_memory_mb: float | None = None


class Engine:
    """Generates clips on one device, and keeps models loaded. Safe to use from several threads."""

    def __init__(
        self,
        models: ModelRegistry,
        device: Device,
        *,
        threads: int | None = None,
        model_memory: int = 0,
        preview_seconds: float = SECONDS_APART,
    ) -> None:
        """`threads`: for the models (None: torch's default). `model_memory`: bytes that loaded models may take together; 0
        keeps one. `preview_seconds`: the least time between a job's previews.
        """
        self.models = models
        self.device = device
        on_gpu = device.name.startswith("cuda")
        self.compute = ComputeThreads(threads, row_threads=1 if on_gpu else ROWS_OF_A_CALL)
        self.preview_seconds = preview_seconds
        self.samplers: dict[str, Sample] = all_samplers()
        self.batcher = StepBatcher(measure_row_plan if on_gpu else None, row_threads=self.compute.row_threads)
        self.memory = MemoryWatch(device)
        self.residency = Residency(self._check, model_memory)
        self._vae = threading.Semaphore(1)  # one job at a time: a VAE's activations are the largest tensors of all

    def generate(
        self,
        params: VideoParams,
        on_progress: OnProgress,
        *,
        init: Clip | None = None,
        on_preview: OnPreview | None = None,
        models: ModelSet | None = None,
        more_loras: Sequence[LoraFile] = (),
    ) -> Generated:
        """One clip at the checkpoint's native size, else at the requested size, rounded up to what the model can make.

        `init`, of that size and as many frames, is what the clip starts from, at the noise level of `strength`.
        `on_preview` gets a preview from time to time; an error in it does not end the job. `models` and `more_loras` are for
        a training's samples, whose weights are not in the registry yet: models in place of those that the params name, and
        LoRAs beside theirs.
        Raises ModelNotFound, InvalidParams, CheckpointUnusable, OutOfMemory, GenerationFailed and DeviceLost, and what
        `on_progress` raises.
        """
        told = _Told(on_progress)
        told(JobStage.LOADING, 0.0)
        with named_failures(params), self.memory.watch() as peak:
            used = models or compose(self.models, params.model_id, params.motion_adapter)
            with self.residency.use(used, told.again) as model, serial_arithmetic():
                loras, embeddings = self._find_add_ons(params, used.checkpoint)
                loras = [*loras, *more_loras]
                changed = model.with_loras(loras) if loras else model
                changed = changed.with_embeddings(embeddings) if embeddings else changed
                made = self._make(changed.fit_to(params), params, told, init, on_preview)
        return replace(
            made,
            lora_hashes=_hashes(loras),
            embedding_hashes=_hashes(embeddings),
            cards=used.told,
            peak_memory_mb=peak.megabytes,
        )

    def _find_add_ons(self, params: VideoParams, checkpoint: ModelCard) -> tuple[list[LoraFile], list[EmbeddingFile]]:
        """Raises InvalidParams and CheckpointUnusable."""
        found = find_add_ons(self.models, params, checkpoint)
        loras = [
            LoraFile(card.model_id, *self.models.only_file(card), use.strength, card.expert)
            for card, use in zip(found.loras, params.loras, strict=True)
        ]
        words = [EmbeddingFile(card.model_id, *self.models.only_file(card), words_of(card)) for card in found.embeddings]
        return loras, words

    def _make(
        self,
        model: LoadedModel,
        params: VideoParams,
        on_progress: _Told,
        init: Clip | None,
        on_preview: OnPreview | None,
    ) -> Generated:
        previews = Previews(
            on_preview,
            space=model.space,
            colors=lambda: model.colors,
            fps=max(1, params.fps // get_family(model.card).frame_multiple),  # a picture for each latent
            seconds_apart=self.preview_seconds,
        )
        with named_arithmetic_failures(params):
            prepared = model.prepare(params, self._encode(model, init, on_progress.again))
            with self.batcher.seat(on_progress.again) as seat:
                latents = self._denoise(model, params, prepared, seat, on_progress, previews)
        with named_arithmetic_failures(params), in_turn(self._vae, on_progress.again):
            on_progress(JobStage.DECODING, 0.0)
            frames = torch.cat(list(model.decode(latents, prepared.start.generator, on_progress.again)))
        return Generated(Clip(frames.numpy(), params.fps), model.model_hash, seat.device_seconds)

    def load(self, model_id: str) -> LoadedModel:
        """The model, loaded if it is not already."""
        with self.residency.use(compose(self.models, model_id)) as model:
            return model

    def _check(self, models: ModelSet) -> Loadable:
        match get_family(models.checkpoint):
            case families.ANIMATEDIFF:
                return check_animatediff(models, self.device, self.compute)
            case families.WAN:
                from promptreel.generation.families.wan_loading import check_wan_model  # noqa: PLC0415 - loads slowly

                return check_wan_model(models, self.device, self.compute)
            case other:
                raise AssertionError(other)

    def measure(self, model_id: str) -> float:
        """Seconds per frame and row in a guided call of the longest clip. Also logs how rows are batched."""
        models = compose(self.models, model_id)
        with self.residency.use(models) as model, serial_arithmetic(), self.batcher.seat() as seat:
            rows = model.example()
            self.batcher.plan(rows)
            seat.forward(rows)  # the first one of a shape takes longer
            before = seat.device_seconds
            seat.forward(rows)
            return (seat.device_seconds - before) / len(rows.latents) / model.card.max_frames

    def _denoise(
        self,
        model: LoadedModel,
        params: VideoParams,
        prepared: Prepared,
        seat: Seat,
        on_progress: OnProgress,
        previews: Previews,
    ) -> Tensor:
        """Clean latents [1, C, T, h, w]. All random numbers are drawn from the seed on the CPU: equal on every device."""
        sampler = self.samplers[params.scheduler](model.space, prepared.start)
        call = next(sampler)
        while True:
            rows = model.ask(call, prepared.conditioning)
            output = model.predict(rows, seat.forward, partial(_tell_progress, on_progress, call))
            check_finite(output, "denoising", model_id=params.model_id, device=self.device)
            prediction = model.combine(output, call, prepared.conditioning, params.guidance_scale)
            previews.offer(call, prediction)
            try:
                call = sampler.send(prediction)
            except StopIteration as finished:
                return check_finite(finished.value, "denoising", model_id=params.model_id, device=self.device)

    def _encode(self, model: LoadedModel, init: Clip | None, on_wait: OnWait) -> EncodedInit | None:
        if init is None:
            return None
        with in_turn(self._vae, on_wait):
            return model.encode_init(torch.from_numpy(init.frames), on_wait)


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


def _hashes(files: Sequence[AddOnFile]) -> dict[str, str]:
    return {file.model_id: file.sha256 for file in files}


def _tell_progress(on_progress: OnProgress, call: Call, share_of_call: float) -> None:
    on_progress(JobStage.DENOISING, (call.number + share_of_call) / call.total)
