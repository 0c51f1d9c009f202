"""The kinds of model."""

from __future__ import annotations

from enum import StrEnum


class ModelKind(StrEnum):
    """What a model is."""

    CHECKPOINT = "checkpoint"
    MOTION_ADAPTER = "motion_adapter"
    VAE = "vae"
    LORA = "lora"
    EMBEDDING = "embedding"
