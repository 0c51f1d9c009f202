"""The recipe: one job's parameters through every stage, in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from promptreel.encoding.mp4 import encode_mp4
from promptreel.encoding.scaling import scale_clip
from promptreel.generation.engine import Engine, OnProgress
from promptreel.jobs.job import Claim, Job, JobStage, Result
from promptreel.jobs.params import VideoParams
from promptreel.media import Video
from promptreel.storage.local import LocalStorage


def run_video_job(
    job: Job, claim: Claim, *, engine: Engine, storage: LocalStorage, scratch: Path, on_progress: OnProgress
) -> Result:
    """Generates, encodes and stores; the key names the attempt, so that no two attempts ever share a file."""
    clock = StageClock(on_progress)
    path = scratch / f"{job.file_prefix}.{claim.attempt}.mp4"
    try:
        video = make_video(job.params, path, engine=engine, on_progress=clock.on_progress)
        clock.on_progress(JobStage.STORING, 0.0)
        key = f"{job.file_prefix}/{claim.attempt}.mp4"
        storage.save(video, key)
    finally:
        path.unlink(missing_ok=True)
    facts = {"stages": clock.seconds(), "device": str(engine.device)}
    return Result(key=key, size_bytes=video.size_bytes, sha256=video.sha256, facts=facts)


def make_video(params: VideoParams, path: Path, *, engine: Engine, on_progress: OnProgress) -> Video:
    """Generates a clip, scales it to the size that was asked and writes it to `path`. The command line does no other."""
    clip = engine.generate(params, on_progress)
    on_progress(JobStage.ENCODING, 0.0)
    scaled = scale_clip(clip, params.width, params.height)
    return encode_mp4(scaled, path, metadata=provenance(params, engine.load(params.model_id).model_hash))


def provenance(params: VideoParams, model_hash: str) -> dict[str, object]:
    """What it takes to make the same video again, for the file's comment. No times in it: equal requests give equal bytes."""
    versions = {name: version(name) for name in ("promptreel", "torch", "diffusers")}
    return {**params.to_json(), "model_sha256": model_hash, "versions": versions}


class StageClock:
    """Passes progress on and adds up the seconds that each stage took."""

    def __init__(self, on_progress: OnProgress, clock: Callable[[], float] = time.monotonic) -> None:
        self._pass_on = on_progress
        self._clock = clock
        self._entered: list[tuple[JobStage, float]] = []

    def on_progress(self, stage: JobStage, share: float) -> None:
        if not self._entered or self._entered[-1][0] != stage:
            self._entered.append((stage, self._clock()))
        self._pass_on(stage, share)

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, up to now."""
        ends = [entered for _, entered in self._entered[1:]] + [self._clock()]
        return {str(stage): round(end - start, 3) for (stage, start), end in zip(self._entered, ends, strict=True)}
