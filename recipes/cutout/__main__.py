"""Draws the world of cut-outs, trains the built-in model on it, measures it and writes its files.

    python -m recipes.cutout train --folder train/cutout --minutes 240
    python -m recipes.cutout look --folder train/cutout
    python -m recipes.cutout package --folder train/cutout
    python -m recipes.cutout train --folder train/cutout --stage probe --minutes 20
    python -m recipes.cutout evaluate --folder train/cutout --clips 300
    python -m recipes.cutout schedulers --folder train/cutout --clips 30

Each can be stopped at any time and goes on where it was when it is called again. They run on a CPU or a CUDA device alike.
`keep` puts the averaged weights of a training under way beside the recipe, to be committed; `take-up` makes a training folder
of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import diffusers
import transformers

from recipes.cutout.card import write_card
from recipes.cutout.evaluate import contact_sheet, evaluate, table
from recipes.cutout.look import look_into
from recipes.cutout.loop import Budget
from recipes.cutout.motion import train_motion
from recipes.cutout.package import package, unpack
from recipes.cutout.pairs import evaluate_pairs, pairs_line
from recipes.cutout.picture import train_picture
from recipes.cutout.probes import package_probe, train_probe
from recipes.cutout.progress import keep_progress, take_up_progress
from recipes.cutout.schedulers import compare_schedulers
from recipes.cutout.vae import train_vae

# How a time budget is shared between the stages of the model.
STAGES = {"vae": (train_vae, 0.2), "picture": (train_picture, 0.4), "motion": (train_motion, 0.4)}
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
    parser.set_defaults(folder=Path("train/cutout"))
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train all stages of the model, or one stage, or the probe")
    train.add_argument("--stage", choices=[*STAGES, "probe"], help="only this one")
    train.add_argument("--minutes", type=float, default=240, help="time in all for the stages together, or for the one named")
    train.add_argument("--steps", type=int, help="with --stage: steps in all, instead of a time")
    train.set_defaults(run=_train)
    pack = commands.add_parser("package", help="write the trained model's files into the promptreel package")
    pack.set_defaults(run=lambda options: package(options.folder))
    keep = commands.add_parser("keep", help="put the weights of a training under way beside the recipe, in fp16")
    keep.add_argument("--stage", choices=STAGES, required=True)
    keep.set_defaults(run=lambda options: keep_progress(options.folder, options.stage))
    take = commands.add_parser("take-up", help="make a training folder from the weights that are kept beside the recipe")
    take.set_defaults(run=lambda options: take_up_progress(options.folder))
    look = commands.add_parser("look", help="write pictures of what a training can do so far, and the VAE's PSNR")
    look.set_defaults(run=lambda options: print(look_into(options.folder)))
    back = commands.add_parser("unpack", help="make a training folder from the packaged files, to train on")
    back.set_defaults(run=lambda options: unpack(options.folder))
    measure = commands.add_parser("evaluate", help="measure the packaged model and write its card")
    measure.add_argument("--clips", type=int, default=300)
    measure.set_defaults(run=_evaluate)
    compare = commands.add_parser("schedulers", help="measure each of the 18 schedulers and write docs/schedulers.md")
    compare.add_argument("--clips", type=int, default=30, help="of each scheduler (default: 30)")
    compare.set_defaults(run=lambda options: print(compare_schedulers(options.folder, clips=options.clips)))
    for command in (train, keep, take, look, pack, back, measure, compare):
        command.add_argument("--folder", type=Path, help="where weights, data and progress are kept (default: train/cutout)")
    return parser


def _train(options: argparse.Namespace) -> None:
    alone = Budget(steps=options.steps) if options.steps else Budget(minutes=options.minutes)
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
    contact_sheet(options.folder / "evaluate" / report.scheduler, SHEET)
    figures = f"{table(report)}\n{pairs_line(pairs)}"
    write_card(options.folder, figures)
    print(figures)


if __name__ == "__main__":
    main()
