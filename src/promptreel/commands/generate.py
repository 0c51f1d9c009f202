"""`promptreel generate`: makes one video, either on this machine, with a worker's engine and recipe, or on a server."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from promptreel.client import Client, VideoOptions
from promptreel.encoding import inits as encoded
from promptreel.encoding.decoder import Decoder
from promptreel.errors import InvalidParams, PromptreelError
from promptreel.extras import is_installed
from promptreel.jobs.params import MAX_SEED, OUTPUT_TYPES, SCHEDULERS, LoraUse, VideoParams
from promptreel.media import Init
from promptreel.models.composition import AddOns, ModelSet
from promptreel.models.families import fit_clip, negative_prompt_of
from promptreel.models.phrases import enhance_prompt, find_unknown_words, tell_unwritten, without
from promptreel.models.registry import ModelCard
from promptreel.remote import RemoteModel, RemoteVideo

if TYPE_CHECKING:
    from promptreel.generation.engine import Engine
    from promptreel.jobs.job import OnProgress

DEFAULT_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The command line's options. None means the model's default, or a random seed."""

    output: Path
    prompt: str
    model: str
    motion_adapter: str | None
    loras: tuple[LoraUse, ...]
    embeddings: tuple[str, ...]
    enhance: bool
    negative_prompt: str | None
    seed: int | None
    steps: int | None
    guidance: float | None
    scheduler: str | None
    frames: int | None
    fps: int | None
    width: int
    height: int
    init: Init | None
    strength: float

    @property
    def output_type(self) -> str:
        return self.output.suffix.removeprefix(".").lower()

    def check(self) -> None:
        """Raises InvalidParams."""
        wrong: dict[str, list[str]] = {}
        if self.output_type not in OUTPUT_TYPES:
            wrong["output"] = [f"The name {self.output.name!r} must end in one of .{', .'.join(OUTPUT_TYPES)}."]
        elif not self.output.parent.is_dir():
            wrong["output"] = [f"There is no folder {str(self.output.parent)!r}: create it, or give another --output."]
        elif self.output.is_dir():
            wrong["output"] = [f"{str(self.output)!r} is a folder: give a file name."]
        elif not os.access(self.output.parent, os.W_OK):
            wrong["output"] = [f"The folder {str(self.output.parent)!r} cannot be written to: give another --output."]
        if not self.prompt.strip():
            wrong["prompt"] = ["The prompt is empty: describe the video."]
        if self.scheduler not in {None, *SCHEDULERS}:
            wrong["scheduler"] = [f"There is no scheduler {self.scheduler!r}; choose one of {', '.join(SCHEDULERS)}."]
        if wrong:
            raise InvalidParams(wrong)

    def size_note(self) -> str | None:
        """A note on the video's size, if it differs from the requested one."""
        width, height = self.width // 8 * 8, self.height // 8 * 8
        if (width, height) == (self.width, self.height):
            return None
        return f"the video is {width}x{height}, not {self.width}x{self.height}: sides are multiples of 8"


def unknown_words_note(prompt: str, card: ModelCard, add_ons: AddOns) -> str | None:
    """A note on the prompt's words that the model does not know, if there are any. The api's answers have the same as a tip."""
    unknown = find_unknown_words(without(add_ons.embeddings, prompt), card.words)
    return f'the model "{card.model_id}" does not know: {", ".join(unknown)}' if unknown else None


def complete_params(wanted: Wanted, models: ModelSet, add_ons: AddOns) -> tuple[VideoParams, list[str]]:
    """Fills in the models' defaults, and draws a seed if none is given. Also returns what the model changes of the clip."""
    card = models.checkpoint
    fps = wanted.fps or card.fps
    asked = {"scheduler": wanted.scheduler, "num_inference_steps": wanted.steps, "guidance_scale": wanted.guidance}
    of_models = models.defaults | {name: value for name, value in asked.items() if value is not None}
    params = VideoParams(
        model_id=card.model_id,
        prompt=enhance_prompt(wanted.prompt, card, add_ons.loras) if wanted.enhance else wanted.prompt,
        negative_prompt=negative_prompt_of(card) if wanted.negative_prompt is None else wanted.negative_prompt,
        width=wanted.width // 8 * 8,
        height=wanted.height // 8 * 8,
        num_frames=wanted.frames or DEFAULT_SECONDS * fps,
        fps=fps,
        strength=wanted.strength,
        seed=secrets.randbelow(MAX_SEED + 1) if wanted.seed is None else wanted.seed,
        output_type=wanted.output_type,
        init_key=wanted.init.key if wanted.init else None,
        motion_adapter=models.adapter_id,
        loras=wanted.loras,
        embeddings=wanted.embeddings,
        **of_models,
    )
    fitted, changes = fit_clip(params, card)
    return fitted, changes + tell_unwritten(add_ons.embeddings, params.prompt, params.negative_prompt)


def read_loras(texts: Iterable[str]) -> tuple[LoraUse, ...]:
    """Each text is an id, or ID:STRENGTH. Raises InvalidParams."""
    uses = []
    for text in texts:
        model_id, _, strength = text.partition(":")
        try:
            uses.append(LoraUse(model_id, float(strength or 1)))
        except ValueError as error:
            raise InvalidParams({"lora": [f"The strength of the LoRA {text!r} is not a number: write ID:0.8."]}) from error
    return tuple(uses)


def to_options(wanted: Wanted, model: RemoteModel) -> VideoOptions:
    """The request's options for a server, which enhances the prompt and draws the seed itself."""
    fps = wanted.fps or model.fps
    return {
        "model": wanted.model,
        "motion_adapter": wanted.motion_adapter,
        "loras": [{"model": lora.model_id, "strength": lora.strength} for lora in wanted.loras] or None,
        "embeddings": list(wanted.embeddings) or None,
        "enhance_prompt": wanted.enhance,
        "negative_prompt": wanted.negative_prompt,
        "size": f"{wanted.width}x{wanted.height}",
        "num_frames": wanted.frames or (fps and DEFAULT_SECONDS * fps),
        "fps": fps,
        "scheduler": wanted.scheduler,
        "num_inference_steps": wanted.steps,
        "guidance_scale": wanted.guidance,
        "strength": wanted.strength,
        "seed": wanted.seed,
        "output_type": wanted.output_type,
        "input_reference": wanted.init.data if wanted.init else None,
    }


def read_init(path: Path, decoder: Decoder) -> Init:
    """Reads the picture or video to start from. A gif counts as a video. Raises InvalidParams and InitUnusable.

    Without the extra `media`, only a server can make the video. Then the server checks the file, not this function.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidParams({"init": [f"The init {str(path)!r} cannot be read: {error.strerror}."]}) from error
    init = encoded.read_init(data, ["video", "image"], named=f"init {str(path)!r}")
    if is_installed("media"):
        decoder.check(init)
    return init


def write_video(
    params: VideoParams,
    output: Path,
    *,
    engine: Engine,
    decoder: Decoder,
    on_progress: OnProgress,
    init: Init | None = None,
) -> None:
    """Makes the video and writes it to `output`. Replaces an existing file only once the new one is complete."""
    from promptreel.worker.recipes.video import Makers, make_video  # noqa: PLC0415 - torch loads slowly; bad options fail first

    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        makers = Makers(engine, decoder, threading.Semaphore(1))
        make_video(params, partial, makers=makers, on_progress=on_progress, init=init)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def make_on_server(wanted: Wanted, client: Client, on_progress: Callable[[RemoteVideo], None]) -> RemoteVideo:
    """Has a server make the video, and downloads it to `wanted.output`. Ctrl-C cancels it on the server."""
    model = client.model(wanted.model)
    video = client.create(wanted.prompt, **to_options(wanted, model))
    print_notes(video.answer.get("tip"))
    try:
        done = client.wait(video, on_progress=on_progress)
    except KeyboardInterrupt:
        _cancel(video, client)
        raise
    client.download(done, wanted.output)
    return done


def print_notes(*notes: str | None) -> None:
    """Prints notes for the user to stderr; skips None."""
    for note in filter(None, notes):
        _print_note(note)


def _cancel(video: RemoteVideo, client: Client) -> None:
    try:
        client.cancel(video)
    except PromptreelError as error:
        _print_note(f"{video.id} could not be cancelled and goes on: {error}")
    else:
        _print_note(f"{video.id} was cancelled on {client.base_url}")


def _print_note(text: str) -> None:
    print(f"promptreel: {text}", file=sys.stderr)  # noqa: T201
