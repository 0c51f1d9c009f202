"""How much memory one training needs."""

from __future__ import annotations

from promptreel.errors import PromptreelError
from promptreel.jobs.training_params import TrainingParams
from promptreel.models.registry import ModelRegistry
from promptreel.training.presets import PRESETS

_PROCESS = 1 << 30
# In units of the base's files: its weights; for a checkpoint trained whole also gradients and two moments, in floats.
_LORA, _WHOLE = 2, 8


def estimate_bytes(params: TrainingParams, models: ModelRegistry) -> int:
    """The trainer's process, with the base and what is trained. 0 if the base is gone: the job fails at once, and says why."""
    try:
        card = models.get(params.base)
    except (PromptreelError, OSError):
        return 0
    size = sum(path.stat().st_size for path in card.path.rglob("*.safetensors"))
    return _PROCESS + size * (_WHOLE if PRESETS[params.preset].is_whole else _LORA)
