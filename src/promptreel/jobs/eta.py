"""How long a job will take, from what is in front of it and from how long such jobs took lately. Pure: no database, no clock.

A job takes `fixed seconds + units x seconds per unit`. A unit is one frame in one call to the model, for one row: guidance
doubles a job's units, and a frame in several windows counts several times (window_counts.py). The fixed seconds are those
outside of the calls: to load, decode, encode and store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Self

from promptreel.jobs.job import JobStage, JobStatus, VideoJob
from promptreel.jobs.params import VideoParams, count_calls
from promptreel.jobs.window_counts import frames_computed

FIRST_GUESS_SECONDS_PER_UNIT = 0.02
"""Only a guess: it is used while nothing was measured yet."""

LATEST = 3
"""Jobs that a rate is learned from. The median of three outlives one odd job, and two are enough to tell of other times."""

# What is left of the fixed seconds once a stage has begun. Decoding and encoding take most of them, each about half.
_FIXED_LEFT = {JobStage.DECODING: 1.0, JobStage.ENCODING: 0.5, JobStage.STORING: 0.0}


@dataclass(frozen=True)
class Shape:
    """The finished video's: frames, and pixels a side."""

    num_frames: int
    width: int
    height: int

    @classmethod
    def of(cls, params: VideoParams) -> Self:
        return cls(params.num_frames, params.width, params.height)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a job took: `busy_seconds` are its share of its worker's time, `call_seconds` of them in its `units` of calls."""

    shape: Shape
    device: str
    units: float
    busy_seconds: float
    call_seconds: float


@dataclass(frozen=True)
class Rate:
    """What jobs of one model and shape take on a device."""

    seconds_per_unit: float
    fixed_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left of jobs of one model and shape: `units` of calls, and the fixed seconds, `fixed_times` over.

    `owner` is the worker that has them; None: they wait. Of a job that runs, `done` units of calls were made since `since`.
    """

    model_id: str
    shape: Shape
    owner: str | None
    units: float
    fixed_times: float
    done: float = 0.0
    since: datetime | None = None


@dataclass(frozen=True)
class Ahead:
    """What is served before a job: the work, and how many jobs of it wait.

    An API key that may have `at_once` jobs run (None: any number) holds its own up besides: `of_key` is their part of the work.
    """

    work: tuple[Work, ...] = ()
    waiting: int = 0
    of_key: tuple[Work, ...] = ()
    at_once: int | None = None


def work_units(params: VideoParams, max_frames: int) -> float:
    """Calls to the model times frames computed; `max_frames` is what the model carries at once.

    Guidance above 1 asks the model twice a call, with and without the prompt. With an init, only the steps below `strength`
    are made, and one at least.
    """
    rows = 2 if params.guidance_scale > 1 else 1
    share = 1.0 if params.init_key is None else params.strength
    steps = max(1, round(params.num_inference_steps * share))
    return frames_computed(params.num_frames, max_frames) * count_calls(params.scheduler, steps) * rows


def learn_rate(timings: Sequence[Timing], shape: Shape, devices: Collection[str] = ()) -> Rate | None:
    """The rate for a shape on any of the devices (none: all count), from what jobs of the same model took; None without any.

    Medians of the LATEST jobs (`timings` begin with the newest): neither one slow start nor a busy hour that has passed may
    spoil it. Of jobs of the same shape; if there are none, of the same size, and if there are none, of all. Both parts of a
    rate grow with the number of frames.
    """
    on_device = [timing for timing in timings if timing.device in devices or not devices]
    same_size = [timing for timing in on_device if (timing.shape.width, timing.shape.height) == (shape.width, shape.height)]
    same_shape = [timing for timing in same_size if timing.shape == shape]
    alike = (same_shape or same_size or on_device)[:LATEST]
    if not alike:
        return None
    fixed_a_frame = median((timing.busy_seconds - timing.call_seconds) / timing.shape.num_frames for timing in alike)
    return Rate(
        seconds_per_unit=median(timing.call_seconds / timing.units for timing in alike),
        fixed_seconds=max(0.0, fixed_a_frame * shape.num_frames),
    )


def work_left(
    model_id: str,
    shape: Shape,
    *,
    owner: str | None,
    stage: JobStage | None,
    progress: float,
    cost: float,
    since: datetime | None = None,
) -> Work:
    """What is left of one job, which began at `since` if it runs."""
    if stage in _FIXED_LEFT:  # its calls are done, whatever its progress says
        progress, fixed_times = 1.0, _FIXED_LEFT[stage]
    else:
        fixed_times = 1.0
    left, done = cost * (1.0 - progress), cost * progress
    return Work(model_id=model_id, shape=shape, owner=owner, units=left, fixed_times=fixed_times, done=done, since=since)


def quicken(work: Sequence[Work], rate: Callable[[Work], Rate], *, now: datetime) -> float:
    """What the rates must be multiplied with, 1 at most, to be no slower than the jobs that run now.

    Since the first of a worker's jobs began, it made all their calls, and perhaps others too: where they were to take longer
    than that, the rates were learned in slower times.
    """
    passed = expected = 0.0
    for owner in {each.owner for each in work if each.since is not None}:
        mine = [(each, each.since) for each in work if each.owner == owner and each.since is not None]
        passed += max(0.0, (now - min(since for _, since in mine)).total_seconds())
        expected += sum(each.done * rate(each).seconds_per_unit for each, _ in mine)
    return passed / expected if 0.0 < passed < expected else 1.0


def estimate_seconds(job: VideoJob, *, ahead: Ahead, live_workers: int, rate: Callable[[Work], Rate], now: datetime) -> int:
    """Whole seconds until `job` is done: at least 1 while it is not, 0 once it is.

    `ahead` is what `JobStore.queue_ahead` returned: of a running job's worker alone, else of all workers. Without a live
    worker the estimate is for one: a dead worker is restarted at once.
    """
    if job.is_final:
        return 0
    own = work_left(
        job.params.model_id,
        Shape.of(job.params),
        owner=job.owner,
        stage=job.stage,
        progress=job.progress,
        cost=job.cost,
        since=job.started_at if job.status is JobStatus.RUNNING else None,
    )
    workers = 1 if job.status is JobStatus.RUNNING else max(1, live_workers)
    wait = max(
        _seconds(ahead.work, rate) / workers,
        _seconds(ahead.of_key, rate) / min(workers, ahead.at_once or workers),
    )
    return max(1, math.ceil((wait + _seconds([own], rate)) * quicken([*ahead.work, own], rate, now=now)))


def estimate_queue_seconds(
    unfinished: Sequence[Work], *, live_workers: int, rate: Callable[[Work], Rate], now: datetime
) -> int:
    """Whole seconds until all this work is done, shared among the workers; 0 without any."""
    return math.ceil(_seconds(unfinished, rate) * quicken(unfinished, rate, now=now) / max(1, live_workers))


def _seconds(work: Sequence[Work], rate: Callable[[Work], Rate]) -> float:
    rated = [(each, rate(each)) for each in work]
    return sum(each.fixed_times * rate.fixed_seconds + each.units * rate.seconds_per_unit for each, rate in rated)
