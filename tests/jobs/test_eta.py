from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from promptreel.jobs.eta import (
    Ahead,
    Rate,
    Timing,
    VideoShape,
    Work,
    estimate_queue_seconds,
    estimate_seconds,
    estimate_training_seconds,
    learn_rate,
    work_left,
    work_units,
)
from promptreel.jobs.job import Job, JobStage, JobStatus
from promptreel.jobs.params import VideoParams
from tests.jobs.factories import START

RATES = {"cutout": Rate(0.1), "big": Rate(1.0), "slow to end": Rate(0.1, fixed_seconds=40)}
SHAPE = VideoShape(10, 512, 512)


def make_job(
    model_id: str = "cutout",
    progress: float = 0.0,
    status: JobStatus = JobStatus.QUEUED,
    frames: int = 10,
    stage: JobStage | None = None,
) -> Job:
    """Work of 100 units at 10 frames, 10 steps and no guidance: 10 seconds on `cutout`, 100 on `big`."""
    params = VideoParams(model_id=model_id, prompt="p", num_frames=frames, num_inference_steps=10, guidance_scale=1.0)
    return Job(
        id=1,
        file_prefix="f",
        params=params,
        request={},
        track_id=None,
        webhook_url=None,
        api_key_id=None,
        status=status,
        stage=stage,
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


def estimate(
    job: Job,
    ahead: Sequence[Job] = (),
    live_workers: int = 1,
    of_key: int = 0,
    at_once: int | None = None,
    seconds: float = 0.0,
) -> int:
    """The first `of_key` jobs ahead belong to the job's own API key. The time is `seconds` after START."""
    work = tuple(left_of(each) for each in ahead)
    in_front = Ahead(work, of_key=work[:of_key], at_once=at_once)
    now = START + timedelta(seconds=seconds)
    return estimate_seconds(job, ahead=in_front, live_workers=live_workers, rate=lambda each: RATES[each.model_id], now=now)


def left_of(job: Job) -> Work:
    model_id, since = job.params.model_id, job.started_at
    return work_left(model_id, SHAPE, owner=job.owner, stage=job.stage, progress=job.progress, cost=job.cost, since=since)


def run_since(seconds: float, *, progress: float, model_id: str = "cutout", owner: str = "a") -> Job:
    """A job that began `seconds` after START."""
    job = make_job(model_id, progress, JobStatus.RUNNING)
    return replace(job, owner=owner, started_at=START + timedelta(seconds=seconds))


@pytest.mark.parametrize(("guidance_scale", "units"), [(7.5, 1600), (1.1, 1600), (1.0, 800), (0.0, 800)])
def test_guidance_doubles_the_work(guidance_scale: float, units: float) -> None:
    params = VideoParams(model_id="m", prompt="p", num_frames=40, num_inference_steps=20, guidance_scale=guidance_scale)

    assert work_units(params, 40) == units


def test_clip_longer_than_max_frames_costs_more_than_its_frames() -> None:
    within, beyond = make_job(frames=40), make_job(frames=80)

    assert 2 * estimate(within, []) < estimate(beyond, []) < 4 * estimate(within, [])


@pytest.mark.parametrize(("strength", "units"), [(0.0, 80), (0.01, 80), (0.5, 800), (1.0, 1600)])
def test_strength_shortens_the_work_of_a_job_with_an_init(strength: float, units: float) -> None:
    params = VideoParams(model_id="m", prompt="p", num_frames=40, num_inference_steps=20, strength=strength)

    assert work_units(params, 40) == 1600
    assert work_units(replace(params, init_key="inits/image/ab.png"), 40) == units


def test_work_counts_calls_not_steps() -> None:
    """test_samplers.py compares `count_calls` with the samplers."""
    params = VideoParams(model_id="m", prompt="p", num_frames=10, num_inference_steps=20, guidance_scale=1)

    assert work_units(params, 40) == 200
    assert work_units(replace(params, scheduler="HeunDiscreteScheduler"), 40) == 390


def test_job_alone_takes_its_own_work() -> None:
    assert estimate(make_job(), []) == 10


def test_progress_shortens_the_estimate() -> None:
    assert estimate(make_job(progress=0.75, status=JobStatus.RUNNING), []) == 3


def test_work_ahead_is_shared_by_the_live_workers_and_own_work_is_not() -> None:
    ahead = [make_job("big", progress=0.5, status=JobStatus.RUNNING), make_job("cutout")]

    assert estimate(make_job(), ahead) == 50 + 10 + 10
    assert estimate(make_job(), ahead, live_workers=3) == 20 + 10


def test_jobs_of_a_key_wait_for_each_other_although_there_are_workers() -> None:
    """Ahead are two jobs of its key and one of another, 10 seconds each."""
    ahead = [make_job(), make_job(), make_job()]

    assert [estimate(make_job(), ahead, live_workers=3, of_key=2, at_once=limit) for limit in (1, 2, 3, 9, None)] == [
        20 + 10,
        10 + 10,
        10 + 10,
        10 + 10,
        10 + 10,
    ]
    assert estimate(make_job(), ahead, live_workers=1, of_key=2, at_once=1) == 30 + 10


def test_without_a_live_worker_the_estimate_is_for_one() -> None:
    assert estimate(make_job(), [make_job()], live_workers=0) == 20


def test_estimate_is_at_least_a_second_until_the_job_is_done() -> None:
    running = make_job(progress=1.0, status=JobStatus.RUNNING)

    assert estimate(running, []) == 1
    for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED):
        assert estimate(replace(running, status=status), [make_job()]) == 0


def test_what_is_ahead_of_a_running_job_is_not_shared_between_workers() -> None:
    """It is the work of its own worker."""
    running = make_job(progress=0.5, status=JobStatus.RUNNING)

    assert estimate(running, [make_job(progress=0.9, status=JobStatus.RUNNING)], live_workers=4) == 6


def test_fixed_seconds_are_spent_after_the_calls() -> None:
    etas = [
        estimate(make_job("slow to end")),
        estimate(make_job("slow to end", 0.5, JobStatus.RUNNING, stage=JobStage.DENOISING)),
        *(
            estimate(make_job("slow to end", 0.9, JobStatus.RUNNING, stage=stage))
            for stage in (JobStage.DENOISING, JobStage.DECODING, JobStage.ENCODING, JobStage.STORING)
        ),
    ]

    assert etas == [50, 45, 41, 40, 20, 1]


def make_timing(
    shape: VideoShape = SHAPE, *, calls: int = 20, fixed: float = 4.0, a_call: float = 0.5, device: str = "cpu"
) -> Timing:
    """The timing of a job with `fixed` seconds outside of its calls and `a_call` seconds per call."""
    units = shape.num_frames * calls
    return Timing(shape=shape, device=device, units=units, busy_seconds=fixed + calls * a_call, call_seconds=calls * a_call)


def seconds_for(rate: Rate | None, calls: int, shape: VideoShape = SHAPE) -> float:
    assert rate is not None
    return rate.fixed_seconds + shape.num_frames * calls * rate.seconds_per_unit


def test_fixed_seconds_and_seconds_per_unit_are_learned_separately() -> None:
    rate = learn_rate([make_timing(calls=calls) for calls in (20, 4)], SHAPE)

    assert [seconds_for(rate, calls) for calls in (1, 20, 100)] == pytest.approx([4.5, 14, 54])


def test_one_slow_start_does_not_spoil_the_rate() -> None:
    rate = learn_rate([make_timing(), make_timing(fixed=60.0, a_call=3.0), make_timing()], SHAPE)

    assert seconds_for(rate, 20) == pytest.approx(14)


def test_rate_comes_from_the_same_shape_else_size_else_model() -> None:
    longer, larger = VideoShape(20, 512, 512), VideoShape(10, 1024, 1024)
    timings = [make_timing(larger, fixed=12, a_call=2), make_timing(longer, fixed=10, a_call=3), make_timing()]

    assert seconds_for(learn_rate(timings, SHAPE), 20) == pytest.approx(4 + 20 * 0.5)
    assert seconds_for(learn_rate(timings[:2], SHAPE), 20) == pytest.approx((10 + 20 * 3) / 2)
    assert seconds_for(learn_rate(timings[:1], SHAPE), 20) == pytest.approx(12 + 20 * 2)
    assert learn_rate([], SHAPE) is None


def test_rate_comes_from_the_live_workers_devices() -> None:
    timings = [make_timing(), make_timing(fixed=1, a_call=0.05, device="cuda")]

    assert seconds_for(learn_rate(timings, SHAPE, {"cuda"}), 20) == pytest.approx(2)
    assert seconds_for(learn_rate(timings, SHAPE, {"cpu"}), 20) == pytest.approx(14)
    assert learn_rate(timings, SHAPE, {"other"}) is None
    assert seconds_for(learn_rate(timings, SHAPE), 20) == pytest.approx((14 + 2) / 2)  # no worker is alive


def test_rate_follows_a_change_of_speed_after_two_jobs() -> None:
    """Jobs of several lengths, 20 times slower in one period than in the other."""
    quick = [make_timing(calls=calls, fixed=0.5, a_call=0.1) for calls in (20, 4)]
    slow = [make_timing(calls=calls, fixed=10, a_call=2) for calls in (4, 20, 8) * 6]

    assert seconds_for(learn_rate([*quick, *slow[:17]], SHAPE), 20) == pytest.approx(2.5)
    assert seconds_for(learn_rate([*slow[:2], *quick * 8], SHAPE), 20) == pytest.approx(50)
    other_shape = [replace(timing, shape=VideoShape(10, 1024, 1024)) for timing in slow[:17]]
    assert seconds_for(learn_rate([*other_shape, *quick], SHAPE), 20) == pytest.approx(2.5)


def test_fast_running_jobs_correct_rates_learned_in_slower_times() -> None:
    """Each job is half done, predicted to take 5 seconds. Both halves took 2 seconds: five times as fast."""
    running = [run_since(0, progress=0.5), run_since(0.5, progress=0.5)]

    assert estimate(make_job(), running, seconds=2) == (5 + 5 + 10) / 5
    assert estimate(running[1], running[:1], seconds=2) == (5 + 5) / 5
    assert estimate(make_job("slow to end"), running, seconds=2) == (5 + 5 + 50) / 5


def test_running_jobs_correct_nothing_if_not_faster_or_just_started() -> None:
    assert estimate(make_job(), [run_since(0, progress=0.5)], seconds=60) == 5 + 10
    assert estimate(make_job(), [run_since(0, progress=0.0)], seconds=1) == 10 + 10
    assert estimate(make_job(), [run_since(9, progress=0.5)], seconds=1) == 5 + 10  # the clock was set back


def test_speed_is_measured_per_worker() -> None:
    """`b` took 4 seconds instead of 5, and `a` took 2 instead of 10: together 6 instead of 15."""
    running = [run_since(2, progress=0.5), run_since(2, progress=0.5), run_since(0, progress=0.5, owner="b")]
    work = [left_of(each) for each in running]
    now = START + timedelta(seconds=4)

    assert estimate(make_job(), running, live_workers=2, seconds=4) == 7  # (15 / 2 + 10) * 6 / 15
    queue = estimate_queue_seconds(work, live_workers=2, rate=lambda each: RATES[each.model_id], now=now)
    assert queue == 3  # 15 / 2 * 6 / 15


def test_job_in_decoding_has_no_calls_left() -> None:
    decoding = replace(run_since(0, progress=0.0, model_id="slow to end"), stage=JobStage.DECODING)

    assert estimate(decoding, seconds=1) == 40 * 1 / 10


@pytest.mark.parametrize(("workers", "seconds"), [(1, 10 + 2 * 60), (2, 10 + 60)])
def test_training_in_front_holds_a_video_up_for_a_slice_at_most(workers: int, seconds: int) -> None:
    ahead = Ahead(trainings=2, training_units=1e9)
    estimate = estimate_seconds(
        make_job(), ahead=ahead, live_workers=workers, rate=lambda each: RATES[each.model_id], now=START, slice_seconds=60.0
    )

    assert estimate == seconds


def test_training_waits_for_videos_and_for_other_trainings_as_a_whole() -> None:
    video = Work(model_id="cutout", shape=SHAPE, owner=None, units=100, fixed_times=0)
    ahead = Ahead((video,), waiting=2, trainings=1, training_units=500)

    assert (
        estimate_training_seconds(
            units=1000, seconds_per_unit=0.2, ahead=ahead, live_workers=1, rate=lambda each: RATES[each.model_id]
        )
        == 310
    )
    assert (
        estimate_training_seconds(
            units=1000, seconds_per_unit=0.2, ahead=ahead, live_workers=2, rate=lambda each: RATES[each.model_id]
        )
        == 255
    )
