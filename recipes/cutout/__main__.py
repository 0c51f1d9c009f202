"""python -m recipes.cutout: draws the world, trains the built-in model, measures it and writes its files.

python -m recipes.cutout train --folder train/cutout --minutes 240
python -m recipes.cutout evaluate --folder train/cutout --clips 300
python -m recipes.cutout package --folder train/cutout
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.cutout.loop import Budget
from recipes.cutout.motion import train_motion
from recipes.cutout.picture import train_picture
from recipes.cutout.vae import train_vae

# How a time budget is shared between the stages.
STAGES = {"vae": (train_vae, 0.2), "picture": (train_picture, 0.45), "motion": (train_motion, 0.35)}


def main() -> None:
    options = _parser().parse_args()
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.cutout", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train all stages, or one; run it again to go on where it stopped")
    train.add_argument("--folder", type=Path, default=Path("train/cutout"), help="where weights and progress are kept")
    train.add_argument("--stage", choices=STAGES, help="only this stage")
    train.add_argument("--minutes", type=float, default=240, help="time for all stages together, or for the one named")
    train.set_defaults(run=_train)
    return parser


def _train(options: argparse.Namespace) -> None:
    for name, (train, share) in STAGES.items():
        if options.stage is None:
            train(options.folder, Budget(minutes=options.minutes * share))
        elif options.stage == name:
            train(options.folder, Budget(minutes=options.minutes))


if __name__ == "__main__":
    main()
