"""The command line: parse, call, print."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from promptreel.bootstrap import build_app, build_engine, build_jobs, build_models, build_worker, new_owner
from promptreel.cli_keys import keys_app
from promptreel.errors import PromptreelError
from promptreel.jobs.job import Job, JobStage
from promptreel.jobs.params import DEFAULT_SCHEDULER, MAX_FRAMES, MAX_SEED, SCHEDULERS
from promptreel.logs import set_up_logging
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.settings import load_settings

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
    """Start the whole service: the HTTP api and its workers. Stop it with Ctrl-C or SIGTERM; running jobs are not lost."""
    from promptreel.service import run_service

    settings = load_settings(host=host, port=port, data_dir=data_dir, workers=workers)
    set_up_logging(settings.log_level)
    run_service(settings, stop=_stop_on_signals())


@app.command()
def worker(data_dir: DataDir = None, owner: Annotated[str | None, typer.Option(hidden=True)] = None) -> None:
    """Run one worker alone, on the same data directory or database as a service elsewhere."""
    from promptreel.worker.supervisor import end_with_supervisor

    settings = load_settings(data_dir=data_dir)
    set_up_logging(settings.log_level)
    stop = _stop_on_signals()
    if owner is not None:  # a supervisor started us
        end_with_supervisor(stop.set)
    build_worker(settings, owner=owner or new_owner(), stop=stop).run()


@app.command(hidden=True)
def api(fd: int) -> None:
    """The api process, on a socket that the supervisor listens on already."""
    import uvicorn

    from promptreel.service import is_loopback
    from promptreel.worker.supervisor import end_with_supervisor

    settings = load_settings()
    set_up_logging(settings.log_level)

    def is_stopping() -> bool:
        return server.should_exit

    def stop() -> None:
        server.should_exit = True

    listener = socket.socket(fileno=fd)
    application = build_app(settings, serves_local=is_loopback(listener), is_stopping=is_stopping)
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, access_log=False, server_header=False))

    end_with_supervisor(stop)
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
    guidance: Annotated[float, typer.Option(min=1, max=20, help="How closely to follow the prompt; 1 is unguided.")] = 7.5,
    scheduler: Annotated[str, typer.Option(help=f"One of {', '.join(SCHEDULERS)}.")] = DEFAULT_SCHEDULER,
    frames: Annotated[int | None, typer.Option(min=1, max=MAX_FRAMES, help="Frames in all.", show_default="5 seconds")] = None,
    fps: Annotated[int | None, typer.Option(min=1, max=30, help="Frames a second.", show_default="the model's own")] = None,
    width: Annotated[int, typer.Option(min=64, max=1024, help="Pixels, a multiple of 8.")] = 512,
    height: Annotated[int, typer.Option(min=64, max=1024, help="Pixels, a multiple of 8.")] = 512,
    init: Annotated[Path | None, typer.Option(help="A picture or short video to start from.")] = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="How much of --init may change; 1 is all of it.")] = 0.55,
) -> None:
    """Make one video here and now, without a server."""
    from promptreel.generate import complete_params, read_init, write_video

    settings = load_settings()
    set_up_logging("warning")
    given = read_init(init) if init else None
    params = complete_params(
        build_models(settings).get(model),
        output=output, prompt=prompt, enhance=enhance, negative_prompt=negative_prompt, seed=seed, steps=steps,
        guidance=guidance, scheduler=scheduler, frames=frames, fps=fps, width=width, height=height,
        strength=strength, init=given,
    )  # fmt: skip
    with _progress_bar() as bar:
        task = bar.add_task("loading", total=WHOLE)

        def on_progress(stage: JobStage, share: float) -> None:
            bar.update(task, description=str(stage), completed=share * WHOLE if stage is JobStage.DENOISING else WHOLE)

        write_video(params, output, engine=build_engine(settings), on_progress=on_progress, init=given)
    print(f"{output}  (seed {params.seed})")  # noqa: T201


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


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    return stop


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield bar


if __name__ == "__main__":
    main()
