"""`promptreel models`: lists the checkpoints, and says why some cannot be used."""

from __future__ import annotations

import typer

from promptreel.bootstrap import build_models
from promptreel.commands.terminal import AsJson, DataDir, print_json, print_table, printable
from promptreel.errors import BadConfiguration, CheckpointUnusable
from promptreel.extras import install_command, is_installed
from promptreel.models.gate import check_checkpoint
from promptreel.models.registry import ModelCard
from promptreel.settings import load_settings

models_app = typer.Typer(help="The checkpoints that the service knows.", no_args_is_help=True)


@models_app.command("list")
def list_models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all models, by id, and whether a job could load them. This does not read their weights, which takes longer."""
    settings = load_settings(data_dir=data_dir)
    if data_dir is not None and not settings.data_dir.is_dir():
        raise BadConfiguration(f"There is no data directory {settings.data_dir}. Check the --data-dir.")
    if not is_installed("media"):
        typer.echo(f"The checkpoints' files are not checked here. To check them: {install_command('media')}", err=True)
    models = build_models(settings)
    rows = [_describe(card.model_id, card, _why_unusable(card)) for card in models.list(tell=False)]
    rows += [_describe(name, None, reason) for name, reason in models.left_out().items()]
    rows.sort(key=lambda row: row["id"] or "")
    if as_json:
        print_json(rows)
        return
    cells = [(row["id"] or "", row["family"] or "-", "no" if row["problem"] else "yes", row["name"] or "-") for row in rows]
    print_table(("ID", "FAMILY", "USABLE", "NAME"), cells)
    for row in rows:
        if row["problem"]:
            print(f"\n{printable(row['id'] or '')} cannot be used: {printable(row['problem'])}")  # noqa: T201


def _describe(name: str, card: ModelCard | None, problem: str | None) -> dict[str, str | None]:
    return {"id": name, "family": card.family if card else None, "name": card.name if card else None, "problem": problem}


def _why_unusable(card: ModelCard) -> str | None:
    """Why the gate refuses the checkpoint, or None. Skips the check of every weight, which loading makes."""
    if not is_installed("media"):
        return None
    try:
        check_checkpoint(card)
    except CheckpointUnusable as error:
        return error.message
    return None
