"""The recipe for videos: runs a job's stages in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from promptreel.encoding.decoder import Decoder
from promptreel.encoding.scaling import scale_clip
from promptreel.encoding.video import encode
from promptreel.errors import DiskFull, PromptreelError, StorageFailed, is_disk_full
from promptreel.generation.engine import Engine, Generated
from promptreel.generation.failures import named_failures
from promptreel.generation.latent_previews import OnPreview
from promptreel.generation.seat import OnWait, in_turn
from promptreel.jobs.job import Claim, JobStage, OnProgress, Result, VideoJob
from promptreel.jobs.params import VideoParams
from promptreel.media import Clip, Init, Video, kind_of_init
from promptreel.models.families import generated_size
from promptreel.storage.local import LocalStorage
from promptreel.worker.preview_file import keep_preview
from promptreel.worker.recipes.video_footprint import estimate_bytes
from promptreel.worker.timekeeping import StageClock


@dataclass(frozen=True)
class Makers:
    """What one process makes its videos with.

    `encoders` limits how many videos are encoded at once: an encoder of a large video holds hundreds of megabytes. `decoding`
    lets one init be decoded at a time.
    """

    engine: Engine
    decoder: Decoder
    encoders: threading.Semaphore
    decoding: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))


@dataclass(frozen=True)
class VideoRecipe:
    """The Recipe for jobs of kind `video`."""

    uses_device: ClassVar[bool] = True

    makers: Makers
    storage: LocalStorage
    scratch: Path

    def estimate_bytes(self, params: VideoParams) -> int:
        try:
            return estimate_bytes(params, self.makers.engine.models.get(params.model_id))
        except (PromptreelError, OSError):  # the job fails at once, and says why
            return 0

    def run(
        self,
        job: VideoJob,
        claim: Claim,
        *,
        on_progress: OnProgress,
        time_shared: Callable[[], float] = time.monotonic,
    ) -> Result:
        clock = StageClock(on_progress, time_shared)
        path = self.scratch / f"{job.file_prefix}.{claim.attempt}.{job.params.output_type}"
        try:
            _make_folder(self.scratch)
            with named_failures(job.params):
                init = _load_init(job.params.init_key, self.storage)
            with keep_preview(job, claim, storage=self.storage, scratch=self.scratch) as on_preview:
                made = make_video(
                    job.params,
                    path,
                    makers=self.makers,
                    on_progress=clock.on_progress,
                    init=init,
                    on_preview=on_preview,
                )
            clock.on_progress(JobStage.STORING, 0.0)
            key = f"{job.file_prefix}/{claim.attempt}.{job.params.output_type}"
            self.storage.save(made.video, key)
        finally:
            path.unlink(missing_ok=True)
        facts = _to_facts(made, clock.seconds(), device=str(self.makers.engine.device))
        return Result(key=key, size_bytes=made.video.size_bytes, sha256=made.video.sha256, facts=facts)


def _make_folder(scratch: Path) -> None:
    """Raises StorageFailed and DiskFull."""
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("There is no room for the video: the disk is full. Make room on it.") from error
        raise StorageFailed(
            f"There is no folder for the video: {error.strerror}. Check the rights of the data directory."
        ) from error


@dataclass(frozen=True)
class MadeVideo:
    """An encoded file. `device_seconds`: its share of the time in forwards."""

    video: Video
    device_seconds: float
    peak_memory_mb: float | None


def _to_facts(made: MadeVideo, stages: dict[str, float], *, device: str) -> dict[str, Any]:
    """Facts for the job's result. Estimates learn from them (jobs/eta.py)."""
    facts: dict[str, Any] = {
        "stages": stages,
        "busy_seconds": round(sum(stages.values()), 3),
        # Forwards can take longer than the job's share of the time, because other jobs' decoding and encoding count into it.
        "device_seconds": round(min(made.device_seconds, stages[JobStage.DENOISING]), 3),
        "device": device,
    }
    if made.peak_memory_mb is not None:
        facts["peak_memory_mb"] = made.peak_memory_mb
    return facts


def make_video(
    params: VideoParams,
    path: Path,
    *,
    makers: Makers,
    on_progress: OnProgress,
    init: Init | None = None,
    on_preview: OnPreview | None = None,
) -> MadeVideo:
    """Generates a clip, scales it to the requested size and encodes it to `path`. The command line uses it too.

    `init` is the file that `params.init_key` names.
    """
    with named_failures(params):
        on_progress(JobStage.LOADING, 0.0)
        start = _decode_init(init, params, makers, lambda: on_progress(JobStage.LOADING, 0.0))
        made = makers.engine.generate(params, on_progress, init=start, on_preview=on_preview)
        on_progress(JobStage.ENCODING, 0.0)
        scaled = scale_clip(made.clip, params.width, params.height)
        with in_turn(makers.encoders, lambda: on_progress(JobStage.ENCODING, 0.0)):
            video = encode(scaled, path, output_type=params.output_type, metadata=provenance(params, made))
    return MadeVideo(video, made.device_seconds, made.peak_memory_mb)


def _load_init(key: str | None, storage: LocalStorage) -> Init | None:
    """Reads the job's init. Raises StorageFailed if it is missing or damaged."""
    if key is None:
        return None
    data = storage.read(key)
    if data is None or (init := Init.from_key(key, data)).key != key:
        raise StorageFailed(f"The stored init {kind_of_init(key)} is {'damaged' if data else 'gone'}: send the request again.")
    return init


def _decode_init(init: Init | None, params: VideoParams, makers: Makers, on_wait: OnWait) -> Clip | None:
    """Decodes the init at the size at which the clip is generated."""
    if init is None:
        return None
    width, height = generated_size(makers.engine.models.get(params.model_id), params)
    with in_turn(makers.decoding, on_wait):
        on_wait()  # raises if the job was stopped meanwhile
        return makers.decoder.decode(init, num_frames=params.num_frames, fps=params.fps, width=width, height=height)


def provenance(params: VideoParams, made: Generated) -> dict[str, object]:
    """What is needed to make the same video again, for the file's comment. Contains no times: equal requests give equal bytes.

    `init_key` contains the init's hash.
    """
    versions = {name: version(name) for name in ("promptreel", "torch", "diffusers", *(("peft",) if params.loras else ()))}
    hashes = {
        "model_sha256": made.model_hash,
        "lora_sha256": dict(made.lora_hashes),
        "embedding_sha256": dict(made.embedding_hashes),
    }
    return {**params.to_json(), **hashes, "cards": made.cards, "versions": versions}
