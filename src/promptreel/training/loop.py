"""The steps of a training: AdamW on a task's gradients, training checkpoints, validation and pauses for samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from promptreel.errors import OutOfMemory, TrainingFailed
from promptreel.generation.failures import is_out_of_memory
from promptreel.training.checkpoints import Checkpoints, Saved
from promptreel.training.task import Batch, Gradients, Group, Task

SAMPLES = 8
LONGEST_GRADIENT = 1.0
WEIGHT_DECAY = 1e-2
SMOOTHING = 0.98
"""Of the loss that is told: single steps differ much, by the noise levels that they drew."""
WARM_UP, DECAY = 1 / 20, 1 / 4
"""Shares of the steps over which the rate rises from 0, and falls to 0."""
SECONDS_BETWEEN_STEPS_TOLD = 0.25
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Talk(Protocol):
    """The other end of the training's process."""

    def say(self, event: str, **facts: Any) -> None: ...

    def take(self) -> Mapping[str, Any] | None:
        """The next command, if there is one."""

    def wait(self) -> Mapping[str, Any]:
        """The next command."""


class Stopped(Exception):
    """Ends the training after a command. A training checkpoint was saved."""


class Finished(Exception):
    """Ends the training early after a command, with what it has learned so far. A training checkpoint was saved."""


class NotFinite(Exception):
    """The loss or its gradient is infinite or no number."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`steps` in all; `parts`: how many forwards a batch is divided into. `facts`: kept in each training checkpoint.
    `export`: writes the weights as they are at a step, and returns the file's name; None if no samples are wanted."""

    steps: int
    parts: int
    seed: int
    checkpoint_seconds: float
    facts: Mapping[str, Any]
    export: Callable[[int], str] | None = None
    forget: Callable[[str], None] = lambda _file: None


class Loop:
    """Trains a task to its last step. Two loops with the same task and seed have the same bits at the same step, whether they
    went there at once or from a training checkpoint."""

    def __init__(self, task: Task, plan: Plan, checkpoints: Checkpoints, talk: Talk) -> None:
        self._task, self._plan, self._checkpoints, self._talk = task, plan, checkpoints, talk
        self.step = 0
        self.loss: float | None = None
        self._rate_share = 1.0
        self._parts = plan.parts
        self._validated_first: float | None = None
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group.weights.values())} for group in task.groups], weight_decay=WEIGHT_DECAY
        )
        self._saved_at, self._saved_when = -1, time.monotonic()
        self._told_when = 0.0
        self._seconds: float | None = None
        self._pauses = {math.ceil(number * plan.steps / SAMPLES) for number in range(SAMPLES + 1)}

    def run(self) -> None:
        """Raises Stopped, TrainingFailed, OutOfMemory, StorageFailed and DiskFull."""
        if self._saved_at < 0:
            self._save()
        while True:
            try:
                self._train()
            except NotFinite:
                self._roll_back()
            except Finished:
                return
            else:
                return

    def restore(self, name: str, saved: Saved) -> None:
        """Goes on from a training checkpoint. Raises TrainingFailed if it is of another training."""
        state = saved.state
        try:
            if state["facts"] != self._plan.facts:
                raise TrainingFailed(f"The training checkpoint {name} is of another training. Start this one anew.")
            with torch.no_grad():
                for group, settings in zip(self._task.groups, self._optimizer.param_groups, strict=True):
                    stored, moments = saved.tensors[group.file], saved.tensors["optimizer"]
                    for weights, (key, weight) in zip(settings["params"], group.weights.items(), strict=True):
                        weight.copy_(stored[key])
                        self._optimizer.state[weights] = _moments_of(key, moments, weight)
            self._generator.set_state(torch.frombuffer(bytearray.fromhex(state["generator"]), dtype=torch.uint8))
            self.step, self.loss, self._parts = int(state["step"]), state["loss"], int(state["parts"])
            self._rate_share, self._validated_first = float(state["rate_share"]), state["validated_first"]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise TrainingFailed(f"The training checkpoint {name} is damaged. Start the training anew.") from error
        self._saved_at, self._saved_when = self.step, time.monotonic()

    def _train(self) -> None:
        while True:
            if self.step in self._pauses:
                if self.step != self._saved_at:
                    self._save()
                self._validate()
                self._show()
            if self.step >= self._plan.steps:
                return
            began = time.monotonic()
            loss = self._take_step()
            self._note(loss, time.monotonic() - began)
            while (command := self._talk.take()) is not None:
                self._obey(command)
            if time.monotonic() - self._saved_when >= self._plan.checkpoint_seconds:
                self._save()

    def _take_step(self) -> float:
        loss, gradients = self._measure(self._task.draw(self._generator))
        if not math.isfinite(loss):
            raise NotFinite
        share = self._rate_share * rate_share(self.step, self._plan.steps)
        for group, settings in zip(self._task.groups, self._optimizer.param_groups, strict=True):
            _set_gradients(group, gradients)
            norm = nn.utils.clip_grad_norm_(list(group.weights.values()), LONGEST_GRADIENT)
            if not bool(norm.isfinite()):
                raise NotFinite
            settings["lr"] = group.learning_rate * share
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        return loss

    def _measure(self, batch: Batch) -> tuple[float, Gradients]:
        """With half as many rows at once if the device has too little memory; the same rows all the same."""
        while True:
            try:
                return self._task.measure(batch, self._parts)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self._parts >= len(batch):
                    raise OutOfMemory(
                        "There is too little memory to train this model on examples of this size: choose a smaller width and "
                        "height, or fewer frames."
                    ) from error
            self._parts = min(len(batch), 2 * self._parts)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _note(self, loss: float, seconds: float) -> None:
        weight = min(SMOOTHING, 1 - 1 / self.step)
        self.loss = loss if self.loss is None else weight * self.loss + (1 - weight) * loss
        self._seconds = seconds if self._seconds is None else 0.95 * self._seconds + 0.05 * seconds
        now = time.monotonic()
        if now - self._told_when >= SECONDS_BETWEEN_STEPS_TOLD or self.step == self._plan.steps:
            self._told_when = now
            self._talk.say(
                "step", step=self.step, steps=self._plan.steps, loss=self.loss, seconds_per_step=round(self._seconds, 4)
            )

    def _obey(self, command: Mapping[str, Any]) -> None:
        match command.get("command"):
            case "checkpoint":
                self._save()
            case "stop":
                self._save()
                raise Stopped
            case "finish":
                self._save()
                raise Finished
            case "named":
                self._checkpoints.forget_older(str(command.get("name")))
            case _:  # such as a late "go on"
                pass

    def _save(self) -> None:
        """Says the name of a training checkpoint of this step; saves it unless it is there."""
        if self.step != self._saved_at:
            self._checkpoints.save(Saved(tensors=self._tensors(), state=self._state()))
        self._saved_at, self._saved_when = self.step, time.monotonic()
        self._talk.say("checkpoint", step=self.step, name=name_of(self.step), loss=self.loss)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        tensors: dict[str, dict[str, Tensor]] = {group.file: dict(group.weights) for group in self._task.groups}
        tensors["optimizer"] = {
            f"{key}/{moment}": self._optimizer.state[weight][moment]
            for group in self._task.groups
            for key, weight in group.weights.items()
            if self._optimizer.state.get(weight)
            for moment in _MOMENTS
        }
        return tensors

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "generator": self._generator.get_state().numpy().tobytes().hex(),
            "loss": self.loss,
            "parts": self._parts,
            "rate_share": self._rate_share,
            "validated_first": self._validated_first,
            "facts": dict(self._plan.facts),
        }

    def _validate(self) -> None:
        loss = self._task.validate()
        if loss is None:
            return
        if self._validated_first is None:
            self._validated_first = loss
        self._talk.say("validation", step=self.step, loss=loss, ratio=loss / self._validated_first)

    def _show(self) -> None:
        """Writes the weights as they are, and waits until a sample was made of them."""
        if self._plan.export is None:
            return
        file = self._plan.export(self.step)
        self._talk.say("sample", step=self.step, file=file)
        while (command := self._talk.wait()).get("command") != "go on":
            self._obey(command)
        self._plan.forget(file)

    def _roll_back(self) -> None:
        """To the last training checkpoint, with half the rate; but only once."""
        if self._rate_share < 1:
            raise TrainingFailed(
                f"The loss is no finite number after step {self.step}, at half the learning rate too. Train with a lower "
                "learning_rate, or without the examples that differ most from the others."
            )
        name = name_of(self._saved_at)
        self.restore(name, self._checkpoints.load(name))
        self._rate_share /= 2
        self._talk.say("rolled back", step=self.step, learning_rate=self._task.groups[0].learning_rate * self._rate_share)


def name_of(step: int) -> str:
    """The name of a training checkpoint."""
    return f"step-{step:06d}"


def rate_share(step: int, steps: int) -> float:
    """Of the learning rate, at a step: rises, stays at 1, and falls towards 0."""
    return min(1.0, (step + 1) / max(1.0, WARM_UP * steps), (steps - step) / max(1.0, DECAY * steps))


def _set_gradients(group: Group, gradients: Gradients) -> None:
    for name, weight in group.weights.items():
        gradient = gradients.get(name)
        weight.grad = None if gradient is None else gradient.to(weight.dtype)


def _moments_of(key: str, moments: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of a weight; empty if it was not trained yet."""
    if f"{key}/step" not in moments:
        return {}
    found = {moment: moments[f"{key}/{moment}"].clone() for moment in _MOMENTS}
    return {name: tensor if name == "step" else tensor.to(like.device) for name, tensor in found.items()}
