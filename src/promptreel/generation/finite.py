"""Fails a job whose numbers become infinite or NaN.

They come from a weight that overflowed in its file, or an activation that overflows in fp16, and they spread. Clamped to 0 to
255 they would be an all-black clip, reported as a success.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from promptreel.errors import GenerationFailed
from promptreel.generation.devices import Device

Stage = Literal["encoding the prompt", "encoding the init", "denoising", "decoding"]


def check_finite(numbers: Tensor, stage: Stage, *, model_id: str, device: Device) -> Tensor:
    """Returns the numbers unchanged. Raises GenerationFailed if one is infinite or NaN."""
    if bool(numbers.isfinite().all()):
        return numbers
    raise GenerationFailed(
        f"the model {model_id!r} made numbers that are not finite while {stage} on {device}: nothing can be seen of its clip. "
        "A weight in its files is infinite or missing, or its numbers are too large for this format: get its files again, or a "
        "version that is made for this format."
    )
