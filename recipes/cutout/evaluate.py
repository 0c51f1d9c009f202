"""Measures the packaged model with the service's own engine: do clips show what their prompts say, and how do they look?

probes.py and looks.py measure three kinds of clips: drawn ones, drawn ones that went through the VAE, and generated ones. The
first two show how far the probe can be trusted.
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
from recipes.cutout.probes import FRAMES, LABELS, Probe, judge, labels_of, load_probe, title
from recipes.cutout.vae import draw_frames, psnr
from recipes.cutout.world import SIZE, draw_clip, pick_scene, scaled

DRAWN_CLIPS = 400
UNSEEN_FRAMES = 256
STEPS = 20


@dataclass(frozen=True)
class Question:
    """One prompt of the evaluation and what its clip should show."""

    number: int
    prompt: str
    held_out: bool
    expected: dict[str, str]


def questions(count: int) -> list[Question]:
    """Fixed prompts. Every third one is of a held-out color-thing pair."""
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
    """Several clips together: the share of right answers by label, and the mean looks."""

    clips: int
    right: dict[str, float]
    looks: Looks


@dataclass(frozen=True)
class Report:
    """Generated clips of two kinds, drawn clips, drawn clips through the VAE, and the VAE's PSNR in dB."""

    trained_pairs: Judgement
    held_out_pairs: Judgement
    drawn: Judgement
    through_vae: Judgement
    vae_psnr: float


def evaluate(folder: Path, *, clips: int) -> Report:
    """Generates and judges clips. Keeps the answers in `folder`, so that a stopped run continues."""
    probe = load_probe(folder)
    engine = open_engine(folder)
    drawn, through_vae = check_probe(probe, engine)
    print(f"drawn clips: {_row(drawn)}\ndrawn clips through the VAE: {_row(through_vae)}", flush=True)
    asked = questions(clips)
    answers = answer_all(asked, engine, probe, folder / "evaluate" / DEFAULT_SCHEDULER)
    return Report(
        trained_pairs=_judge_all([(q, answers[q.number]) for q in asked if not q.held_out]),
        held_out_pairs=_judge_all([(q, answers[q.number]) for q in asked if q.held_out]),
        drawn=drawn,
        through_vae=through_vae,
        vae_psnr=measure_psnr(engine),
    )


def open_engine(folder: Path) -> Engine:
    """The service's engine, with only the packaged model."""
    return Engine(ModelRegistry(built_in=BUILT_IN.parent, models_dir=folder / "no-other-models"), pick_device())


def check_probe(probe: Probe, engine: Engine) -> tuple[Judgement, Judgement]:
    """Judges drawn clips, as drawn and through the VAE."""
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
    """Frames uint8 [T, H, W, 3] through the packaged VAE and back, at the packaged model's own size."""
    model = engine.load("cutout")
    frames = scaled(frames, model.card.native_width or SIZE)
    latents = model.encode_init(torch.from_numpy(frames)).latents
    assert latents is not None
    return torch.cat(list(model.decode(latents, torch.Generator()))).numpy()


def measure_psnr(engine: Engine) -> float:
    """PSNR in dB of unseen frames through the packaged VAE. One in eight shows a held-out pair."""
    rng = random.Random("unseen frames")
    frames = torch.cat([draw_frames(rng, UNSEEN_FRAMES * 7 // 8), draw_frames(rng, UNSEEN_FRAMES // 8, held_out=True)])
    drawn = ((frames.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    back = _round_trip(engine, drawn)
    before, after = (torch.from_numpy(part).float() / 127.5 - 1 for part in (scaled(drawn, back.shape[1]), back))
    return psnr(before, after)


def answer_all(asked: Sequence[Question], engine: Engine, probe: Probe, folder: Path) -> dict[int, Answer]:
    """Generates and judges each question's clip with the scheduler that `folder` is named after.

    Saves each answer, and a picture of four frames, at once. Reads answers that an earlier run saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{engine.load('cutout').model_hash[:12]}.jsonl"
    answers = _read_answers(log)
    for question in asked:
        if question.number in answers:
            continue
        frames = generate(engine, question.prompt, question.number, folder.name)
        answer = answers[question.number] = _answer(probe, engine, frames)
        Image.fromarray(np.concatenate(frames[::5], 1)).save(folder / f"{question.number:04}.png")
        with log.open("a") as file:
            file.write(json.dumps({"number": question.number} | asdict(answer)) + "\n")
        if question.number % 25 == 24:
            done = [(q, answers[q.number]) for q in asked if q.number in answers]
            print(f"{len(done)} clips: {_row(_judge_all(done))}", flush=True)
    return answers


def generate(engine: Engine, prompt: str, seed: int, scheduler: str) -> np.ndarray:
    """One clip of the packaged model, uint8 [16, H, W, 3]. All other parameters are the service's defaults."""
    params = VideoParams(
        model_id="cutout", prompt=prompt, num_frames=FRAMES, scheduler=scheduler, num_inference_steps=STEPS, seed=seed
    )
    frames: np.ndarray = engine.generate(params, _ignore).clip.frames
    return frames


def _answer(probe: Probe, engine: Engine, frames: np.ndarray) -> Answer:
    """Judges one clip. Runs in the engine's row threads, because other threads that compute would slow them down."""
    return engine.compute.run(lambda: Answer(judge(probe, frames[None])[0], look_at(frames)))


def _ignore(_stage: JobStage, _share: float) -> None:
    """Progress is not needed here."""


def _read_answers(log: Path) -> dict[int, Answer]:
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {row["number"]: Answer(row["seen"], Looks(**row["looks"])) for row in rows}


def shares(pairs: Sequence[tuple[Question, Answer]]) -> dict[str, float]:
    """For each label, the share of clips in which the probe sees what was asked for."""
    return {name: sum(q.expected[name] == a.seen[name] for q, a in pairs) / max(1, len(pairs)) for name in LABELS}


def _judge_all(pairs: Sequence[tuple[Question, Answer]]) -> Judgement:
    return Judgement(len(pairs), shares(pairs), mean([answer.looks for _, answer in pairs]))


def _row(judgement: Judgement) -> str:
    return ", ".join(
        [f"{title(label)} {share:.1%}" for label, share in judgement.right.items()]
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
    names = [*map(title, LABELS), *asdict(report.drawn.looks)]
    lines = [f"| {DEFAULT_SCHEDULER}, {STEPS} steps, guidance 7.5 | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for kind, judgement in rows.items():
        values = [f"{judgement.right[name]:.1%}" for name in LABELS]
        values += [f"{value:.2f}" for value in asdict(judgement.looks).values()]
        lines.append(f"| {kind} ({judgement.clips}) | " + " | ".join(values) + " |")
    return "\n".join([*lines, "", f"VAE: {report.vae_psnr:.1f} dB PSNR on {UNSEEN_FRAMES} unseen frames."])


def contact_sheet(folder: Path, target: Path) -> None:
    """Writes the first clips of an evaluation, four frames of each. A row has two trained pairs and a held-out one."""
    rows, columns = 12, 3
    pictures = [np.asarray(Image.open(folder / f"{number:04}.png")) for number in range(rows * columns)]
    lines = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(lines, 0)).save(target, optimize=True)
