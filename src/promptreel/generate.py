"""`promptreel generate`: one video on this machine, by the same engine and recipe as a worker's, without a server."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from promptreel.encoding.inits import check_init, recognise
from promptreel.errors import InitUnusable, InvalidParams
from promptreel.jobs.params import MAX_SEED, OUTPUT_TYPES, SCHEDULERS, VideoParams
from promptreel.media import INIT_TYPES, Init
from promptreel.models.prompts import enhance_prompt
from promptreel.models.registry import ModelCard

if TYPE_CHECKING:
    from promptreel.generation.engine import Engine, OnProgress

DEFAULT_SECONDS = 5


def complete_params(  # noqa: PLR0913 - one parameter for each option
    card: ModelCard,
    *,
    output: Path,
    prompt: str,
    enhance: bool,
    negative_prompt: str | None,
    seed: int | None,
    steps: int,
    guidance: float,
    scheduler: str,
    frames: int | None,
    fps: int | None,
    width: int,
    height: int,
    strength: float,
    init: Init | None,
) -> VideoParams:
    """Fills in the model's own defaults, draws a seed if there is none, and reads the kind of file from the name of `output`.

    Raises InvalidParams.
    """
    chosen_fps = fps or card.fps
    _check(prompt=prompt, scheduler=scheduler, output=output)
    return VideoParams(
        model_id=card.model_id,
        prompt=enhance_prompt(prompt, card) if enhance else prompt,
        negative_prompt=card.default_negative_prompt if negative_prompt is None else negative_prompt,
        width=width // 8 * 8,
        height=height // 8 * 8,
        num_frames=frames or DEFAULT_SECONDS * chosen_fps,
        fps=chosen_fps,
        scheduler=scheduler,
        num_inference_steps=steps,
        guidance_scale=guidance,
        strength=strength,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        output_type=_output_type(output),
        init_key=init.key if init else None,
    )


def _output_type(output: Path) -> str:
    return output.suffix.removeprefix(".").lower()


def _check(*, prompt: str, scheduler: str, output: Path) -> None:
    wrong: dict[str, list[str]] = {}
    if _output_type(output) not in OUTPUT_TYPES:
        wrong["output"] = [f"Let the name of {output.name!r} end in one of .{', .'.join(OUTPUT_TYPES)}."]
    if scheduler not in SCHEDULERS:
        wrong["scheduler"] = [f"There is no scheduler {scheduler!r}; take one of {', '.join(SCHEDULERS)}."]
    if not prompt.strip():
        wrong["prompt"] = ["The prompt is empty: say what the video shows."]
    if wrong:
        raise InvalidParams(wrong)


def read_init(path: Path) -> Init:
    """The picture or video to start from; a gif is a video. Raises InvalidParams and InitUnusable."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidParams({"init": [f"The init {str(path)!r} cannot be read: {error.strerror}."]}) from error
    ending = recognise(data)
    if ending is None:
        kinds = [ending for endings in INIT_TYPES.values() for ending in endings]
        raise InitUnusable(f"The init {str(path)!r} is none of {', '.join(dict.fromkeys(kinds))}.")
    init = Init("video" if ending in INIT_TYPES["video"] else "image", ending, data)
    check_init(init)
    return init


def write_video(
    params: VideoParams, output: Path, *, engine: Engine, on_progress: OnProgress, init: Init | None = None
) -> None:
    """Makes the video and puts it at `output`; an older file there is replaced only by a whole new one."""
    from promptreel.worker.video_job import make_video  # noqa: PLC0415 - takes torch seconds to load, wrong parameters are told first

    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        make_video(params, beside, engine=engine, on_progress=on_progress, init=init)
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)
