"""How concurrent jobs share their worker's time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from promptreel.jobs.job import JobStage
from promptreel.worker.timekeeping import SharedTime, StageClock


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_times_of_jobs_add_up_to_their_workers_time() -> None:
    clock = Clock()
    time = SharedTime(clock)
    stages = [StageClock(lambda _stage, _share: None, time.now) for _ in range(3)]
    with ExitStack() as first, ExitStack() as others:
        first.enter_context(time.divide())
        stages[0].on_progress(JobStage.DENOISING, 0.0)
        clock.now += 4  # the first alone
        for each in stages[1:]:
            others.enter_context(time.divide())
            each.on_progress(JobStage.DENOISING, 0.0)
        clock.now += 9  # three at once
        for each in stages:
            each.on_progress(JobStage.DECODING, 0.0)
        clock.now += 6
        took = [each.seconds() for each in stages]
    clock.now += 1000  # no job is running

    assert took == [{"denoising": 7, "decoding": 2}, {"denoising": 3, "decoding": 2}, {"denoising": 3, "decoding": 2}]
    assert sum(sum(each.values()) for each in took) == pytest.approx(4 + 9 + 6)


def test_time_is_undivided_again_once_a_job_has_failed() -> None:
    clock = Clock()
    time = SharedTime(clock)
    with time.divide():
        with pytest.raises(ValueError, match="broken"), time.divide():
            raise ValueError("broken")
        before = time.now()
        clock.now += 5
        assert time.now() - before == 5
