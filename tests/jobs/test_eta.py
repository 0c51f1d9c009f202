from __future__ import annotations

from dataclasses import replace

import pytest

from promptreel.jobs.eta import FIRST_GUESS_SECONDS_PER_UNIT, estimate_seconds, seconds_per_unit, work_units
from promptreel.jobs.job import Job, JobStatus
from promptreel.jobs.params import VideoParams
from tests.jobs.factories import START

RATES = {"cutout": 0.1, "big": 1.0}


def make_job(model_id: str = "cutout", progress: float = 0.0, status: JobStatus = JobStatus.QUEUED, frames: int = 10) -> Job:
    """Work of 100 units at 10 frames, 10 steps and no guidance: 10 seconds on `cutout`, 100 on `big`."""
    params = VideoParams(model_id=model_id, prompt="p", num_frames=frames, num_inference_steps=10, guidance_scale=1.0)
    return Job(
        id=1,
        file_prefix="f",
        params=params,
        request={},
        track_id=None,
        status=status,
        stage=None,
        progress=progress,
        cost=work_units(params, 40),
        crashes=0,
        attempt=0,
        owner=None,
        cancel_requested=False,
        created_at=START,
        started_at=None,
        finished_at=None,
        error_code=None,
        error_message=None,
        result=None,
    )


def estimate(job: Job, ahead: list[Job], live_workers: int = 1) -> int:
    return estimate_seconds(job, ahead=ahead, live_workers=live_workers, rate=RATES.__getitem__)


@pytest.mark.parametrize(("guidance_scale", "units"), [(7.5, 1600), (1.1, 1600), (1.0, 800), (0.0, 800)])
def test_guidance_doubles_the_work(guidance_scale: float, units: float) -> None:
    params = VideoParams(model_id="m", prompt="p", num_frames=40, num_inference_steps=20, guidance_scale=guidance_scale)

    assert work_units(params, 40) == units


def test_clip_beyond_what_the_model_carries_costs_more_than_its_frames() -> None:
    within, beyond = make_job(frames=40), make_job(frames=80)

    assert 2 * estimate(within, []) < estimate(beyond, []) < 4 * estimate(within, [])


def test_job_alone_takes_its_own_work() -> None:
    assert estimate(make_job(), []) == 10


def test_progress_shortens_the_estimate() -> None:
    assert estimate(make_job(progress=0.75, status=JobStatus.RUNNING), []) == 3


def test_work_ahead_is_shared_by_the_live_workers_and_own_work_is_not() -> None:
    ahead = [make_job("big", progress=0.5, status=JobStatus.RUNNING), make_job("cutout")]

    assert estimate(make_job(), ahead) == 50 + 10 + 10
    assert estimate(make_job(), ahead, live_workers=3) == 20 + 10


def test_without_a_live_worker_the_estimate_is_for_one() -> None:
    assert estimate(make_job(), [make_job()], live_workers=0) == 20


def test_estimate_is_at_least_a_second_until_the_job_is_done() -> None:
    running = make_job(progress=1.0, status=JobStatus.RUNNING)

    assert estimate(running, []) == 1
    for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED):
        assert estimate(replace(running, status=status), [make_job()]) == 0


def test_one_slow_start_does_not_spoil_the_rate() -> None:
    assert seconds_per_unit([0.1, 0.11, 9.0, 0.1, 0.12], 5.0) == 0.11


def test_rate_falls_back_to_what_is_known() -> None:
    assert seconds_per_unit([], None, 0.4, 0.7) == 0.4
    assert seconds_per_unit([], None) == FIRST_GUESS_SECONDS_PER_UNIT


def test_what_is_ahead_of_a_running_job_is_not_shared_between_workers() -> None:
    """It is the work of its own worker."""
    running = make_job(progress=0.5, status=JobStatus.RUNNING)

    assert estimate(running, [make_job(progress=0.9, status=JobStatus.RUNNING)], live_workers=4) == 6
