"""`promptreel models add`: imports a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from promptreel.bootstrap import build_database, build_importer, build_keys, build_models
from promptreel.commands.terminal import DataDir, bytes_bar, tell
from promptreel.importing.sources import HubSource, Source, read_source, suggest_id
from promptreel.jobs.import_params import ImportParams
from promptreel.models.card_fields import read_card_fields
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelRecord
from promptreel.models.verification import why_unusable
from promptreel.settings import load_settings


def _option(text: str, *names: str, default: str | None = None) -> Any:
    """An option that may be left out; `default` says what happens then."""
    return typer.Option(*names, help=text, show_default=default or False)


SOURCE = "A folder, a .safetensors file, a URL, or a hub id: owner/name[@revision][:file]."
FOUND_OUT = "what the files say"
Id = Annotated[str | None, _option("The model's id.", "--id", default="made of the source's name")]
Name = Annotated[str | None, _option("The name shown in lists.", default="the id")]
Description = Annotated[str | None, _option("A sentence or two.")]
Adapter = Annotated[str | None, _option("The id of the motion adapter that it is used with.")]
Vae = Annotated[str | None, _option("The id of the VAE that it is used with.")]
Betas = Annotated[str | None, _option("The noise table: linear or scaled_linear.", default=FOUND_OUT)]
Triggers = Annotated[str | None, _option("Phrases put before an enhanced prompt, separated by commas.")]
Qualities = Annotated[str | None, _option("Phrases put after an enhanced prompt, separated by commas.")]
Negative = Annotated[str | None, _option("The negative prompt of requests that have none.")]
Size = Annotated[str | None, _option("The size at which clips are made, such as 512x512.", default="the requested size")]
Frames = Annotated[int | None, _option("Frames in one window.", default=FOUND_OUT)]
Fps = Annotated[int | None, _option("The frame rate that it was trained at.", default="8, or what the files say")]
Scheduler = Annotated[str | None, _option("The scheduler of requests that name none.")]
Steps = Annotated[int | None, _option("The inference steps of requests that name none.")]
Guidance = Annotated[float | None, _option("The guidance scale of requests that name none.")]
LowGuidance = Annotated[float | None, _option("The guidance scale of Wan's second expert, with --guidance for the first.")]
Shift = Annotated[str | None, _option("How far Wan's noise levels are shifted towards noise; or by_size.", default=FOUND_OUT)]
ForExpert = Annotated[str | None, _option("Which of Wan 2.2's experts a LoRA is for: high_noise or low_noise.", default="both")]
Licence = Annotated[str | None, _option("The licence's name.", default="what the source says")]
Sha256 = Annotated[str | None, _option("What the file's hash must be.")]
OwnerKey = Annotated[str | None, _option("The API key that alone may use it: its id or first characters.", default="all keys")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the model that has this id.")]


def add_model(  # noqa: PLR0913, PLR0917 - one parameter for each option
    source: Annotated[str, typer.Argument(help=SOURCE)], data_dir: DataDir = None, model_id: Id = None, name: Name = None,
    description: Description = None, motion_adapter: Adapter = None, vae: Vae = None, beta_schedule: Betas = None,
    trigger_words: Triggers = None, quality_words: Qualities = None, negative_prompt: Negative = None, size: Size = None,
    max_frames: Frames = None, fps: Fps = None, scheduler: Scheduler = None, steps: Steps = None, guidance: Guidance = None,
    low_noise_guidance: LowGuidance = None, flow_shift: Shift = None, expert: ForExpert = None,
    licence: Licence = None, sha256: Sha256 = None, owner_key: OwnerKey = None, replace: Replace = False,
) -> None:  # fmt: skip
    """Import a model. Copies or downloads its files, finds out what it is, checks it. Run again, it goes on where it was."""
    width, _, height = (size or "").partition("x")
    given = {
        "name": name, "description": description or "", "motion_adapter": motion_adapter, "vae": vae, "licence": licence,
        "beta_schedule": beta_schedule, "trigger_words": _split(trigger_words), "quality_words": _split(quality_words),
        "default_negative_prompt": negative_prompt, "native_width": width or None, "native_height": height or None,
        "max_frames": max_frames, "fps": fps, "default_scheduler": scheduler, "default_steps": steps,
        "default_guidance": guidance, "low_noise_guidance": low_noise_guidance, "flow_shift": flow_shift,
        "expert": expert,
    }  # fmt: skip
    where = read_source(source)
    params = ImportParams(
        model_id=model_id or suggest_id(where),
        source=str(where),
        sha256=sha256.lower() if sha256 else None,
        card=read_card_fields(given).given,
        replace=replace,
        is_public=owner_key is None,
    )
    _run(params, where, data_dir=data_dir, owner_key=owner_key)


def _run(params: ImportParams, source: Source, *, data_dir: Path | None, owner_key: str | None) -> None:
    settings = load_settings(data_dir=data_dir)
    database = build_database(settings)
    owner = None if owner_key is None else build_keys(settings, database).get(owner_key).id
    token = os.environ.get("HF_TOKEN") if isinstance(source, HubSource) else None
    importer = build_importer(settings, database, hub_token=token)
    with bytes_bar() as show:
        record = importer.run(params, source, api_key_id=owner, on_bytes=show)
    _tell_imported(record, build_models(settings, database))


def _split(phrases: str | None) -> list[str]:
    return [each.strip() for each in (phrases or "").split(",") if each.strip()]


def _tell_imported(record: ModelRecord, models: ModelRegistry) -> None:
    if table := record.card.get("noise_table"):
        tell(f"noise table: {table}; {record.card.get('noise_table_why')}")
    problem = why_unusable(models.get(record.id), models)
    if problem:
        tell(f"it cannot be used yet: {problem}")
    base = f" for {record.base}" if record.base else ""
    print(f"{record.id}  ({record.kind.replace('_', ' ')}{base}, {record.size_bytes / 1e6:.1f} MB)")  # noqa: T201
