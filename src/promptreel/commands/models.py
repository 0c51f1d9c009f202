"""`promptreel models`: imports models, lists them, says what is wrong with them, and removes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from promptreel.bootstrap import build_jobs, build_models, find_database, look_for_database
from promptreel.commands.add_model import add_model
from promptreel.commands.terminal import AsJson, DataDir, print_facts, print_json, print_table, printable
from promptreel.errors import BadConfiguration
from promptreel.extras import install_command, is_installed
from promptreel.jobs.worker_records import Holders, list_holders
from promptreel.models.recommendations import RECOMMENDED
from promptreel.models.registry import ModelCard
from promptreel.models.verification import verify, why_unusable
from promptreel.settings import Settings, load_settings

models_app = typer.Typer(help="The models that the service knows.", no_args_is_help=True)

ModelId = Annotated[str, typer.Argument(help="The model's id, as `promptreel models list` shows it.")]


models_app.command("add")(add_model)


@models_app.command("list")
def list_models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all models. Could a job load them, and how many workers have them loaded?

    This does not read their weights, which takes longer.
    """
    settings = _load(data_dir)
    models, holders = build_models(settings), _find_holders(settings)
    if not is_installed("media"):
        typer.echo(f"The models' files are not checked here. To check them: {install_command('media')}", err=True)
    rows = [_describe(card, why_unusable(card, models), holders) for card in models.list(tell=False)]
    rows += [_nothing() | {"id": name, "problem": reason} for name, reason in models.left_out().items()]
    if as_json:
        print_json(rows)
        return
    cells = [_to_cells(row) for row in rows]
    print_table(("ID", "KIND", "FAMILY", "BASE", "SIZE", "USABLE", "LOADED", "SOURCE", "NAME"), cells)
    for row in rows:
        if row["problem"]:
            print(f"\n{printable(row['id'])} cannot be used: {printable(row['problem'])}")  # noqa: T201


def _find_holders(settings: Settings) -> Holders:
    """The workers that have each model loaded; none without a service."""
    database = look_for_database(settings)
    return {} if database is None else list_holders(build_jobs(settings, database).live_workers())


def _nothing() -> dict[str, Any]:
    return dict.fromkeys(("id", "kind", "family", "base", "bytes", "source", "name", "problem")) | {"loaded_on": []}


def _describe(card: ModelCard, problem: str | None, holders: Holders) -> dict[str, Any]:
    record = card.record
    return _nothing() | {
        "id": card.model_id,
        "kind": card.kind.value,
        "family": card.family or None,
        "base": card.base,
        "bytes": record.size_bytes if record else None,
        "source": record.source if record else None,
        "name": card.name,
        "problem": problem,
        "loaded_on": [f"{worker.id} on {worker.device}" for worker in holders.get(card.model_id, ())],
    }


def _to_cells(row: dict[str, Any]) -> Sequence[str]:
    size = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f} MB"
    usable = "no" if row["problem"] else "yes"
    shown = [row[name] or "-" for name in ("id", "kind", "family", "base")]
    loaded = str(len(row["loaded_on"])) if row["loaded_on"] else "-"
    return (*shown, size, usable, loaded, row["source"] or "folder", row["name"] or "-")


@models_app.command("show")
def show_model(model_id: ModelId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show all that is known of a model. Its card, its noise table and why, its files and their hashes."""
    settings = _load(data_dir)
    models = build_models(settings)
    card = models.get(model_id)
    record = card.record
    told = _describe(card, why_unusable(card, models), _find_holders(settings)) | _to_details(card)
    files = {name: asdict(file) for name, file in sorted(record.files.items())} if record else {}
    if as_json:
        print_json(told | {"files": files})
        return
    print_facts(told | {"loaded_on": ", ".join(told["loaded_on"]) or None})
    if files:
        print()  # noqa: T201
        print_table(
            ("SHA-256", "BYTES", "FILE"), [(each["sha256"], str(each["size_bytes"]), name) for name, each in files.items()]
        )


def _to_details(card: ModelCard) -> dict[str, Any]:
    record = card.record
    found = record.card if record else {}
    return {
        "description": card.description or None,
        "licence": card.licence,
        "motion_adapter": card.motion_adapter,
        "vae": card.vae,
        "noise_table": found.get("noise_table") or card.beta_schedule,
        "noise_table_why": found.get("noise_table_why"),
        "native_size": f"{card.native_width}x{card.native_height}" if card.native_width else None,
        "max_frames": card.max_frames,
        "fps": card.fps,
        "trigger_words": ", ".join(card.trigger_words) or None,
        "quality_words": ", ".join(card.quality_words) or None,
        "default_negative_prompt": card.default_negative_prompt or None,
        "default_scheduler": card.default_scheduler,
        "default_steps": card.default_steps,
        "default_guidance": card.default_guidance,
        "low_noise_guidance": card.low_noise_guidance,
        "flow_shift": card.flow_shift,
        "expert": card.expert,
        "hash": record.hash if record else None,
        "owner_key": record.api_key_id if record else None,
        "public": card.is_public,
        "created_at": card.created_at,
        "folder": None if record else str(card.path),
    }


@models_app.command("remove")
def remove_model(
    model_id: ModelId,
    data_dir: DataDir = None,
    force: Annotated[bool, typer.Option("--force", help="Even if jobs or other models need it; they then fail.")] = False,
) -> None:
    """Remove an imported model.

    Its files stay as long as another model has them.
    """
    settings = _load(data_dir)
    removed = build_models(settings, find_database(settings)).remove(model_id, force=force)
    print(f"{removed.id} was removed")  # noqa: T201


@models_app.command("verify")
def verify_model(model_id: ModelId, data_dir: DataDir = None) -> None:
    """Check a model thoroughly. Are its files unchanged, do they fit together, and are all numbers finite?"""
    models = build_models(_load(data_dir))
    if not is_installed("media"):
        raise BadConfiguration(f"Models cannot be checked here. To check them: {install_command('media')}")
    card = models.get(model_id)
    verify(card, models)
    print(f"{card.model_id} is as it should be")  # noqa: T201


@models_app.command("families")
def list_families(as_json: AsJson = False) -> None:
    """List what can be run. Shows the memory, steps and guidance that each family needs."""
    if as_json:
        print_json([asdict(family) for family in RECOMMENDED])
        return
    rows = [(each.name, each.base, each.memory, each.scheduler, each.steps, each.guidance, each.models) for each in RECOMMENDED]
    print_table(("FAMILY", "BASE", "MEMORY", "SCHEDULER", "STEPS", "GUIDANCE", "MODELS"), rows)


def _load(data_dir: Path | None) -> Settings:
    settings = load_settings(data_dir=data_dir)
    if data_dir is not None and not settings.data_dir.is_dir():
        raise BadConfiguration(f"There is no data directory {settings.data_dir}. Check the --data-dir.")
    return settings
