"""`promptreel train`: trains a model on a folder of pictures or clips, on this machine or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from promptreel.commands.terminal import DataDir, tell
from promptreel.commands.training_here import train_here
from promptreel.commands.training_there import train_there
from promptreel.commands.trainings import find_examples
from promptreel.errors import InvalidParams
from promptreel.jobs.params import MAX_SEED
from promptreel.jobs.training_params import ExampleKind
from promptreel.logs import set_up_logging
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.settings import load_settings
from promptreel.training.plan import DEFAULT_PRESET, LORA_TYPES, MOST_BATCH, MOST_RANK, find_preset
from promptreel.training.presets import PRESETS


def _option(text: str, *names: str, default: str | None = None, **more: Any) -> Any:
    """An option that may be left out; `default` says what happens then."""
    return typer.Option(*names, help=text, show_default=default or False, **more)


OF_PRESET = "the preset's"
PRESET_HELP = " ".join(f"{preset.name}: {preset.description}" for preset in PRESETS.values())
Folder = Annotated[Path, typer.Argument(help="Pictures or clips; a .txt of the same name says what one shows.")]
Base = Annotated[str, typer.Option(help="The checkpoint to train.")]
PresetName = Annotated[str, typer.Option(help=PRESET_HELP)]
Trigger = Annotated[str | None, _option("A rare word or two that stand for what is learned.")]
ModelId = Annotated[str | None, _option("The id that the model gets.", "--id", default="random")]
Name = Annotated[str | None, _option("The name shown in lists.", default="the id")]
InstancePrompt = Annotated[str | None, _option("The caption of what has none.", default="the trigger")]
ClassPrompt = Annotated[str | None, _option("The class whose look the base keeps, such as a snail.")]
MotionAdapter = Annotated[str | None, _option("The motion adapter's id.", default="the model's own")]
LoraType = Annotated[str, typer.Option(help=f"One of {', '.join(LORA_TYPES)}.")]
Steps = Annotated[int | None, _option("How long to train.", default=OF_PRESET, min=1)]
BatchSize = Annotated[int | None, _option("Examples a step.", default=OF_PRESET, min=1, max=MOST_BATCH)]
Rank = Annotated[int | None, _option("The size of the LoRA.", default=OF_PRESET, min=1, max=MOST_RANK)]
Rate = Annotated[float | None, _option("The learning rate.", default=OF_PRESET)]
Seed = Annotated[int | None, _option("The same seed trains the same model.", min=0, max=MAX_SEED)]
Prompts = Annotated[list[str] | None, _option("Made into clips on the way. Can be given several times.", default="the trigger")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the model that has this id.")]
Output = Annotated[
    Path | None, _option("The folder for clips that show how far it is.", "--output", "-o", default="ID-samples")
]
Server = Annotated[str | None, _option("Train on the server at this URL.")]
ApiKey = Annotated[str | None, _option("The server's API key.")]


def train(  # noqa: PLR0913, PLR0917 - one parameter for each option
    folder: Folder, base: Base = DEFAULT_MODEL_ID, preset: PresetName = DEFAULT_PRESET, trigger: Trigger = None,
    model_id: ModelId = None, name: Name = None, instance_prompt: InstancePrompt = None, class_prompt: ClassPrompt = None,
    motion_adapter: MotionAdapter = None, lora_type: LoraType = LORA_TYPES[0], steps: Steps = None,
    batch_size: BatchSize = None, rank: Rank = None, learning_rate: Rate = None, seed: Seed = None,
    sample_prompt: Prompts = None, replace: Replace = False, output: Output = None, data_dir: DataDir = None,
    server: Server = None, api_key: ApiKey = None,
) -> None:  # fmt: skip
    """Train a model on a folder of pictures or clips. Here or on a server; Ctrl-C cancels it there, too."""
    settings = load_settings(data_dir=data_dir, api_key=api_key)
    set_up_logging("warning")
    if lora_type not in LORA_TYPES:
        raise InvalidParams({"lora_type": [f"There is no LoRA type {lora_type!r}: use one of {', '.join(LORA_TYPES)}."]})
    field = "videos" if find_preset(preset).examples is ExampleKind.CLIP else "images"
    examples = find_examples(folder, field)
    given = {
        "base": base, "preset": preset, "trigger": trigger, "name": name, "instance_prompt": instance_prompt,
        "class_prompt": class_prompt, "motion_adapter": motion_adapter, "lora_type": lora_type, "steps": steps,
        "batch_size": batch_size, "rank": rank, "learning_rate": learning_rate, "seed": seed,
        "sample_prompts": sample_prompt, "replace": replace or None,
    }  # fmt: skip
    wanted = {option: value for option, value in given.items() if value is not None}
    if server is None:
        made = train_here(wanted | {"model_id": model_id}, examples, settings, field=field, output=output)
    else:
        made = train_there(wanted | {"id": model_id}, examples, server, settings.api_key, field=field, output=output)
    tell(f"the model is there: promptreel generate ... --model {made}")
    print(made)  # noqa: T201
