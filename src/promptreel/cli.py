"""The command line: parse, call, print."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from promptreel.bootstrap import (
    build_app,
    build_courier,
    build_deliveries,
    build_engine,
    build_jobs,
    build_models,
    build_webhook_secrets,
    build_worker,
    new_owner,
)
from promptreel.cli_keys import keys_app
from promptreel.errors import PromptreelError
from promptreel.jobs.deliveries import Attempt, Delivery, DeliveryState
from promptreel.jobs.job import Job, JobStage
from promptreel.jobs.params import DEFAULT_SCHEDULER, MAX_FRAMES, MAX_SEED, SCHEDULERS
from promptreel.logs import set_up_logging
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.remote import RemoteVideo
from promptreel.settings import Settings, load_settings
from promptreel.worker.supervisor import Stop

if TYPE_CHECKING:
    from promptreel.encoding.decoder import Decoder
    from promptreel.generate import Wanted

app = typer.Typer(
    help="Promptreel: text to video on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
jobs_app = typer.Typer(help="Look at the queue, and cancel jobs.", no_args_is_help=True)
models_app = typer.Typer(help="The checkpoints that the service knows.", no_args_is_help=True)
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")

DataDir = Annotated[Path | None, typer.Option(help="Where the queue, the videos and the added models are kept.")]
JobId = Annotated[int, typer.Argument(help="The id that was returned when the job was submitted.")]
ENHANCE_HELP = "Add the model's own phrases to the prompt; --no-enhance-prompt leaves it as it is."
WHOLE = 100.0


def main() -> None:
    """Runs a command; errors of ours are one line, not a traceback."""
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
    workers: Annotated[int | None, typer.Option(help="Worker processes.", show_default="1")] = None,
) -> None:
    """Start the whole service: the api, workers and courier. Stop it with Ctrl-C or SIGTERM; running jobs are not lost."""
    from promptreel.service import run_service

    settings = load_settings(host=host, port=port, data_dir=data_dir, workers=workers)
    set_up_logging(settings.log_level)
    run_service(settings, stop=_stop_on_signals())


@app.command()
def worker(data_dir: DataDir = None, owner: Annotated[str | None, typer.Option(hidden=True)] = None) -> None:
    """Run one worker alone, on the same data directory or database as a service elsewhere."""
    settings = load_settings(data_dir=data_dir)
    set_up_logging(settings.log_level)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it is warm, it has nothing in hand: a signal ends it at once
    stop = Stop()
    built = build_worker(settings, owner=owner or new_owner(), stop=stop)
    built.run(on_warm=lambda: _set_on_signals(stop))


@app.command(hidden=True)
def courier(owner: str) -> None:
    """The courier process: delivers webhooks, and ends jobs whose workers are gone."""
    settings = load_settings()
    set_up_logging(settings.log_level)
    stop = _stop_on_signals()
    build_courier(settings, owner=owner, stop=stop).run()


@app.command(hidden=True)
def api(fd: int) -> None:
    """The api process, on a socket that the supervisor listens on already."""
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
    model: Annotated[str, typer.Option(help="The id of a checkpoint; `promptreel models list` shows them.")] = DEFAULT_MODEL_ID,
    enhance: Annotated[bool, typer.Option("--enhance-prompt/--no-enhance-prompt", help=ENHANCE_HELP)] = True,
    negative_prompt: Annotated[str | None, typer.Option(help="What it does not show.", show_default="the model's own")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same video.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=50, help="Inference steps.")] = 20,
    guidance: Annotated[float, typer.Option(min=0, max=20, help="How closely to follow the prompt; 0 to 1 is unguided.")] = 7.5,
    scheduler: Annotated[str, typer.Option(help=f"One of {', '.join(SCHEDULERS)}.")] = DEFAULT_SCHEDULER,
    frames: Annotated[int | None, typer.Option(min=1, max=MAX_FRAMES, help="Frames in all.", show_default="5 seconds")] = None,
    fps: Annotated[int | None, typer.Option(min=1, max=30, help="Frames a second.", show_default="the model's own")] = None,
    width: Annotated[int, typer.Option(min=64, max=1024, help="Pixels, a multiple of 8.")] = 512,
    height: Annotated[int, typer.Option(min=64, max=1024, help="Pixels, a multiple of 8.")] = 512,
    init: Annotated[Path | None, typer.Option(help="A picture or short video to start from.")] = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="How much of --init may change; 1 is all of it.")] = 0.55,
    server: Annotated[str | None, typer.Option(help="The address of a server that makes it, instead of this machine.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The key that the server wants to see.")] = None,
) -> None:
    """Make one video here and now, or on a server. Ctrl-C stops it, there too."""
    from promptreel.encoding.decoder import Decoder
    from promptreel.generate import Wanted, read_init

    settings = load_settings(api_key=api_key)
    set_up_logging("warning")
    decoder = Decoder()
    wanted = Wanted(
        output=output, prompt=prompt, model=model, enhance=enhance, negative_prompt=negative_prompt, seed=seed, steps=steps,
        guidance=guidance, scheduler=scheduler, frames=frames, fps=fps, width=width, height=height,
        init=read_init(init, decoder) if init else None, strength=strength,
    )  # fmt: skip
    wanted.check()
    made = _generate_here(wanted, settings, decoder) if server is None else _generate_there(wanted, server, settings.api_key)
    print(f"{output}  (seed {made})")  # noqa: T201


def _generate_here(wanted: Wanted, settings: Settings, decoder: Decoder) -> int:
    """Returns the seed."""
    from promptreel.generate import complete_params, write_video

    params = complete_params(wanted, build_models(settings).get(wanted.model))
    with _progress_bar() as tell:
        tell("loading", 0)

        def on_progress(stage: JobStage, share: float) -> None:
            before = 0 if stage is JobStage.LOADING else WHOLE
            tell(str(stage), share * WHOLE if stage is JobStage.DENOISING else before)

        engine = build_engine(settings)
        write_video(params, wanted.output, engine=engine, decoder=decoder, on_progress=on_progress, init=wanted.init)
    return params.seed


def _generate_there(wanted: Wanted, server: str, api_key: str | None) -> int | None:
    """Returns the seed."""
    from promptreel.client import Client
    from promptreel.generate import make_on_server

    def on_progress(video: RemoteVideo) -> None:
        place = f"place {video.queue_position} in the queue" if video.queue_position else ""
        eta = f"{video.eta} s to go" if video.eta and not video.is_done else ""
        tell(video.stage or video.status, video.progress, ", ".join(filter(None, [place, eta])))

    with Client(server, api_key) as client, _progress_bar() as tell:
        return make_on_server(wanted, client, on_progress).seed


@jobs_app.command("list")
def list_jobs(
    data_dir: DataDir = None, limit: Annotated[int, typer.Option(min=1, max=1000, help="How many jobs to list.")] = 20
) -> None:
    """The newest jobs."""
    for job in build_jobs(load_settings(data_dir=data_dir)).list(limit=limit):
        _print_job(job)


@jobs_app.command("show")
def show_job(job_id: JobId, data_dir: DataDir = None) -> None:
    """One job."""
    _print_job(build_jobs(load_settings(data_dir=data_dir)).get(job_id))


@jobs_app.command("cancel")
def cancel_job(job_id: JobId, data_dir: DataDir = None) -> None:
    """Cancel a job; one that is running stops at its next call to the model."""
    _print_job(build_jobs(load_settings(data_dir=data_dir)).cancel(job_id))


@jobs_app.command("deliveries")
def list_deliveries(job_id: JobId, data_dir: DataDir = None) -> None:
    """The deliveries of a job's webhook: every attempt, what became of it, and when the next one is."""
    settings = load_settings(data_dir=data_dir)
    build_jobs(settings).get(job_id)
    for delivery, attempts in build_deliveries(settings).list(job_id):
        _print_delivery(delivery, attempts)


@jobs_app.command("redeliver")
def redeliver(job_id: JobId, data_dir: DataDir = None) -> None:
    """Deliver a job's webhook once more, now, and again for a day if that fails."""
    deliveries = build_deliveries(load_settings(data_dir=data_dir))
    deliveries.redeliver(job_id)
    for delivery, _ in deliveries.list(job_id):
        _print_delivery(delivery, [])


@jobs_app.command("webhook-secret")
def show_webhook_secret(data_dir: DataDir = None) -> None:
    """The secret that webhooks are signed with, but for those of API keys, which have their own."""
    print(build_webhook_secrets(load_settings(data_dir=data_dir)).of_installation())  # noqa: T201


@models_app.command("list")
def list_models(data_dir: DataDir = None) -> None:
    """All checkpoints, by id."""
    for card in build_models(load_settings(data_dir=data_dir)).list():
        print(f"{card.model_id}\t{card.family}\t{card.name}")  # noqa: T201


def _print_job(job: Job) -> None:
    state = f"{job.status}, {job.stage} {job.progress:.0%}" if job.stage and not job.is_final else str(job.status)
    why = f" ({job.error_code}: {job.error_message})" if job.error_code else ""
    asked = ", cancel asked" if job.cancel_requested and not job.is_final else ""
    print(f"{job.id}\t{state}{asked}{why}\t{job.params.model_id}\t{job.params.prompt[:60]}")  # noqa: T201


def _print_delivery(delivery: Delivery, attempts: Sequence[Attempt]) -> None:
    """One line for the delivery, then one for each attempt. Times are in UTC."""
    is_open = delivery.state is DeliveryState.PENDING
    next_at = f", next attempt at {_spell(delivery.next_at)}" if is_open else ""
    print(f"{delivery.id}\t{delivery.state}{next_at}\t{delivery.url}")  # noqa: T201
    for attempt in attempts:
        took = "" if attempt.seconds is None else f" after {attempt.seconds:.1f} s"
        status = "" if attempt.status is None else f"status {attempt.status}"
        told = " ".join(filter(None, [status, attempt.error])) or "no answer yet"
        print(f"{_spell(attempt.started_at)}\tattempt {attempt.number}\t{told}{took}")  # noqa: T201


def _spell(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}"


def _stop_on_signals() -> Stop:
    """What SIGTERM and SIGINT set, and SIGHUP, as when a terminal is closed, unless that was to be ignored (nohup)."""
    stop = Stop()
    _set_on_signals(stop)
    return stop


def _set_on_signals(stop: Stop) -> None:
    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        stop.because(f"it got {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, ask_to_stop)


@contextmanager
def _progress_bar() -> Iterator[Callable[..., None]]:
    """Yields what moves the bar: it is told what is done, how many percent of it, and a note. Nothing is shown before."""
    columns = (
        TextColumn("{task.description:>11}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=WHOLE, note="")
    with ExitStack() as shown:

        def tell(what: str, percent: float, note: str = "") -> None:
            if not bar.live.is_started:
                shown.enter_context(bar)
            bar.update(task, description=what, completed=percent, note=note)

        yield tell


if __name__ == "__main__":
    main()
