"""Measures the packaged model: does a clip show what its prompt says, and how does it look? Through the service's own engine.

First the probe is checked on drawn clips and on drawn clips that went through the VAE; only then does it judge generated ones.
The looks (looks.py) of drawn clips, as drawn and through the VAE, stand beside those of generated ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from recipes.cutout.looks import Looks, look_at, mean
from recipes.cutout.package import BUILT_IN
from recipes.cutout.probes import FRAMES, LABELS, Probe, judge, labels_of, load_probe
from recipes.cutout.vae import draw_frames, psnr
from recipes.cutout.world import SIZE, draw_clip, pick_scene, scaled

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
class Answer:
    """What the probe sees in a clip, and how the clip looks."""

    seen: dict[str, str]
    looks: Looks


@dataclass(frozen=True)
class Judgement:
    """Of some clips together: the share of right answers by kind of label, and the mean looks."""

    clips: int
    right: dict[str, float]
    looks: Looks


@dataclass(frozen=True)
class Report:
    """What is seen in clips of several kinds, and the VAE's PSNR in dB."""

    scheduler: str
    trained_pairs: Judgement
    held_out_pairs: Judgement
    drawn: Judgement
    through_vae: Judgement
    vae_psnr: float


def evaluate(folder: Path, *, clips: int, scheduler: str = DEFAULT_SCHEDULER, steps: int = 20) -> Report:
    """Generates, judges and reports; answers are kept in `folder`, so that a stopped run goes on."""
    probe = load_probe(folder)
    engine = open_engine(folder)
    drawn, through_vae = check_probe(probe, engine)
    print(f"drawn clips: {_row(drawn)}\ndrawn clips through the VAE: {_row(through_vae)}", flush=True)
    asked = questions(clips)
    answers = answer_all(asked, engine, probe, folder / "evaluate" / scheduler, steps)
    return Report(
        scheduler=scheduler,
        trained_pairs=_judge_all([(q, answers[q.number]) for q in asked if not q.held_out]),
        held_out_pairs=_judge_all([(q, answers[q.number]) for q in asked if q.held_out]),
        drawn=drawn,
        through_vae=through_vae,
        vae_psnr=measure_psnr(engine),
    )


def open_engine(folder: Path) -> Engine:
    """The service's engine on the packaged model, and on no other."""
    return Engine(ModelRegistry(built_in=BUILT_IN.parent, models_dir=folder / "no-other-models"), pick_device())


def check_probe(probe: Probe, engine: Engine) -> tuple[Judgement, Judgement]:
    """What is seen in drawn clips, as drawn and as the VAE gives them back."""
    rng = random.Random("check the probe")
    scenes = [pick_scene(rng, held_out=i % 8 == 0) for i in range(DRAWN_CLIPS)]
    results = []
    for through_vae in (False, True):
        pairs = []
        for scene in scenes[: DRAWN_CLIPS // 4] if through_vae else scenes:
            frames = draw_clip(scene, FRAMES)
            answer = _answer(probe, engine, _round_trip(engine, frames) if through_vae else frames)
            pairs.append((Question(0, "", False, labels_of(scene)), answer))
        results.append(_judge_all(pairs))
    return results[0], results[1]


def _round_trip(engine: Engine, frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] through the packaged VAE and back, in the size that the packaged model is made for."""
    model = engine.load("cutout")
    frames = scaled(frames, model.card.native_width or SIZE)
    latents = model.encode(torch.from_numpy(frames))
    return torch.cat(list(model.decode(latents, torch.Generator()))).numpy()


def measure_psnr(engine: Engine) -> float:
    """PSNR in dB of unseen frames through the packaged VAE, held-out pairs among them."""
    rng = random.Random("unseen frames")
    frames = torch.cat([draw_frames(rng, UNSEEN_FRAMES * 7 // 8), draw_frames(rng, UNSEEN_FRAMES // 8, held_out=True)])
    drawn = ((frames.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    back = _round_trip(engine, drawn)
    before, after = (torch.from_numpy(part).float() / 127.5 - 1 for part in (scaled(drawn, back.shape[1]), back))
    return psnr(before, after)


def answer_all(asked: Sequence[Question], engine: Engine, probe: Probe, folder: Path, steps: int) -> dict[int, Answer]:
    """Generates each question's clip and asks the probe; answers and small pictures are saved one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{engine.load('cutout').model_hash[:12]}.jsonl"
    answers = _read_answers(log)
    for question in asked:
        if question.number in answers:
            continue
        frames = generate(engine, question.prompt, question.number, folder.name, steps)
        answer = answers[question.number] = _answer(probe, engine, frames)
        Image.fromarray(np.concatenate(frames[::5], 1)).save(folder / f"{question.number:04}.png")
        with log.open("a") as file:
            file.write(json.dumps({"number": question.number} | asdict(answer)) + "\n")
        if question.number % 25 == 24:
            done = [(q, answers[q.number]) for q in asked if q.number in answers]
            print(f"{len(done)} clips: {_row(_judge_all(done))}", flush=True)
    return answers


def generate(engine: Engine, prompt: str, seed: int, scheduler: str, steps: int) -> np.ndarray:
    """One clip of the packaged model, uint8 [16, H, W, 3], with everything else as the service has it."""
    params = VideoParams(
        model_id="cutout", prompt=prompt, num_frames=FRAMES, scheduler=scheduler, num_inference_steps=steps, seed=seed
    )
    frames: np.ndarray = engine.generate(params, _ignore).clip.frames
    return frames


def _answer(probe: Probe, engine: Engine, frames: np.ndarray) -> Answer:
    """What one clip shows and how it looks. Computed where the engine does: two threads that do so hinder each other."""
    return engine.compute.run(lambda: Answer(judge(probe, frames[None])[0], look_at(frames)))


def _ignore(_stage: JobStage, _share: float) -> None:
    """Nobody waits for a progress bar here."""


def _read_answers(log: Path) -> dict[int, Answer]:
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {row["number"]: Answer(row["seen"], Looks(**row["looks"])) for row in rows}


def shares(pairs: Sequence[tuple[Question, Answer]]) -> dict[str, float]:
    """The share of clips in which each kind of label is what was asked for."""
    return {name: sum(q.expected[name] == a.seen[name] for q, a in pairs) / max(1, len(pairs)) for name in LABELS}


def _judge_all(pairs: Sequence[tuple[Question, Answer]]) -> Judgement:
    return Judgement(len(pairs), shares(pairs), mean([answer.looks for _, answer in pairs]))


def _row(judgement: Judgement) -> str:
    return ", ".join(
        [f"{name} {share:.1%}" for name, share in judgement.right.items()]
        + [f"{name} {value:.2f}" for name, value in asdict(judgement.looks).items()]
    )


def table(report: Report) -> str:
    """The report as a Markdown table."""
    rows = {
        "generated clips, trained pairs": report.trained_pairs,
        "generated clips, held-out pairs": report.held_out_pairs,
        "drawn clips": report.drawn,
        "drawn clips through the VAE": report.through_vae,
    }
    names = [*LABELS, *asdict(report.drawn.looks)]
    lines = [f"| {report.scheduler}, 20 steps, guidance 7.5 | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for title, judgement in rows.items():
        values = [f"{judgement.right[name]:.1%}" for name in LABELS]
        values += [f"{value:.2f}" for value in asdict(judgement.looks).values()]
        lines.append(f"| {title} ({judgement.clips}) | " + " | ".join(values) + " |")
    return "\n".join([*lines, "", f"VAE: {report.vae_psnr:.1f} dB PSNR on {UNSEEN_FRAMES} unseen frames."])


def contact_sheet(folder: Path, target: Path, *, rows: int = 12, columns: int = 3) -> None:
    """The first clips of an evaluation, four frames of each, in rows: trained, trained and held-out pair."""
    pictures = [np.asarray(Image.open(folder / f"{number:04}.png")) for number in range(rows * columns)]
    lines = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(lines, 0)).save(target, optimize=True)
