"""Requests that share forwards: each gets what it would get alone, and short ones do not wait behind long ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from promptreel.errors import CheckpointUnusable, GenerationFailed, JobCancelled, OutOfMemory
from promptreel.generation.batching import StepBatcher
from promptreel.generation.devices import Device
from promptreel.generation.engine import Engine, Generated, OnProgress
from promptreel.generation.row_plan import Forward, RowPlan, measure_row_plan
from promptreel.jobs.job import JobStage
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelRegistry
from tests.generation.checkpoints import MAX_FRAMES
from tests.generation.conftest import CPU
from tests.generation.test_animatediff import PARAMS, go_on

BF16 = Device("cpu", torch.bfloat16)
PlanRows = Callable[[Forward], RowPlan] | None
ALL_THAT_AGREE: PlanRows = partial(measure_row_plan, worth=float("inf"))
MIXED = (
    replace(PARAMS, seed=1, num_inference_steps=5),
    replace(PARAMS, seed=2, scheduler="HeunDiscreteScheduler", guidance_scale=3.0),
    replace(PARAMS, seed=3, prompt="a dog", scheduler="DDPMScheduler", num_inference_steps=6),
    replace(PARAMS, seed=4, guidance_scale=1.0, num_inference_steps=8),
    replace(PARAMS, seed=5, num_frames=MAX_FRAMES, num_inference_steps=3),
    replace(PARAMS, seed=8, num_frames=MAX_FRAMES + 1, num_inference_steps=2),
    replace(PARAMS, seed=6, scheduler="KDPM2AncestralDiscreteScheduler", negative_prompt="blue"),
    replace(PARAMS, seed=7, guidance_scale=1.0, scheduler="EulerAncestralDiscreteScheduler"),
)


def new_engine(models: ModelRegistry, device: Device, plan_rows: PlanRows) -> Engine:
    """With two row threads and each row by itself, as on a CPU, or with rows together, as on a GPU. No request is too slow to
    be waited for by those that are less urgent.
    """
    engine = Engine(models, device, threads=2)
    engine.batcher = StepBatcher(plan_rows, row_threads=2 if plan_rows is None else 1, grace_seconds=60)
    return engine


def rows_of_forwards(engine: Engine) -> list[int]:
    """Filled with the number of rows of each call to the model, as the model itself sees them."""
    rows: list[int] = []
    engine.load("tiny").unet.register_forward_pre_hook(lambda _unet, args: rows.append(len(args[0])))
    return rows


def generate_together(engine: Engine, requests: Sequence[tuple[VideoParams, OnProgress]]) -> list[Future[Generated]]:
    """Each in its own thread, all at once; returns when all have ended."""
    with ThreadPoolExecutor(len(requests)) as threads:
        return [threads.submit(engine.generate, params, on_progress) for params, on_progress in requests]


def meet_before_the_first_step(barrier: threading.Barrier) -> OnProgress:
    """Waits until as many requests as the barrier counts are seated: from then on no forward begins without them."""
    met = False

    def on_progress(stage: JobStage, _share: float) -> None:
        nonlocal met
        if stage is JobStage.DENOISING and not met:
            met = True
            barrier.wait(60)

    return on_progress


def join_after(event: threading.Event) -> OnProgress:
    """Waits with the first step until the event is set."""

    def on_progress(stage: JobStage, _share: float) -> None:
        if stage is JobStage.LOADING:
            assert event.wait(60)

    return on_progress


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "plan_rows"),
    [(CPU, None), (CPU, ALL_THAT_AGREE), (BF16, ALL_THAT_AGREE)],
    ids=["apart", "together", "together_in_bfloat16"],
)
def test_a_clip_has_the_same_bytes_alone_and_in_company(models: ModelRegistry, device: Device, plan_rows: PlanRows) -> None:
    """Of eight others, of which each ends at another step: fewer than two are left in the end."""
    alone, engine = (new_engine(models, device, plan_rows) for _ in range(2))
    started = threading.Event()

    def tell_start(stage: JobStage, share: float) -> None:
        if stage is JobStage.DENOISING and share > 0:
            started.set()  # the second half joins when this one has made a step

    late = join_after(started)
    others = [(params, go_on if number % 2 else late) for number, params in enumerate(MIXED)]
    first, *rest = generate_together(engine, [(PARAMS, tell_start), *others])

    for params, made in zip([PARAMS, *MIXED], [first, *rest], strict=True):
        assert np.array_equal(made.result().clip.frames, alone.generate(params, go_on).clip.frames), params


@pytest.mark.slow
def test_a_cancelled_and_a_failing_request_leave_the_others_alone(models: ModelRegistry) -> None:
    engine = new_engine(models, BF16, ALL_THAT_AGREE)
    alone = engine.generate(PARAMS, go_on).clip.frames

    def cancel_in_the_middle(stage: JobStage, share: float) -> None:
        if stage is JobStage.DENOISING and share > 0.4:
            raise JobCancelled("enough")

    def fail_in_the_middle(stage: JobStage, share: float) -> None:
        if stage is JobStage.DENOISING and share > 0.4:
            raise RuntimeError("as torch would")

    requests = [
        (PARAMS, go_on),
        (replace(PARAMS, seed=2), cancel_in_the_middle),
        (replace(PARAMS, seed=4), fail_in_the_middle),
        (replace(PARAMS, model_id="tiny-wrong", num_frames=MAX_FRAMES + 1), go_on),
        (replace(PARAMS, seed=3), go_on),
    ]
    first, cancelled, failing, unusable, last = generate_together(engine, requests)

    assert np.array_equal(first.result().clip.frames, alone)
    assert isinstance(cancelled.exception(), JobCancelled)
    assert isinstance(failing.exception(), GenerationFailed)
    assert isinstance(unusable.exception(), CheckpointUnusable)
    assert last.exception() is None


@pytest.mark.slow
def test_a_clip_has_the_same_bytes_while_another_model_waits_to_be_loaded(models: ModelRegistry) -> None:
    alone = Engine(models, BF16).generate(PARAMS, go_on).clip.frames
    other = replace(PARAMS, model_id="tiny-v")
    expected = Engine(models, BF16).generate(other, go_on).clip.frames
    engine = Engine(models, BF16, threads=2)

    made = generate_together(engine, [(PARAMS, go_on), (other, go_on)] * 3)

    assert all(np.array_equal(future.result().clip.frames, alone) for future in made[::2])
    assert all(np.array_equal(future.result().clip.frames, expected) for future in made[1::2])


def test_only_the_request_fails_that_breaks_a_shared_forward(models: ModelRegistry) -> None:
    engine = new_engine(models, CPU, lambda _forward: RowPlan((2, 4, 8), single_agrees=True))

    def refuse(_unet: object, args: tuple[Tensor, ...]) -> None:
        if (args[0].abs() > 1e6).any():
            raise RuntimeError("not this one")

    engine.load("tiny").unet.register_forward_pre_hook(refuse)
    engine.samplers["DDPMScheduler"] = lambda space, start: engine.samplers["DDIMScheduler"](
        space, replace(start, noise=start.noise * 1e9)
    )
    good, bad, fine = generate_together(
        engine, [(PARAMS, go_on), (replace(PARAMS, scheduler="DDPMScheduler"), go_on), (replace(PARAMS, seed=2), go_on)]
    )

    assert isinstance(bad.exception(), GenerationFailed)
    assert good.exception() is None
    assert fine.exception() is None


def test_requests_share_forwards_up_to_the_planned_number_of_rows(models: ModelRegistry) -> None:
    engine = new_engine(models, CPU, lambda _forward: RowPlan((2, 4), single_agrees=True))
    rows = rows_of_forwards(engine)
    steps = PARAMS.num_inference_steps

    together = threading.Barrier(4)

    generate_together(engine, [(replace(PARAMS, seed=seed), meet_before_the_first_step(together)) for seed in range(4)])

    assert max(rows) == 4
    assert sum(rows) == 4 * 2 * steps  # four requests fill their forwards: no row is padding
    assert len(rows) < 4 * steps


@pytest.mark.slow
def test_short_request_passes_a_long_one(models: ModelRegistry) -> None:
    engine = new_engine(models, CPU, lambda _forward: RowPlan())
    under_way, seated, calls = threading.Event(), threading.Event(), []

    def long_one(stage: JobStage, share: float) -> None:
        if stage is JobStage.DENOISING and share not in calls:
            calls.append(share)
            if len(calls) == 5:
                under_way.set()
                assert seated.wait(60)

    def short_one(stage: JobStage, share: float) -> None:
        if stage is JobStage.LOADING:
            assert under_way.wait(60)
        if stage is JobStage.DENOISING:
            seated.set()
            if share == 3 / 4:
                calls.append("the short one's last")

    long = replace(PARAMS, num_inference_steps=20)
    generate_together(engine, [(long, long_one), (replace(PARAMS, num_inference_steps=4), short_one)])

    assert calls.index("the short one's last") == 5
    assert len(calls) == 21


def test_short_requests_hold_a_long_one_up_no_longer_than_its_own_length(models: ModelRegistry) -> None:
    engine = new_engine(models, CPU, lambda _forward: RowPlan())
    together = threading.Barrier(3)
    short_calls: list[int] = []
    passed_at_calls: dict[float, int] = {}
    done = threading.Event()

    def long_one() -> None:
        meet = meet_before_the_first_step(together)

        def on_progress(stage: JobStage, share: float) -> None:
            meet(stage, share)
            if stage is JobStage.DENOISING:
                passed_at_calls.setdefault(share, len(short_calls))

        engine.generate(replace(PARAMS, num_inference_steps=12), on_progress)
        done.set()

    def short_ones() -> None:
        meet = meet_before_the_first_step(together)
        while not done.is_set():
            made = engine.generate(replace(PARAMS, num_inference_steps=1), meet)
            short_calls.append(made.clip.num_frames)

    with ThreadPoolExecutor(3) as threads:
        for future in [threads.submit(target) for target in (long_one, short_ones, short_ones)]:
            future.result()

    assert len(passed_at_calls) == 12
    assert max(passed_at_calls.values()) <= 12


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_rows_are_computed_side_by_side_in_a_thread_each(models: ModelRegistry, guidance: float) -> None:
    engine = new_engine(models, CPU, None)
    pair, threads = threading.Barrier(2), set()

    def meet(_unet: object, args: tuple[Tensor, ...]) -> None:
        assert len(args[0]) == 1
        pair.wait(60)  # for the other row
        threads.add(threading.get_ident())

    engine.load("tiny").unet.register_forward_pre_hook(meet)
    jobs = [(replace(PARAMS, guidance_scale=guidance, seed=seed), go_on) for seed in range(2 if guidance == 1 else 1)]

    assert all(future.exception() is None for future in generate_together(engine, jobs))
    assert len(threads) == 2


def test_time_of_rows_side_by_side_is_counted_once(models: ModelRegistry) -> None:
    engine = new_engine(models, CPU, None)
    pair, times = threading.Barrier(2), []

    def meet(_unet: object, _args: object) -> None:
        pair.wait(60)

    engine.load("tiny").unet.register_forward_pre_hook(meet)
    unguided = replace(PARAMS, guidance_scale=1.0, num_inference_steps=20)

    def note_time(stage: JobStage, _share: float) -> None:
        if stage is not JobStage.LOADING:
            times.append(time.monotonic())

    one, other = (future.result() for future in generate_together(engine, [(unguided, note_time)] * 2))

    assert one.device_seconds == pytest.approx(other.device_seconds, rel=0.5)
    assert one.device_seconds + other.device_seconds <= times[-1] - times[0]


@pytest.mark.parametrize("plan_rows", [None, RowPlan], ids=["apart", "together"])
def test_a_request_that_pauses_between_calls_holds_nobody_up(models: ModelRegistry, plan_rows: type[RowPlan] | None) -> None:
    engine = new_engine(models, CPU, None if plan_rows is None else lambda _forward: RowPlan((2, 4), single_agrees=True))
    engine.batcher = StepBatcher(None if plan_rows is None else lambda _forward: RowPlan((2, 4)), grace_seconds=0.01)
    others_done, paused = threading.Event(), threading.Event()

    def pause(stage: JobStage, share: float) -> None:
        if stage is JobStage.DENOISING and share == 0.5:
            paused.set()
            assert others_done.wait(60)

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(engine.generate, replace(PARAMS, num_frames=4), pause)
        assert paused.wait(60)
        try:
            for params in (replace(PARAMS, num_inference_steps=9), replace(PARAMS, num_frames=4)):  # another shape, and its own
                threads.submit(engine.generate, params, go_on).result(60)
        finally:
            others_done.set()
        assert slow.result().clip.num_frames == 4


def test_error_while_a_row_plan_is_measured_reaches_those_who_wait_for_it(models: ModelRegistry) -> None:
    def no_memory(_forward: Forward) -> RowPlan:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    engine = new_engine(models, CPU, no_memory)
    both = threading.Barrier(2)
    made = generate_together(engine, [(PARAMS, meet_before_the_first_step(both)), (PARAMS, meet_before_the_first_step(both))])
    failed = [future for future in made if future.exception()]

    assert failed
    assert all(isinstance(future.exception(), OutOfMemory) for future in failed)
    assert engine.generate(PARAMS, go_on).clip.num_frames == PARAMS.num_frames


@pytest.mark.parametrize("plan_rows", [None, ALL_THAT_AGREE], ids=["apart", "together"])
def test_whatever_is_raised_in_a_forward_ends_its_request_and_no_thread(models: ModelRegistry, plan_rows: PlanRows) -> None:
    engine = new_engine(models, CPU, plan_rows)

    def leave(_unet: object, _args: object) -> None:
        raise SystemExit

    hook = engine.load("tiny").unet.register_forward_pre_hook(leave)
    with pytest.raises(SystemExit):
        engine.generate(PARAMS, go_on)
    hook.remove()

    assert engine.generate(PARAMS, go_on).clip.num_frames == PARAMS.num_frames


def test_a_request_that_waits_for_others_hears_that_it_is_cancelled(models: ModelRegistry) -> None:
    engine = new_engine(models, CPU, None)
    both, cancelled = threading.Barrier(2), threading.Event()
    meet = meet_before_the_first_step(both)
    told: list[float] = []

    def cancel(stage: JobStage, share: float) -> None:
        if stage is not JobStage.DENOISING:
            return
        told.append(share)
        if len(told) > 1:  # its first call, and once more while it waits
            cancelled.set()
            raise JobCancelled("enough")
        both.wait(60)

    def go_on_until_then(stage: JobStage, share: float) -> None:
        meet(stage, share)
        if stage is JobStage.DENOISING and share == 0.75:
            assert cancelled.wait(60)

    short, long = generate_together(engine, [(PARAMS, go_on_until_then), (replace(PARAMS, num_inference_steps=50), cancel)])

    assert short.exception() is None
    assert isinstance(long.exception(), JobCancelled)
    assert set(told) == {0.0}


def test_plan_stops_where_bits_differ() -> None:
    rows = torch.randn(8, 4)

    def differs_from_four_on(chosen: list[int]) -> Tensor:
        return rows[chosen] + (1e-7 if len(chosen) >= 4 else 0)

    plan = measure_row_plan(differs_from_four_on, worth=float("inf"))

    assert plan.row_counts == (2,)
    assert plan.single_agrees


def test_plan_notices_rows_that_depend_on_their_place() -> None:
    rows = torch.randn(8, 4)

    def depends_on_place(chosen: list[int]) -> Tensor:
        return rows[chosen] + torch.tensor([0.0] * 2 + [1e-3] * (len(chosen) - 2))[: len(chosen), None]

    assert measure_row_plan(depends_on_place, worth=float("inf")).row_counts == (2,)


@pytest.mark.parametrize("place", range(8))
def test_plan_notices_one_place_where_rows_have_other_bits(place: int) -> None:
    rows = torch.randn(8, 4)

    def differs_in_place(chosen: list[int]) -> Tensor:
        return rows[chosen] + 1e-3 * (torch.arange(len(chosen)) == place)[:, None] * (len(chosen) > 2)

    assert measure_row_plan(differs_in_place, worth=float("inf")).row_counts == ((2,) if place < 4 else (2, 4))


def test_plan_notices_rows_that_depend_on_those_beside_them() -> None:
    rows = torch.randn(8, 4)

    def depends_on_the_largest(chosen: list[int]) -> Tensor:
        return rows[chosen] * (1 if set(chosen) <= {0, 1} else 1.001)

    assert measure_row_plan(depends_on_the_largest, worth=float("inf")).row_counts == (2,)


def test_plan_notices_a_single_row_with_other_bits() -> None:
    rows = torch.randn(8, 4)
    plan = measure_row_plan(lambda chosen: rows[chosen] * (1 if len(chosen) > 1 else 1.001), worth=float("inf"))

    assert not plan.single_agrees
    assert plan.row_counts == (2, 4, 8)
    assert [plan.row_count_for(rows) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]


def test_plan_notices_a_row_that_agrees_with_itself_alone_in_the_first_place_only() -> None:
    rows = torch.randn(8, 4)
    plan = measure_row_plan(lambda chosen: rows[chosen] + 1e-3 * (torch.arange(len(chosen)) % 2)[:, None], worth=float("inf"))

    assert not plan.single_agrees
    assert plan.row_counts == (2, 4, 8)  # for pairs, which stand in such places alone and in company


def test_plan_stops_where_memory_ends_and_where_more_rows_do_not_pay() -> None:
    rows = torch.randn(8, 4)

    def out_of_memory_at_eight(chosen: list[int]) -> Tensor:
        if len(chosen) == 8:
            raise torch.OutOfMemoryError
        return rows[chosen]

    assert measure_row_plan(out_of_memory_at_eight, worth=float("inf")).row_counts == (2, 4)
    assert measure_row_plan(lambda chosen: rows[chosen], worth=-1.0).row_counts == (2,)
