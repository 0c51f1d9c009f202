"""Trains the built-in model on drawn clips, measures it and writes its files.

    python -m recipes.cutout train --folder train/cutout --minutes 240
    python -m recipes.cutout look --folder train/cutout
    python -m recipes.cutout package --folder train/cutout
    python -m recipes.cutout train --folder train/cutout --stage probe --minutes 20
    python -m recipes.cutout evaluate --folder train/cutout --clips 300
    python -m recipes.cutout schedulers --folder train/cutout --clips 30
    python -m recipes.cutout style night --as lora
    python -m recipes.cutout style night --as checkpoint
    python -m recipes.cutout queue --clips 10

Every command may be stopped at any time; the same command then continues. All run on a CPU and on CUDA. `keep` saves the
averaged weights of an unfinished training beside the recipe, where they can be committed; `take-up` makes a training folder
from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

import diffusers
import transformers

from promptreel.jobs.params import DEFAULT_SCHEDULER
from recipes.cutout.card import write_card
from recipes.cutout.evaluate import contact_sheet, evaluate, table
from recipes.cutout.finetune import LEARNING_RATES, teach
from recipes.cutout.look import look_into
from recipes.cutout.loop import Budget
from recipes.cutout.motion import train_motion
from recipes.cutout.package import BUILT_IN, package, unpack
from recipes.cutout.pairs import evaluate_pairs, pairs_line
from recipes.cutout.picture import train_picture
from recipes.cutout.probes import package_probe, train_probe
from recipes.cutout.progress import keep_progress, take_up_progress
from recipes.cutout.schedulers import compare_schedulers
from recipes.cutout.style_queue import measure_queue
from recipes.cutout.styles import STYLES
from recipes.cutout.vae import train_vae

# Each stage's function, and its share of --minutes.
STAGES = {"vae": (train_vae, 0.2), "picture": (train_picture, 0.4), "motion": (train_motion, 0.4)}
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
SHEET = Path(__file__).parents[2] / "docs" / "cutout.png"


def main() -> None:
    diffusers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options = _parser().parse_args()
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.cutout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train all stages of the model, one stage, or the probe")
    train.add_argument("--stage", choices=[*STAGES, "probe"], help="train only this stage")
    train.add_argument("--minutes", type=float, default=240, help="total time of all stages, or of --stage (default: 240)")
    train.add_argument("--steps", type=int, help="with --stage: the total number of steps, instead of --minutes")
    train.set_defaults(run=_train)
    pack = commands.add_parser("package", help="write the trained model's files into the promptreel package")
    pack.set_defaults(run=lambda options: package(options.folder))
    keep = commands.add_parser("keep", help="save the weights of an unfinished training beside the recipe, in fp16")
    keep.add_argument("--stage", choices=STAGES, required=True, help="the stage to save")
    keep.set_defaults(run=lambda options: keep_progress(options.folder, options.stage))
    take = commands.add_parser("take-up", help="make a training folder from the weights kept beside the recipe")
    take.set_defaults(run=lambda options: take_up_progress(options.folder))
    look = commands.add_parser("look", help="write pictures of what the model can draw so far, and print the VAE's PSNR")
    look.set_defaults(run=lambda options: print(look_into(options.folder)))
    back = commands.add_parser("unpack", help="make a training folder from the packaged model, to train it further")
    back.set_defaults(run=lambda options: unpack(options.folder))
    measure = commands.add_parser("evaluate", help="measure the packaged model and write its card")
    measure.add_argument("--clips", type=int, default=300, help="number of clips (default: 300)")
    measure.set_defaults(run=_evaluate)
    compare = commands.add_parser(
        "schedulers", help="measure the model with each of the 18 schedulers and write docs/schedulers.md"
    )
    compare.add_argument("--clips", type=int, default=30, help="number of clips of each scheduler (default: 30)")
    compare.set_defaults(run=lambda options: print(compare_schedulers(options.folder, clips=options.clips)))
    style, queue = _add_style(commands)
    for command in (train, keep, take, look, pack, back, measure, compare, style, queue):
        command.add_argument(
            "--folder", type=Path, default=Path("train/cutout"), help="weights, data and progress (default: train/cutout)"
        )
    return parser


def _add_style(commands: Commands) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    style = commands.add_parser("style", help="teach a packaged model a style of the world, and write what `models add` takes")
    style.add_argument("style", choices=STYLES, help="the style")
    style.add_argument("--as", dest="form", choices=LEARNING_RATES, required=True, help="what to make of it")
    style.add_argument("--model", type=Path, default=BUILT_IN, help="the model's folder (default: the built-in one)")
    style.add_argument("--minutes", type=float, default=10, help="training time (default: 10)")
    style.add_argument("--steps", type=int, help="the total number of steps, instead of --minutes")
    style.set_defaults(run=_teach)
    queue = commands.add_parser("queue", help="measure the style's LoRA and checkpoint in one service's queue")
    queue.add_argument("--clips", type=int, default=10, help="number of clips of each model (default: 10)")
    queue.set_defaults(run=lambda options: print(measure_queue(options.folder, clips=options.clips)))
    return style, queue


def _budget(options: argparse.Namespace) -> Budget:
    return Budget(steps=options.steps) if options.steps else Budget(minutes=options.minutes)


def _teach(options: argparse.Namespace) -> None:
    made = teach(options.folder, style=options.style, form=options.form, model=options.model, budget=_budget(options))
    print(f"promptreel models add {made}")


def _train(options: argparse.Namespace) -> None:
    alone = _budget(options)
    if options.stage == "probe":
        train_probe(options.folder, alone)
        package_probe(options.folder)
        return
    for name, (train, share) in STAGES.items():
        if options.stage is None:
            train(options.folder, Budget(minutes=options.minutes * share))
        elif options.stage == name:
            train(options.folder, alone)


def _evaluate(options: argparse.Namespace) -> None:
    report = evaluate(options.folder, clips=options.clips)
    pairs = evaluate_pairs(options.folder, clips=max(1, options.clips // 3))
    contact_sheet(options.folder / "evaluate" / DEFAULT_SCHEDULER, SHEET)
    figures = f"{table(report)}\n{pairs_line(pairs)}"
    write_card(options.folder, figures)
    print(figures)


if __name__ == "__main__":
    main()
