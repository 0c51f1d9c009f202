"""How long a job will take, from what is in front of it and from how fast jobs went lately. Pure: no database, no clock.

The unit of work is one call to the model for one frame; a frame in several windows (windows.py) counts several times. A rate
is in seconds per unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from promptreel.jobs.job import Job, JobStatus
from promptreel.jobs.params import VideoParams
from promptreel.jobs.windows import frames_computed

FIRST_GUESS_SECONDS_PER_UNIT = 0.02
"""Only a guess: it is used while nothing was measured yet."""


def work_units(params: VideoParams, max_frames: int) -> float:
    """Calls to the model times frames computed; `max_frames` is what the model carries at once.

    Guidance above 1 asks the model twice a step, with and without the prompt.
    """
    calls_per_step = 2 if params.guidance_scale > 1 else 1
    return frames_computed(params.num_frames, max_frames) * params.num_inference_steps * calls_per_step


def seconds_per_unit(recent_rates: Sequence[float], *fallbacks: float | None) -> float:
    """The median of recent rates (one slow start must not spoil it), or the first fallback that is known."""
    if recent_rates:
        return median(recent_rates)
    return next((rate for rate in fallbacks if rate is not None), FIRST_GUESS_SECONDS_PER_UNIT)


def estimate_seconds(job: Job, *, ahead: Sequence[Job], live_workers: int, rate: Callable[[str], float]) -> int:
    """Whole seconds until `job` is done: at least 1 while it is not, 0 once it is.

    `ahead` is what `JobStore.queue_ahead` returned: of a running job's worker alone, else of all workers. `rate` maps a
    model_id to seconds per unit. Without a live worker the estimate is for one: a dead worker is restarted at once.
    """
    if job.is_final:
        return 0
    workers = 1 if job.status is JobStatus.RUNNING else max(1, live_workers)
    waiting = sum(_remaining_seconds(other, rate) for other in ahead) / workers
    return max(1, math.ceil(waiting + _remaining_seconds(job, rate)))


def _remaining_seconds(job: Job, rate: Callable[[str], float]) -> float:
    return job.cost * (1.0 - job.progress) * rate(job.params.model_id)
