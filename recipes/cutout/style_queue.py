"""Measures a style in one service's queue: clips of cutout, of cutout with the style's LoRA, and of the style's checkpoint.

The same prompts and seeds are asked of the three in turn, over HTTP. Before, a service that has only the built-in model makes
its clips: what other models there are, and who asked before, must not change a byte of them.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType

import av
import numpy as np
from PIL import Image

from promptreel.client import Client, VideoOptions
from promptreel.demo import running_service
from recipes.cutout.evaluate import STEPS, Question, questions
from recipes.cutout.finetune import GUIDANCE
from recipes.cutout.probes import FRAMES, LABELS, Probe, judge, load_probe, title
from recipes.cutout.styles import IS_NIGHT, NIGHT, PLAIN, by_day, nightness
from recipes.cutout.world import draw_clip, pick_scene, scaled

SHEET = Path(__file__).parents[2] / "docs" / "night.webp"
ROWS = 6
SHOWN = (1, 6, 11)  # frames of a clip
SIDE = 96
GAP = 8  # pixels between the groups
LORA, CHECKPOINT = "night-lora", "night"
OF_ALL = VideoOptions(
    size=f"{SIDE}x{SIDE}", num_frames=FRAMES, num_inference_steps=STEPS, guidance_scale=GUIDANCE, enhance_prompt=False
)
GROUPS: Mapping[str, VideoOptions] = MappingProxyType(
    {
        "`cutout`": OF_ALL | VideoOptions(model="cutout"),
        f"`cutout` with the LoRA `{LORA}`": OF_ALL | VideoOptions(model="cutout", loras=[LORA]),
        f"the checkpoint `{CHECKPOINT}`": OF_ALL | VideoOptions(model=CHECKPOINT),
    }
)
BASE = next(iter(GROUPS))


@dataclass(frozen=True)
class Made:
    """A downloaded clip: frames uint8 [T, H, W, 3], and its file's hash."""

    frames: np.ndarray
    sha256: str


def measure_queue(folder: Path, *, clips: int) -> str:
    """Imports what `style` wrote to `folder`, makes the clips, writes docs/night.webp. Returns the table."""
    asked = questions(clips)
    with tempfile.TemporaryDirectory() as place:
        alone = make_clips(Path(place) / "alone", asked, {BASE: GROUPS[BASE]})
        data_dir = Path(place) / "together"
        for source in (folder / f"{LORA}.safetensors", folder / CHECKPOINT):
            subprocess.run(  # noqa: S603 - our own command
                [sys.executable, "-m", "promptreel.cli", "models", "add", str(source), "--data-dir", str(data_dir)], check=True
            )
        together = make_clips(data_dir, asked, GROUPS)
    sheet(together, SHEET)
    same = sum(one.sha256 == other.sha256 for one, other in zip(alone[BASE], together[BASE], strict=True))
    probe = load_probe(folder)
    return (
        f"{table(asked, together, probe)}\n\n"
        f"{same} of {clips} clips of `cutout` have the bytes that they have without the other models.\n{drawn_line(clips)}"
    )


def make_clips(data_dir: Path, asked: Sequence[Question], groups: Mapping[str, VideoOptions]) -> dict[str, list[Made]]:
    """All clips of a new service. They are queued at once, the groups in turns."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with running_service(data_dir, data_dir.with_suffix(".log")) as url, Client(url, patience=600) as client:
        queued = {
            (group, question.number): client.create(question.prompt, **options | VideoOptions(seed=question.number))
            for question in asked
            for group, options in groups.items()
        }
        made: dict[str, list[Made]] = {group: [] for group in groups}
        for (group, number), video in queued.items():
            made[group].append(read(client.download(client.wait(video), data_dir / f"{number}.mp4")))
    return made


def read(path: Path) -> Made:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return Made(frames, hashlib.sha256(path.read_bytes()).hexdigest())


def table(asked: Sequence[Question], made: Mapping[str, Sequence[Made]], probe: Probe) -> str:
    """A Markdown table: how much of the style the clips of each group have, and how many show what was asked for."""
    names = [name for name in LABELS if name != "place"]
    lines = [
        f"| {len(asked)} clips of | min | median | max | {' | '.join(map(title, names))} |",
        "|---" * (len(names) + 4) + "|",
    ]
    for group, clips in made.items():
        amounts = [nightness(clip.frames) for clip in clips]
        seen = judge(probe, np.stack([clip.frames if group == BASE else by_day(clip.frames) for clip in clips]))
        right = [sum(see[name] == question.expected[name] for see, question in zip(seen, asked, strict=True)) for name in names]
        figures = [f"{min(amounts):.2f}", f"{median(amounts):.2f}", f"{max(amounts):.2f}", *map(str, right)]
        lines.append(f"| {group} | {' | '.join(figures)} |")
    return "\n".join(lines)


def drawn_line(clips: int) -> str:
    """The measure on drawn clips of random scenes, plain and in the style."""
    rng = random.Random("drawn")
    scenes = [pick_scene(rng) for _ in range(10 * clips)]
    plain, night = ([nightness(draw_clip(scene, FRAMES, style)[::5]) for scene in scenes] for style in (PLAIN, NIGHT))
    return (
        f"Of {len(scenes)} drawn clips, plain ones have at most {max(plain):.2f}, those in the style at least "
        f"{min(night):.2f}; the threshold is {IS_NIGHT}."
    )


def sheet(made: Mapping[str, Sequence[Made]], target: Path) -> None:
    """Three frames of each clip; a row for each of the first prompts, side by side the groups."""
    rows = []
    for clips in list(zip(*made.values(), strict=True))[:ROWS]:
        parts = [np.concatenate(scaled(clip.frames, SIDE)[list(SHOWN)], 1) for clip in clips]
        gap = np.full((SIDE, GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([part for clip in parts for part in (clip, gap)][:-1], 1))
    Image.fromarray(np.concatenate(rows, 0)).save(target, quality=80, method=6)
