"""Numbers that are none: a clip that is not finite is no success.

A weight that overflowed in its file, or an activation that does in fp16, becomes infinite or NaN, and so does all that follows
from it: clamped to 0 to 255, an all-black clip that nobody is told of.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from promptreel.errors import GenerationFailed
from promptreel.generation.devices import Device

Stage = Literal["encoding the prompt", "encoding the init", "denoising", "decoding"]


def check_finite(numbers: Tensor, stage: Stage, *, model_id: str, device: Device) -> Tensor:
    """The same numbers, of any shape. Raises GenerationFailed if one of them is infinite or NaN."""
    if bool(numbers.isfinite().all()):
        return numbers
    raise GenerationFailed(
        f"the model {model_id!r} made numbers that are not finite while {stage} on {device}: nothing can be seen of its clip. "
        "A weight in its files is infinite or missing, or its numbers are too large for this format: get its files again, or a "
        "version that is made for this format."
    )
