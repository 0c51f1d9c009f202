"""Measures the packaged model: does a clip show what its prompt says? Through the service's own engine, on 300 prompts.

First the probe is checked on drawn clips and on drawn clips that went through the VAE; only then does it judge generated ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from promptreel.generation.devices import pick_device
from promptreel.generation.engine import Engine
from promptreel.jobs.job import JobStage
from promptreel.jobs.params import DEFAULT_SCHEDULER, VideoParams
from promptreel.models.registry import ModelRegistry
from recipes.cutout.captions import plain_caption
from recipes.cutout.package import BUILT_IN
from recipes.cutout.probes import FRAMES, LABELS, Probe, judge, labels_of, load_probe
from recipes.cutout.vae import draw_frames, psnr
from recipes.cutout.world import draw_clip, pick_scene

DRAWN_CLIPS = 400
UNSEEN_FRAMES = 256


@dataclass(frozen=True)
class Question:
    """One prompt of the evaluation and what its clip should show."""

    number: int
    prompt: str
    held_out: bool
    expected: dict[str, str]


def questions(count: int) -> list[Question]:
    """The fixed prompts: every third one of a colour-thing pair that was never drawn in training."""
    found = []
    for number in range(count):
        rng = random.Random(f"evaluate {number}")
        held_out = number % 3 == 2
        scene = pick_scene(rng, held_out=held_out)
        prompt = plain_caption(scene.actors[0], scene.place)
        found.append(Question(number, prompt, held_out, labels_of(scene)))
    return found


@dataclass(frozen=True)
class Report:
    """Shares of right answers, by kind of label, and the VAE's PSNR in dB."""

    clips: int
    scheduler: str
    seen: dict[str, float]
    held_out: dict[str, float]
    probe_on_drawn: dict[str, float]
    probe_through_vae: dict[str, float]
    vae_psnr: float


def evaluate(folder: Path, *, clips: int, scheduler: str = DEFAULT_SCHEDULER, steps: int = 20) -> Report:
    """Generates, judges and reports; answers are kept in `folder`, so that a stopped run goes on."""
    probe = load_probe(folder)
    engine = Engine(ModelRegistry(built_in=BUILT_IN.parent, models_dir=folder / "no-other-models"), pick_device())
    drawn, through_vae = check_probe(probe, engine)
    print(f"probe on drawn clips: {_row(drawn)}\nprobe on drawn clips through the VAE: {_row(through_vae)}", flush=True)
    asked = questions(clips)
    answers = answer_all(asked, engine, probe, folder / "evaluate" / scheduler, steps)
    return Report(
        clips=clips,
        scheduler=scheduler,
        seen=shares([(q, answers[q.number]) for q in asked if not q.held_out]),
        held_out=shares([(q, answers[q.number]) for q in asked if q.held_out]),
        probe_on_drawn=drawn,
        probe_through_vae=through_vae,
        vae_psnr=measure_psnr(engine),
    )


def check_probe(probe: Probe, engine: Engine) -> tuple[dict[str, float], dict[str, float]]:
    """Right answers on drawn clips, as drawn and as the VAE gives them back."""
    rng = random.Random("check the probe")
    scenes = [pick_scene(rng, held_out=i % 8 == 0) for i in range(DRAWN_CLIPS)]
    results = []
    for through_vae in (False, True):
        pairs = []
        for scene in scenes[: DRAWN_CLIPS // 4] if through_vae else scenes:
            frames = draw_clip(scene, FRAMES)
            seen = _ask(probe, engine, _round_trip(engine, frames) if through_vae else frames)
            pairs.append((Question(0, "", False, labels_of(scene)), seen))
        results.append(shares(pairs))
    return results[0], results[1]


def _round_trip(engine: Engine, frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [T, 96, 96, 3] through the packaged VAE and back."""
    checkpoint = engine.load("cutout")
    return checkpoint.decode(checkpoint.encode(torch.from_numpy(frames))).numpy()


def measure_psnr(engine: Engine) -> float:
    """PSNR in dB of unseen frames through the packaged VAE, held-out pairs among them."""
    rng = random.Random("unseen frames")
    frames = torch.cat([draw_frames(rng, UNSEEN_FRAMES * 7 // 8), draw_frames(rng, UNSEEN_FRAMES // 8, held_out=True)])
    drawn = ((frames.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    back = torch.from_numpy(_round_trip(engine, drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return psnr(frames, back)


def answer_all(asked: Sequence[Question], engine: Engine, probe: Probe, folder: Path, steps: int) -> dict[int, dict[str, str]]:
    """Generates each question's clip and asks the probe; answers and small pictures are saved one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{engine.load('cutout').model_hash[:12]}.jsonl"
    answers = _read_answers(log)
    for question in asked:
        if question.number in answers:
            continue
        params = VideoParams(
            model_id="cutout",
            prompt=question.prompt,
            num_frames=FRAMES,
            scheduler=folder.name,
            num_inference_steps=steps,
            seed=question.number,
        )
        frames = engine.generate(params, _ignore).clip.frames
        answers[question.number] = _ask(probe, engine, frames)
        Image.fromarray(np.concatenate(frames[::5], 1)).save(folder / f"{question.number:04}.png")
        with log.open("a") as file:
            file.write(json.dumps({"number": question.number, "seen": answers[question.number]}) + "\n")
        if question.number % 25 == 24:
            done = [(q, answers[q.number]) for q in asked if q.number in answers]
            print(f"{len(done)} clips: {_row(shares(done))}", flush=True)
    return answers


def _ask(probe: Probe, engine: Engine, frames: np.ndarray) -> dict[str, str]:
    """What the probe sees in one clip. It computes where the engine does: two threads that do so hinder each other."""
    return engine.compute.run(lambda: judge(probe, frames[None])[0])


def _ignore(_stage: JobStage, _share: float) -> None:
    """Nobody waits for a progress bar here."""


def _read_answers(log: Path) -> dict[int, dict[str, str]]:
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {row["number"]: row["seen"] for row in rows}


def shares(pairs: Sequence[tuple[Question, dict[str, str]]]) -> dict[str, float]:
    """The share of clips in which each kind of label is what was asked for."""
    return {name: sum(q.expected[name] == seen[name] for q, seen in pairs) / max(1, len(pairs)) for name in LABELS}


def _row(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in values.items())


def table(report: Report) -> str:
    """The report as a Markdown table."""
    rows = {
        f"generated clips, trained pairs ({report.clips - report.clips // 3})": report.seen,
        f"generated clips, held-out pairs ({report.clips // 3})": report.held_out,
        f"the probe on drawn clips ({DRAWN_CLIPS})": report.probe_on_drawn,
        f"the probe on drawn clips through the VAE ({DRAWN_CLIPS // 4})": report.probe_through_vae,
    }
    names = list(LABELS)
    lines = [f"| {report.scheduler}, 20 steps, guidance 7.5 | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    lines += [f"| {title} | " + " | ".join(f"{values[name]:.1%}" for name in names) + " |" for title, values in rows.items()]
    return "\n".join([*lines, "", f"VAE: {report.vae_psnr:.1f} dB PSNR on {UNSEEN_FRAMES} unseen frames."])


def contact_sheet(folder: Path, target: Path, *, rows: int = 12, columns: int = 3) -> None:
    """The first clips of an evaluation, four frames of each, in rows: trained, trained and held-out pair."""
    pictures = [np.asarray(Image.open(folder / f"{number:04}.png")) for number in range(rows * columns)]
    lines = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(lines, 0)).save(target, optimize=True)
