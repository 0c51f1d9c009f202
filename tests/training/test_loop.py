"""The loop by itself, on a task of one number."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from promptreel.errors import StorageFailed, TrainingFailed
from promptreel.training.checkpoints import Checkpoints
from promptreel.training.loop import Loop, Plan, rate_share
from promptreel.training.task import Batch, Gradients, Group
from tests.training.orders import Parent

STEPS = 100


class Valley:
    """One number, whose loss is infinite outside of -limit to limit, and least at 0."""

    leaves_out_motion = False

    def __init__(self, *, start: float, limit: float, rate: float) -> None:
        self.place = nn.Parameter(torch.tensor([start]))
        self.limit = limit
        self.groups = (Group("trained", rate, {"place": self.place}),)
        self.parts: list[int] = []

    def draw(self, generator: torch.Generator) -> Batch:
        return Batch(*(torch.rand(4, generator=generator) for _ in range(4)))

    def measure(self, batch: Batch, parts: int) -> tuple[float, Gradients]:  # noqa: ARG002
        self.parts.append(parts)
        loss = self.place.square().sum() + (0.0 if abs(self.place.item()) < self.limit else float("inf"))
        (gradient,) = torch.autograd.grad(loss, [self.place])
        return float(loss), {"place": gradient}

    def validate(self) -> float | None:
        return None


def make_loop(task: Valley, folder: Path, parent: Parent, parts: int = 1) -> Loop:
    plan = Plan(steps=STEPS, parts=parts, seed=0, checkpoint_seconds=1e9, facts={})
    return Loop(task, plan, Checkpoints(folder), parent)


def test_training_that_leaves_the_valley_goes_back_and_stays_at_half_the_rate(tmp_path: Path) -> None:
    """The rate rises: with all of it, a step leaves the valley, and with half of it none does."""
    task, parent = Valley(start=0.01, limit=0.2, rate=1.2), Parent()
    make_loop(task, tmp_path, parent).run()

    assert [(each["step"], each["learning_rate"]) for each in parent.named("rolled back")] == [(0, 0.6)]
    assert parent.named("step")[-1]["step"] == STEPS
    assert abs(float(task.place)) < 0.1


def test_training_that_leaves_it_again_fails(tmp_path: Path) -> None:
    task, parent = Valley(start=0.01, limit=0.1, rate=5.0), Parent()
    with pytest.raises(TrainingFailed, match="lower learning_rate"):
        make_loop(task, tmp_path, parent).run()
    assert len(parent.named("rolled back")) == 1


def test_batch_is_divided_further_when_memory_is_short(tmp_path: Path) -> None:
    class Small(Valley):
        def measure(self, batch: Batch, parts: int) -> tuple[float, Gradients]:
            if parts < 4:
                self.parts.append(parts)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().measure(batch, parts)

    task = Small(start=0.3, limit=1.0, rate=0.01)
    make_loop(task, tmp_path, Parent()).run()
    assert task.parts == [1, 2, *([4] * STEPS)]


def test_checkpoint_that_cannot_be_written_leaves_the_older_ones(tmp_path: Path) -> None:
    task, parent = Valley(start=0.3, limit=1.0, rate=0.01), Parent()
    loop = make_loop(task, tmp_path, parent)
    loop.run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
        with pytest.raises(StorageFailed, match="cannot be written"):
            make_loop(task, tmp_path, Parent()).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_rate_rises_stays_and_falls() -> None:
    shares = [rate_share(step, 400) for step in range(400)]

    assert shares[0] == 1 / 20
    assert shares[20:300] == [1.0] * 280
    assert shares[-1] == 1 / 100
    assert all(0 < share <= 1 for steps in (1, 2, 3) for share in [rate_share(step, steps) for step in range(steps)])
