"""TrainingParams: a model to train, complete and frozen. Every field is decided before the job is queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self

CALLS_A_STEP = 3
"""A step's forward and backward take about as long as three calls of a video: the backward counts twice."""
CALLS_FOR_CLASS = 1
"""With a class prompt, the base is asked once more in each step."""
SAMPLES = 9
"""How often samples are made: at the start, and after each eighth of the steps."""
UNITS_OF_SAMPLE = 16 * 20 * 2
"""A sample's frames, steps and rows."""


class ExampleKind(StrEnum):
    """What a training example is: one picture, or a clip with motion."""

    PICTURE = "picture"
    CLIP = "clip"


@dataclass(frozen=True)
class Example:
    """One picture or clip to learn from. `key`: its file in storage. `sha256`: of that file."""

    key: str
    kind: ExampleKind
    caption: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """`model_id`: the id that the trained model gets. `base`: the checkpoint that it is trained on. `preset`: one of
    training/presets.py. `motion_adapter`: as in VideoParams.

    `instance_prompt` is the caption of examples without one, and the prompt of samples; `trigger` is its rare word, if it has
    one. `class_prompt` names the class whose look the base keeps (output preservation); None keeps none.

    `width` and `height` are pixels, the area that examples are fitted to. `num_frames` and `fps` are those of a clip.
    `sample_prompts` are made into clips at the start and each eighth of the steps. `is_public`: whether every API key may use
    the model.
    """

    kind: ClassVar[str] = "training"

    model_id: str
    base: str
    preset: str
    examples: tuple[Example, ...]
    instance_prompt: str
    trigger: str | None = None
    class_prompt: str | None = None
    motion_adapter: str | None = None
    lora_type: str = "lora"
    steps: int = 800
    batch_size: int = 4
    rank: int = 16
    learning_rate: float = 1e-4
    caption_dropout: float = 0.05
    width: int = 512
    height: int = 512
    num_frames: int = 16
    fps: int = 8
    seed: int = 0
    sample_prompts: tuple[str, ...] = ()
    name: str | None = None
    is_public: bool = True

    @property
    def batch_key(self) -> str:
        return f"{self.model_id}|training"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote. Ignores fields that a newer version added."""
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        examples = (Example(**{**each, "kind": ExampleKind(each["kind"])}) for each in given["examples"])
        return cls(**{**given, "examples": tuple(examples), "sample_prompts": tuple(given.get("sample_prompts", ()))})


def training_source(job_id: int) -> str:
    """What the registry says of where a trained model comes from."""
    return f"training {job_id}"


def training_units(params: TrainingParams) -> float:
    """A training's work, in the units of videos (eta.py): frames in calls to the model. API keys share the workers by them."""
    frames = params.num_frames if any(each.kind is ExampleKind.CLIP for each in params.examples) else 1
    calls = CALLS_A_STEP + (0 if params.class_prompt is None else CALLS_FOR_CLASS)
    return float(params.steps * params.batch_size * frames * calls + SAMPLES * len(params.sample_prompts) * UNITS_OF_SAMPLE)
