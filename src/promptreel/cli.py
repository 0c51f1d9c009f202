"""The command line. Each command parses its options, calls the service's code and prints the result."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from promptreel.bootstrap import (
    build_app,
    build_courier,
    build_engine,
    build_models,
    build_storage,
    build_worker,
    check_worker_extra,
    new_owner,
)
from promptreel.commands.doctor import doctor
from promptreel.commands.jobs import jobs_app
from promptreel.commands.keys import keys_app
from promptreel.commands.models import models_app
from promptreel.commands.terminal import DataDir, printable, progress_bar
from promptreel.commands.train import train
from promptreel.errors import PromptreelError
from promptreel.jobs.job import JobStage, OnProgress
from promptreel.jobs.params import DEFAULT_SCHEDULER, MAX_FRAMES, MAX_SEED, SCHEDULERS
from promptreel.logs import set_up_logging
from promptreel.models.composition import compose, find_add_ons, stand_for_base
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.remote import RemoteVideo
from promptreel.settings import Settings, load_settings
from promptreel.supervisor import Stop
from promptreel.version import installed_version

if TYPE_CHECKING:
    from promptreel.commands.generate import Wanted
    from promptreel.encoding.decoder import Decoder

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # in 80 columns, rich's tables truncate the names of options and schedulers
)
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")

# Options whose default may come from the model.
Steps = Annotated[int | None, typer.Option(min=1, max=50, help="Inference steps.", show_default="the model's own, or 20")]
Guidance = Annotated[
    float | None,
    typer.Option(min=0, max=20, help="Guidance scale; 1 or less: no guidance.", show_default="the model's own, or 7.5"),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help=f"One of {', '.join(SCHEDULERS)}.", show_default=f"the model's own, or {DEFAULT_SCHEDULER}"),
]

ENHANCE_HELP = "Add the model's own phrases to the prompt; --no-enhance-prompt leaves it unchanged."


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"promptreel {installed_version()}")  # noqa: T201
        raise typer.Exit


@app.callback()
def promptreel(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Promptreel: text to video on your own machine."""


def main() -> None:
    """Runs a command. Prints a PromptreelError as one line, without a traceback."""
    try:
        app()
    except PromptreelError as error:
        print(f"promptreel: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 0 takes a free one.", show_default="8000")] = None,
    data_dir: DataDir = None,
    workers: Annotated[int | None, typer.Option(help="Number of worker processes.", show_default="1")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in your browser when it is ready.")] = False,
) -> None:
    """Start the whole service: api, workers and courier. Stop it with Ctrl-C or SIGTERM; running jobs return to the queue."""
    from promptreel.service import run_service

    settings = load_settings(host=host, port=port, data_dir=data_dir, workers=workers)
    set_up_logging(settings.log_level)
    run_service(settings, stop=_stop_on_signals(), opens_page=open_page)


@app.command()
def worker(data_dir: DataDir = None, owner: Annotated[str | None, typer.Option(hidden=True)] = None) -> None:
    """Run one worker for a service that is already running. Both use the same data directory."""
    settings = load_settings(data_dir=data_dir)
    set_up_logging(settings.log_level)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a loading worker at once: it has no job to return
    stop = Stop()
    built = build_worker(settings, owner=owner or new_owner(), stop=stop)
    built.run(on_warm=lambda: _set_on_signals(stop))


@app.command(hidden=True)
def courier(owner: str) -> None:
    """Run the courier, which delivers webhooks, and requeues or ends jobs that lost their workers."""
    settings = load_settings()
    set_up_logging(settings.log_level)
    stop = _stop_on_signals()
    build_courier(settings, owner=owner, stop=stop).run()


@app.command(hidden=True)
def api(fd: int) -> None:
    """Run the api, on a socket on which the supervisor already listens."""
    from promptreel.api.server import build_server
    from promptreel.service import is_loopback

    settings = load_settings()
    set_up_logging(settings.log_level)

    def is_stopping() -> bool:
        return server.should_exit

    listener = socket.socket(fileno=fd)
    application = build_app(settings, serves_local=is_loopback(listener), is_stopping=is_stopping)
    server = build_server(application)
    server.run(sockets=[listener])


@app.command()
def generate(  # noqa: PLR0913, PLR0917 - one parameter for each option
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: .mp4, .webm or .gif.")] = Path("video.mp4"),
    model: Annotated[str, typer.Option(help="The model's id; `promptreel models list` shows them.")] = DEFAULT_MODEL_ID,
    enhance: Annotated[bool, typer.Option("--enhance-prompt/--no-enhance-prompt", help=ENHANCE_HELP)] = True,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to show.", show_default="the model's own")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same video.")] = None,
    motion_adapter: Annotated[str | None, typer.Option(help="The motion adapter's id.", show_default="the model's own")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="A LoRA's id, or ID:STRENGTH. Can be given several times.")] = None,
    embedding: Annotated[list[str] | None, typer.Option(help="An embedding's id. Can be given several times.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    frames: Annotated[int | None, typer.Option(min=1, max=MAX_FRAMES, help="Frame count.", show_default="5 seconds")] = None,
    fps: Annotated[int | None, typer.Option(min=1, max=30, help="Frames per second.", show_default="the model's own")] = None,
    width: Annotated[int, typer.Option(min=64, max=1792, help="In pixels, a multiple of 8.")] = 512,
    height: Annotated[int, typer.Option(min=64, max=1792, help="In pixels, a multiple of 8.")] = 512,
    init: Annotated[Path | None, typer.Option(help="A picture or short video to start from.")] = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="How much the video may differ from --init; 1: fully.")] = 0.55,
    server: Annotated[str | None, typer.Option(help="Make the video on the server at this URL.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The server's API key.")] = None,
) -> None:
    """Make one video, on this machine or on a server. Ctrl-C cancels it, on the server too."""
    from promptreel.commands.generate import Wanted, print_notes, read_init, read_loras
    from promptreel.encoding.decoder import Decoder

    settings = load_settings(api_key=api_key)
    set_up_logging("warning")
    decoder = Decoder()
    wanted = Wanted(
        output=output, prompt=prompt, model=model, motion_adapter=motion_adapter, loras=read_loras(lora or ()), seed=seed,
        embeddings=tuple(embedding or ()), enhance=enhance, steps=steps, negative_prompt=negative_prompt, guidance=guidance,
        scheduler=scheduler, frames=frames, fps=fps, width=width, height=height, strength=strength,
        init=read_init(init, decoder) if init else None,
    )  # fmt: skip
    wanted.check()
    print_notes(wanted.size_note())
    seed = (
        _generate_here(wanted, settings, decoder) if server is None else _generate_on_server(wanted, server, settings.api_key)
    )
    print(f"{output}  (seed {seed})")  # noqa: T201


app.command()(train)
app.command()(doctor)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A video that Promptreel made.")],
    init: Annotated[Path | None, typer.Option(help="What the video started from, if it is not stored here.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a video again, and compare.

    The comment in the file says how it was made. Exits with 0 if every byte is the same, else tells what differs, and with 1.
    """
    from promptreel.commands import verify as verification
    from promptreel.commands.generate import read_init
    from promptreel.encoding.decoder import Decoder

    settings = load_settings(data_dir=data_dir)
    set_up_logging("warning")
    check_worker_extra()
    told = verification.read_told(file)
    start = verification.find_init(told.params, read_init(init, Decoder()) if init else None, build_storage(settings))
    build_models(settings).get(told.params.model_id)
    with progress_bar() as show, tempfile.TemporaryDirectory() as folder:
        on_progress = _show_stages(show)
        verdict = verification.make_again(
            file, told, Path(folder), engine=build_engine(settings), init=start, on_progress=on_progress
        )
    for line in verification.explain(file.name, verdict):
        print(printable(line))  # noqa: T201
    raise typer.Exit(0 if verdict.same_bytes else 1)


def _generate_here(wanted: Wanted, settings: Settings, decoder: Decoder) -> int:
    """Makes the video on this machine. Returns the seed."""
    from promptreel.commands.generate import complete_params, print_notes, unknown_words_note, write_video

    check_worker_extra(instead="Or have a server make the video: --server URL.")
    registry = build_models(settings)
    base, loras = stand_for_base(registry, wanted.model, wanted.loras)
    wanted = replace(wanted, model=base, loras=loras)
    models = compose(registry, wanted.model, wanted.motion_adapter)
    add_ons = find_add_ons(registry, wanted, models.checkpoint)
    print_notes(unknown_words_note(wanted.prompt, models.checkpoint, add_ons))
    params, changes = complete_params(wanted, models, add_ons)
    print_notes(*changes)
    with progress_bar() as show:
        on_progress = _show_stages(show)
        engine = build_engine(settings)
        write_video(params, wanted.output, engine=engine, decoder=decoder, on_progress=on_progress, init=wanted.init)
    return params.seed


def _show_stages(show: Callable[..., None]) -> OnProgress:
    """Shows a video's stages in the progress bar, from now on."""

    def on_progress(stage: JobStage, share: float) -> None:
        done = share if stage is JobStage.DENOISING else float(stage is not JobStage.LOADING)
        show(str(stage), 100 * done)

    on_progress(JobStage.LOADING, 0.0)
    return on_progress


def _generate_on_server(wanted: Wanted, server: str, api_key: str | None) -> int | None:
    """Has a server make the video, and downloads it. Returns the seed, or None if the server does not tell it."""
    from promptreel.client import Client
    from promptreel.commands.generate import make_on_server

    def on_progress(video: RemoteVideo) -> None:
        place = f"place {video.queue_position} in the queue" if video.queue_position else ""
        eta = f"{video.eta} s to go" if video.eta and not video.is_done else ""
        show(video.stage or video.status, video.progress, ", ".join(filter(None, [place, eta])))

    with Client(server, api_key) as client, progress_bar() as show:
        return make_on_server(wanted, client, on_progress).seed


def _stop_on_signals() -> Stop:
    """Returns a Stop. SIGTERM, SIGINT and SIGHUP set it."""
    stop = Stop()
    _set_on_signals(stop)
    return stop


def _set_on_signals(stop: Stop) -> None:
    """Lets SIGTERM, SIGINT and SIGHUP (the terminal was closed) set `stop`. Under nohup, SIGHUP stays ignored."""

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        stop.because(f"it got {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, ask_to_stop)


if __name__ == "__main__":
    main()
