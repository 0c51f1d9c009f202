"""Measures the packaged model with each of the 18 schedulers, with the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from promptreel.jobs.params import SCHEDULERS
from recipes.cutout.evaluate import STEPS, answer_all, open_engine, questions, shares
from recipes.cutout.probes import LABELS, load_probe, title

PAGE = Path(__file__).parents[2] / "docs" / "schedulers.md"
SHEET = PAGE.with_suffix(".webp")  # a twelfth of a PNG's size
NAME_WIDTH = 200
CLIPS_A_ROW = 3
WEAK = 0.8  # of the best scheduler's share; the page names the schedulers under this

TEXT = """# The schedulers on the built-in model

Each of the 18 schedulers made {clips} clips of 16 frames from the same prompts and seeds, in {steps} steps at guidance 7.5.
The figures are the shares of clips in which a probe (recipes/cutout/probes.py) sees what the prompt asks for. One clip is
{one:.1%}, so small differences mean nothing. `python -m recipes.cutout schedulers` writes this page.

{table}

{weak}

![The first {clips_a_row} clips of each, four frames of each clip](schedulers.webp)
"""


def compare_schedulers(folder: Path, *, clips: int) -> str:
    """Generates and judges the clips that `folder` lacks. Writes docs/schedulers.md and its picture. Returns the table."""
    probe = load_probe(folder)
    engine = open_engine(folder)
    asked = questions(clips)
    measured = {}
    for scheduler in SCHEDULERS:
        answers = answer_all(asked, engine, probe, folder / "evaluate" / scheduler)
        measured[scheduler] = shares([(question, answers[question.number]) for question in asked])
        print(scheduler, measured[scheduler], flush=True)
    PAGE.write_text(
        TEXT.format(
            clips=clips, steps=STEPS, one=1 / clips, table=table(measured), weak=name_weak(measured), clips_a_row=CLIPS_A_ROW
        )
    )
    sheet(folder / "evaluate", SHEET)
    return table(measured)


def table(measured: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of each scheduler's shares."""
    lines = [f"| scheduler | {' | '.join(map(title, LABELS))} |", "|---|" + "---|" * len(LABELS)]
    lines += [f"| {name} | " + " | ".join(f"{row[label]:.0%}" for label in LABELS) + " |" for name, row in measured.items()]
    return "\n".join(lines)


def name_weak(measured: Mapping[str, Mapping[str, float]]) -> str:
    """A sentence that names the schedulers with a share under WEAK of the best one's."""
    best = {label: max(row[label] for row in measured.values()) for label in LABELS}
    found = [
        f"{name} ({title(label)} {row[label]:.0%})"
        for name, row in measured.items()
        for label in LABELS
        if row[label] < WEAK * best[label]
    ]
    return f"Under {WEAK:.0%} of the best: {', '.join(found)}." if found else f"None is under {WEAK:.0%} of the best."


def sheet(folder: Path, target: Path) -> None:
    """One row for each scheduler: its name, and four frames of each of its first clips."""
    rows = []
    for scheduler in SCHEDULERS:
        pictures = [np.asarray(Image.open(folder / scheduler / f"{number:04}.png")) for number in range(CLIPS_A_ROW)]
        name = Image.new("RGB", (NAME_WIDTH, pictures[0].shape[0]), "white")
        ImageDraw.Draw(name).text((8, name.height // 2 - 6), scheduler.removesuffix("Scheduler"), fill="black")
        rows.append(np.concatenate([np.asarray(name), *pictures], 1))
    Image.fromarray(np.concatenate(rows, 0)).save(target, quality=80, method=6)
