"""Estimates when a job will end, from the work ahead of it and from how long similar jobs took. Pure: no database, no clock.

A job takes `fixed seconds + units x seconds per unit`. A unit is one frame in one call to the model, for one row: guidance
doubles a job's units, and a frame in several windows counts several times (window_counts.py). The fixed seconds are the time
outside of the calls, for loading, decoding, encoding and storing.
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
"""A guess, used until something has been measured."""

LATEST = 3
"""How many jobs a rate is learned from. The median of three ignores one outlier, and follows a change after two jobs."""

# The share of the fixed seconds that remains when a stage begins. Decoding and encoding take about half each.
_FIXED_LEFT = {JobStage.DECODING: 1.0, JobStage.ENCODING: 0.5, JobStage.STORING: 0.0}


@dataclass(frozen=True)
class VideoShape:
    """The finished video's frame count, width and height."""

    num_frames: int
    width: int
    height: int

    @classmethod
    def of(cls, params: VideoParams) -> Self:
        return cls(params.num_frames, params.width, params.height)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a job took. `busy_seconds`: its share of its worker's time. `call_seconds`: the part spent on its `units`."""

    shape: VideoShape
    device: str
    units: float
    busy_seconds: float
    call_seconds: float


@dataclass(frozen=True)
class Rate:
    """How long jobs of one model and shape take on a device."""

    seconds_per_unit: float
    fixed_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What remains of jobs of one model and shape: `units`, and `fixed_times` the fixed seconds.

    `owner` is the worker that runs them, or None for queued jobs. A running job has done `done` units since `since`.
    """

    model_id: str
    shape: VideoShape
    owner: str | None
    units: float
    fixed_times: float
    done: float = 0.0
    since: datetime | None = None


@dataclass(frozen=True)
class Ahead:
    """What will be done before a job: the work, and how many of its jobs are queued.

    `at_once` is the API key's limit of running jobs (None: no limit), which can delay the key's own jobs further. `of_key` is
    the part of the work that belongs to the key. `trainings` are those that run or are in front, with `training_units` left.
    """

    work: tuple[Work, ...] = ()
    waiting: int = 0
    of_key: tuple[Work, ...] = ()
    at_once: int | None = None
    trainings: int = 0
    training_units: float = 0.0


def work_units(params: VideoParams, max_frames: int) -> float:
    """Calls to the model, times frames per call, times rows. `max_frames` is the model's most frames per call.

    Guidance above 1 takes two rows, with and without the prompt. An init reduces the steps to the share `strength`, and to one
    at least.
    """
    rows = 2 if params.guidance_scale > 1 else 1
    share = 1.0 if params.init_key is None else params.strength
    steps = max(1, round(params.num_inference_steps * share))
    return frames_computed(params.num_frames, max_frames) * count_calls(params.scheduler, steps) * rows


def learn_rate(timings: Sequence[Timing], shape: VideoShape, devices: Collection[str] = ()) -> Rate | None:
    """The rate for a shape, learned from timings of the same model, newest first. None if none are on `devices` (empty: any).

    Uses jobs of the same shape, else of the same width and height, else all. Takes medians of the LATEST of them, so that one
    slow start or a past busy hour does not distort the rate. Scales the fixed seconds by the number of frames.
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
    shape: VideoShape,
    *,
    owner: str | None,
    stage: JobStage | None,
    progress: float,
    cost: float,
    since: datetime | None = None,
) -> Work:
    """What remains of one job. `since`: when it started, if it runs."""
    if stage in _FIXED_LEFT:  # its calls are done, even if its last report is older
        progress, fixed_times = 1.0, _FIXED_LEFT[stage]
    else:
        fixed_times = 1.0
    left, done = cost * (1.0 - progress), cost * progress
    return Work(model_id=model_id, shape=shape, owner=owner, units=left, fixed_times=fixed_times, done=done, since=since)


def quicken(work: Sequence[Work], rate: Callable[[Work], Rate], *, now: datetime) -> float:
    """A factor for the rates, 1 at most, that corrects them if the running jobs are faster than the rates say.

    A worker has done all calls of its running jobs since the first of them started. If the rates predict more time than has
    passed, they were learned when the machine was slower.
    """
    passed = expected = 0.0
    for owner in {each.owner for each in work if each.since is not None}:
        mine = [(each, each.since) for each in work if each.owner == owner and each.since is not None]
        passed += max(0.0, (now - min(since for _, since in mine)).total_seconds())
        expected += sum(each.done * rate(each).seconds_per_unit for each, _ in mine)
    return passed / expected if 0.0 < passed < expected else 1.0


def estimate_seconds(
    job: VideoJob,
    *,
    ahead: Ahead,
    live_workers: int,
    rate: Callable[[Work], Rate],
    now: datetime,
    slice_seconds: float = 0.0,
) -> int:
    """Whole seconds until `job` has ended: at least 1, or 0 once it has ended.

    `ahead` comes from `JobStore.queue_ahead`: for a running job it covers its worker only, otherwise all workers. Without a
    live worker the estimate assumes one, because a dead worker is restarted at once. A training holds a video up for
    `slice_seconds` at most, because then it gives way.
    """
    if job.is_final:
        return 0
    own = work_left(
        job.params.model_id,
        VideoShape.of(job.params),
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
    videos = (wait + _seconds([own], rate)) * quicken([*ahead.work, own], rate, now=now)
    return max(1, math.ceil(videos + ahead.trainings * slice_seconds / workers))


def estimate_training_seconds(
    *, units: float, seconds_per_unit: float, ahead: Ahead, live_workers: int, rate: Callable[[Work], Rate]
) -> int:
    """Whole seconds until a training has ended that has so many units left: at least 1. Without videos that come later."""
    wait = (_seconds(ahead.work, rate) + ahead.training_units * seconds_per_unit) / max(1, live_workers)
    return max(1, math.ceil(wait + units * seconds_per_unit))


def estimate_queue_seconds(
    unfinished: Sequence[Work], *, live_workers: int, rate: Callable[[Work], Rate], now: datetime
) -> int:
    """Whole seconds until the workers together have done all this work; 0 if there is none."""
    return math.ceil(_seconds(unfinished, rate) * quicken(unfinished, rate, now=now) / max(1, live_workers))


def _seconds(work: Sequence[Work], rate: Callable[[Work], Rate]) -> float:
    rated = [(each, rate(each)) for each in work]
    return sum(each.fixed_times * rate.fixed_seconds + each.units * rate.seconds_per_unit for each, rate in rated)
