"""Measures clips of two things: does each half show the thing and the color that the prompt names for it?

The probe (probes.py) knows only clips of one thing, so it judges each half alone, enlarged. It is checked on drawn clips of two
things.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from promptreel.generation.engine import Engine
from promptreel.jobs.params import DEFAULT_SCHEDULER
from recipes.cutout.captions import PLACE_WORDS, with_article
from recipes.cutout.evaluate import generate, open_engine
from recipes.cutout.probes import FRAMES, Probe, judge, load_probe
from recipes.cutout.world import Scene, draw_clip, pick_scene

CROP = 0.68  # of a clip's side; a thing of a pair is smaller than a single one by the same factor
MIDDLE = 0.525  # of a clip's side, from the top: the mean height of things
DRAWN_CLIPS = 100


@dataclass(frozen=True)
class PairReport:
    """The share of clips in which both things, and their colors, are right."""

    clips: int
    generated: float
    drawn: float


def evaluate_pairs(folder: Path, *, clips: int) -> PairReport:
    """Generates and judges clips. Keeps the answers in `folder`, so that a stopped run continues."""
    probe, engine = load_probe(folder), open_engine(folder)
    scenes = [pair_scene(f"drawn pair {number}") for number in range(DRAWN_CLIPS)]
    drawn = [both_right(engine, probe, scene, draw_clip(scene, FRAMES)) for scene in scenes]
    generated = _answer_all(engine, probe, folder / "evaluate" / f"pairs-{DEFAULT_SCHEDULER}", clips)
    return PairReport(clips, sum(generated) / max(1, clips), sum(drawn) / DRAWN_CLIPS)


def _answer_all(engine: Engine, probe: Probe, folder: Path, clips: int) -> list[bool]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{engine.load('cutout').model_hash[:12]}.jsonl"
    answers: list[bool] = [json.loads(line) for line in log.read_text().splitlines()][:clips] if log.exists() else []
    for number in range(len(answers), clips):
        scene = pair_scene(f"evaluate pair {number}")
        answers.append(both_right(engine, probe, scene, generate(engine, pair_prompt(scene), number, DEFAULT_SCHEDULER)))
        with log.open("a") as file:
            file.write(f"{json.dumps(answers[-1])}\n")
    return answers


def pair_scene(seed: str) -> Scene:
    """Two different things of different colors, which stand still side by side. No color-thing pair is a held-out one."""
    rng = random.Random(seed)
    while True:
        scene = pick_scene(rng, pairs=100)
        left, right = (replace(actor, motion="still", facing_right=True) for actor in scene.actors)
        if left.thing != right.thing and left.colour != right.colour:
            return replace(scene, actors=(left, right))


def pair_prompt(scene: Scene) -> str:
    """Names the left thing first, as training captions do."""
    things = [with_article(f"{actor.colour} {actor.thing}") for actor in scene.actors]
    return f"{' and '.join(things)} {PLACE_WORDS[scene.place][0]}"


def both_right(engine: Engine, probe: Probe, scene: Scene, frames: np.ndarray) -> bool:
    """Judges both halves. Runs in the engine's row threads, because other threads that compute would slow them down."""
    seen = engine.compute.run(lambda: judge(probe, halves(frames)))
    return all(half["thing"] == a.thing and half["colour"] == a.colour for half, a in zip(seen, scene.actors, strict=True))


def halves(frames: np.ndarray) -> np.ndarray:
    """The left and the right half of a clip uint8 [T, S, S, 3], as square clips [2, T, n, n, 3], where n is 0.68 S.

    A half is only 0.5 S wide, so copies of its outermost columns fill the rest.
    """
    side = frames.shape[2]
    wide = round(side * CROP)
    top = round(side * MIDDLE - wide / 2)
    missing = wide - side // 2
    padding = ((0, 0), (0, 0), (missing // 2, missing - missing // 2), (0, 0))
    parts = (frames[:, top : top + wide, : side // 2], frames[:, top : top + wide, side - side // 2 :])
    return np.stack([np.pad(part, padding, mode="edge") for part in parts])


def pairs_line(report: PairReport) -> str:
    return (
        f"Two things in one clip ({report.clips} clips): both right in {report.generated:.1%}; the probe on drawn clips of two"
        f" things: {report.drawn:.1%}."
    )
