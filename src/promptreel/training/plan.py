"""A wish for a training becomes a plan: all settings decided, by the base and the preset. Imports no torch."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from promptreel.errors import InvalidParams, ModelNotFound
from promptreel.jobs.params import MAX_SEED
from promptreel.jobs.training_params import ExampleKind, TrainingParams
from promptreel.media import ExampleShape
from promptreel.models.composition import ModelSet, compose
from promptreel.models.families import FAMILIES, Family
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import DEFAULT_MODEL_ID, ModelRegistry
from promptreel.training.presets import PRESETS, Preset

DEFAULT_PRESET = "subject"
LORA_TYPES = ("lora", "lycoris")
DEFAULT_SIDE, LEAST_SIDE, MOST_SIDE = 512, 64, 1024
DEFAULT_FRAMES = 16
MOST_BATCH = 16
MOST_RANK = 256
LEAST_RATE, MOST_RATE = 1e-7, 1e-2
MOST_SAMPLE_PROMPTS = 3
MOST_WINDOWS = 4
"""A clip is kept as long as so many of those that the model learns from at once."""
_ID_LENGTH = 10
_ID_CHARACTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What somebody asks for. None means the default of the preset or of the base. `replace`: whether a model of theirs with
    this id is replaced.
    """

    base: str = DEFAULT_MODEL_ID
    preset: str = DEFAULT_PRESET
    model_id: str | None = None
    trigger: str | None = None
    instance_prompt: str | None = None
    class_prompt: str | None = None
    motion_adapter: str | None = None
    lora_type: str = LORA_TYPES[0]
    steps: int | None = None
    batch_size: int | None = None
    rank: int | None = None
    learning_rate: float | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: int | None = None
    seed: int | None = None
    sample_prompts: Sequence[str] = ()
    name: str | None = None
    is_public: bool = True
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`params` have no examples yet; these are fitted to `shape`. `notes`: what was changed of the wish, for people."""

    params: TrainingParams
    preset: Preset
    shape: ExampleShape
    notes: tuple[str, ...]


def plan_training(
    wanted: Wanted, models: ModelRegistry, *, captions: Sequence[str | None], is_making: Callable[[str], bool]
) -> Plan:
    """`captions`: of each example. `is_making`: whether an unfinished training makes a model with this id.

    Raises InvalidParams, ModelNotFound and CheckpointUnusable.
    """
    preset = find_preset(wanted.preset)
    found = _find_base(wanted, preset, models)
    card, family = found.checkpoint, FAMILIES[found.checkpoint.family]
    notes: list[str] = []
    width, height = _choose_size(wanted, found, family, notes)
    prompt = _choose_prompt(wanted, captions)
    params = TrainingParams(
        model_id=_choose_id(wanted, models, is_making),
        base=card.model_id,
        preset=preset.name,
        examples=(),
        instance_prompt=prompt,
        trigger=wanted.trigger,
        class_prompt=wanted.class_prompt,
        motion_adapter=found.adapter_id,
        lora_type=wanted.lora_type,
        steps=_clamp("steps", wanted.steps, preset.steps, preset.most_steps, notes),
        batch_size=_clamp("batch_size", wanted.batch_size, preset.batch_size, MOST_BATCH, notes),
        rank=wanted.rank or preset.rank,
        learning_rate=wanted.learning_rate or preset.learning_rate,
        caption_dropout=preset.caption_dropout,
        width=width,
        height=height,
        num_frames=_choose_frames(wanted, found, family, notes),
        fps=wanted.fps or card.fps,
        seed=secrets.randbelow(MAX_SEED + 1) if wanted.seed is None else wanted.seed,
        sample_prompts=tuple(wanted.sample_prompts) or (prompt,),
        name=wanted.name,
        is_public=wanted.is_public,
    )
    return Plan(params=params, preset=preset, shape=_shape_of(params, family.size_multiple_of(card)), notes=tuple(notes))


def _shape_of(params: TrainingParams, multiple: int) -> ExampleShape:
    return ExampleShape(
        pixels=params.width * params.height,
        multiple=multiple,
        num_frames=params.num_frames,
        most_frames=MOST_WINDOWS * params.num_frames,
        fps=params.fps,
    )


def find_preset(name: str) -> Preset:
    """Raises InvalidParams."""
    if name not in PRESETS:
        raise InvalidParams({"preset": [f"There is no preset {name[:100]!r}. Use one of: {', '.join(PRESETS)}."]})
    return PRESETS[name]


def check_number(count: int, preset: Preset, *, field: str) -> None:
    """Raises InvalidParams unless the preset takes so many examples."""
    if not preset.fewest <= count <= preset.most:
        what = "pictures" if preset.examples is ExampleKind.PICTURE else "clips"
        why = (
            f"The preset {preset.name!r} learns from {preset.fewest} to {preset.most} {what}, and {count or 'none'} were sent."
        )
        raise InvalidParams({field: [why]})


def _find_base(wanted: Wanted, preset: Preset, models: ModelRegistry) -> ModelSet:
    card = models.get(wanted.base)
    if card.kind is not ModelKind.CHECKPOINT:
        what = card.kind.value.replace("_", " ")
        raise InvalidParams({"base": [f"{wanted.base!r} is a {what}: models are trained on a checkpoint."]})
    if card.family not in preset.families or card.family not in FAMILIES:
        able = [each.name for each in PRESETS.values() if card.family in each.families]
        instead = f"Presets for it: {', '.join(able)}." if able else "There is no preset for it."
        why = f"{wanted.base!r} is of the family {card.family!r}, which the preset {preset.name!r} does not train. {instead}"
        raise InvalidParams({"base": [why]})
    return compose(models, wanted.base, wanted.motion_adapter)


def _choose_size(wanted: Wanted, found: ModelSet, family: Family, notes: list[str]) -> tuple[int, int]:
    card = found.checkpoint
    asked = (wanted.width or DEFAULT_SIDE, wanted.height or DEFAULT_SIDE)
    if card.native_width is not None and card.native_height is not None:
        size = (card.native_width, card.native_height)
    else:
        multiple = family.size_multiple_of(card)
        size = (max(1, asked[0] // multiple) * multiple, max(1, asked[1] // multiple) * multiple)
    if (wanted.width or wanted.height) and size != asked:
        notes.append(f"trained at {size[0]}x{size[1]}, not {asked[0]}x{asked[1]}")
    return size


def _choose_frames(wanted: Wanted, found: ModelSet, family: Family, notes: list[str]) -> int:
    card = found.checkpoint
    num_frames = family.fit_frames(min(wanted.num_frames or DEFAULT_FRAMES, card.max_frames), card)
    if wanted.num_frames and num_frames != wanted.num_frames:
        notes.append(f"clips have {num_frames} frames, not {wanted.num_frames}: {card.model_id} learns from so many at once")
    return num_frames


def _choose_prompt(wanted: Wanted, captions: Sequence[str | None]) -> str:
    """The caption of examples without one. Raises InvalidParams if there is none and one is needed."""
    given = wanted.instance_prompt or wanted.trigger
    if given:
        return given
    if not captions or not all(captions):
        raise InvalidParams(
            {"instance_prompt": ["The instance prompt field is required: say what the examples show, or caption each of them."]}
        )
    return str(captions[0])


def _choose_id(wanted: Wanted, models: ModelRegistry, is_making: Callable[[str], bool]) -> str:
    """Raises InvalidParams if the id that was asked for cannot be used."""
    if wanted.model_id is None:
        while True:
            drawn = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
            if not is_making(drawn) and not _is_there(drawn, models):
                return drawn
    models.check_id(wanted.model_id)
    if is_making(wanted.model_id):
        why = (
            f"The id {wanted.model_id!r} is that of a training that has not ended. Choose another one, or cancel that training."
        )
        raise InvalidParams({"model_id": [why]})
    if not wanted.replace and _is_there(wanted.model_id, models):
        raise InvalidParams({"model_id": [f"You have a model {wanted.model_id!r} already. Choose another id, or replace it."]})
    return wanted.model_id


def _is_there(model_id: str, models: ModelRegistry) -> bool:
    try:
        models.get(model_id)
    except ModelNotFound:
        return False
    return True


def _clamp(name: str, wanted: int | None, default: int, most: int, notes: list[str]) -> int:
    if wanted is None:
        return default
    used = min(max(1, wanted), most)
    if used != wanted:
        notes.append(f"{name} {wanted} is out of range: {used} is used")
    return used
