"""Sample clips of a training: the serving engine makes them, with the weights as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptreel.encoding.scaling import scale_clip
from promptreel.encoding.video import encode
from promptreel.generation.add_ons import LoraFile
from promptreel.jobs.job import OnProgress, TrainingJob
from promptreel.jobs.params import VideoParams
from promptreel.models.composition import ModelSet, compose
from promptreel.models.stored_files import hash_file
from promptreel.storage.local import LocalStorage
from promptreel.worker.recipes.video import Makers

MOST_FRAMES = 16


@dataclass(frozen=True)
class SampleMaker:
    """Makes the clips that show how far a training is. Their seeds are the same at each step."""

    makers: Makers
    storage: LocalStorage
    scratch: Path

    def make(self, job: TrainingJob, weights: Path, step: int, *, on_progress: OnProgress) -> list[dict[str, Any]]:
        """A clip for each sample prompt. `weights`: a LoRA's file, or a checkpoint's folder.

        Returns each clip's step, prompt and key in storage. Raises what generating and storing a video raise.
        """
        models = compose(self.makers.engine.models, job.params.base, job.params.motion_adapter)
        loras: Sequence[LoraFile] = ()
        if weights.is_dir():
            models = replace(models, checkpoint=replace(models.checkpoint, path=weights, record=None, content_hash=None))
        else:
            loras = [LoraFile(job.params.model_id, weights, hash_file(weights).sha256, 1.0)]
        made = []
        for number, prompt in enumerate(job.params.sample_prompts):
            key = f"{job.file_prefix}/samples/{step:06d}-{number}.mp4"
            self._make_clip(_to_video(job, models, prompt, number), models, loras, key, on_progress)
            made.append({"step": step, "prompt": prompt, "key": key})
        return made

    def _make_clip(
        self, params: VideoParams, models: ModelSet, loras: Sequence[LoraFile], key: str, on_progress: OnProgress
    ) -> None:
        clip = self.makers.engine.generate(params, on_progress, models=models, more_loras=loras).clip
        path = self.scratch / key.replace("/", ".")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            video = encode(scale_clip(clip, params.width, params.height), path, output_type="mp4", metadata=params.to_json())
            self.storage.save(video, key)
        finally:
            path.unlink(missing_ok=True)


def _to_video(job: TrainingJob, models: ModelSet, prompt: str, number: int) -> VideoParams:
    """At the checkpoint's own size, else at that of the examples."""
    card = models.checkpoint
    return VideoParams(
        model_id=card.model_id,
        motion_adapter=models.adapter_id,
        prompt=prompt,
        num_frames=min(MOST_FRAMES, card.max_frames),
        fps=card.fps,
        seed=job.params.seed + number,
        width=card.native_width or job.params.width,
        height=card.native_height or job.params.height,
        **models.defaults,
    )
