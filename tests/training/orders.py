"""Orders of tiny trainings, and what they say."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from promptreel.jobs.training_params import Example, ExampleKind, TrainingParams
from promptreel.training.orders import ModelPlaces, Order
from promptreel.training.presets import PRESETS
from promptreel.training.training import train

STEPS = 8
SIDE = 16  # 8x8 latents
FRAMES = 3


def draw_pictures(folder: Path, count: int = 3, side: int = SIDE) -> list[str]:
    """A bright square on noise."""
    files = []
    for number in range(count):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 80, (side, side, 3), np.uint8)
        pixels[3 : side // 2, number : number + side // 2] = (250, 200, 30)
        files.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(files[-1])
    return files


def draw_clips(folder: Path, count: int = 2) -> list[str]:
    """A square that moves to the right."""
    files = []
    for number in range(count):
        files.append(str(folder / f"{number}.mp4"))
        with av.open(files[-1], "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = stream.height = 2 * SIDE
            stream.pix_fmt = "yuv420p"
            for index in range(FRAMES + 2):
                pixels = np.full((2 * SIDE, 2 * SIDE, 3), 40, np.uint8)
                pixels[8 + 4 * number : 20, 3 * index : 3 * index + 10] = 240
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return files


def make_order(models: Path, folder: Path, preset: str, files: list[str], **changed: Any) -> Order:
    """`changed`: fields of the order or of its params. `models` holds the checkpoint `tiny`."""
    kind = PRESETS[preset].examples
    rate = 2e-5 if PRESETS[preset].is_whole else 2.5e-4  # for a UNet that is 40 times as narrow
    params = TrainingParams(
        model_id="mine",
        base="tiny",
        preset=preset,
        examples=tuple(Example(file, kind, "", "0" * 64) for file in files),
        instance_prompt="a photo of a sks cat",
        trigger="sks",
        steps=STEPS,
        batch_size=1 if kind is ExampleKind.CLIP else 2,
        rank=4,
        learning_rate=rate,
        width=SIDE,
        height=SIDE,
        num_frames=FRAMES,
    )
    fields = {name: changed.pop(name) for name in list(changed) if name in Order.__dataclass_fields__}
    order = Order(
        params=replace(params, **changed),
        examples=tuple(files),
        models=ModelPlaces(built_in=str(models), models_dir=str(models / "none")),
        device="cpu",
        threads=1,
        folder=str(folder),
    )
    return replace(order, **fields)


@dataclass
class Parent:
    """The other end of a training in this process. `on_event` may return a command for it."""

    on_event: Callable[[Mapping[str, Any]], str | None] = lambda _event: None
    events: list[dict[str, Any]] = field(default_factory=list)
    _commands: deque[dict[str, Any]] = field(default_factory=deque)

    def say(self, event: str, **facts: Any) -> None:
        told = {"event": event, **facts}
        self.events.append(told)
        if (command := self.on_event(told)) is not None:
            self._commands.append({"command": command})

    def take(self) -> Mapping[str, Any] | None:
        return self._commands.popleft() if self._commands else None

    def wait(self) -> Mapping[str, Any]:
        return self._commands.popleft()

    def named(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


def run(order: Order, on_event: Callable[[Mapping[str, Any]], str | None] = lambda _event: None) -> Parent:
    parent = Parent(on_event)
    train(order, parent)
    return parent


def hash_result(folder: Path) -> str:
    """Of the file, or of all files and their names."""
    digest = hashlib.sha256()
    result = folder / "result"
    for path in sorted(result.rglob("*.*")) if result.is_dir() else [folder / "result.safetensors"]:
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()
