"""The kinds of model, and the family that is made of several."""

from __future__ import annotations

from enum import StrEnum

ANIMATEDIFF = "animatediff"
"""The family whose checkpoints may lack motion modules, which a motion adapter then brings."""


class ModelKind(StrEnum):
    """What a model is."""

    CHECKPOINT = "checkpoint"
    MOTION_ADAPTER = "motion_adapter"
    VAE = "vae"
    LORA = "lora"
    EMBEDDING = "embedding"

    @property
    def label(self) -> str:
        """In a sentence."""
        return {ModelKind.VAE: "VAE", ModelKind.LORA: "LoRA"}.get(self, self.replace("_", " "))

    @property
    def with_article(self) -> str:
        """The label with its article."""
        return f"{'an' if self is ModelKind.EMBEDDING else 'a'} {self.label}"
