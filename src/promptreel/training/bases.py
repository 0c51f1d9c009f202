"""Loads the base of a training, as the engine does: what is loaded is what the gate has checked."""

from __future__ import annotations

from pathlib import Path

import torch

from promptreel.errors import TrainingFailed
from promptreel.generation.compute import ComputeThreads
from promptreel.generation.devices import Device, pick_device
from promptreel.generation.families.animatediff import LoadedCheckpoint, check_animatediff
from promptreel.jobs.database import open_database
from promptreel.models import families
from promptreel.models.composition import ModelSet, compose
from promptreel.models.families import get_family
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelStore
from promptreel.models.stored_files import StoredFiles
from promptreel.training.orders import ModelPlaces, Order


def find_base(order: Order) -> ModelSet:
    """Raises ModelNotFound, InvalidParams, CheckpointUnusable and TrainingFailed."""
    models = compose(_open_registry(order.models), order.params.base, order.params.motion_adapter)
    if get_family(models.checkpoint) is not families.ANIMATEDIFF:
        raise TrainingFailed(f"Models of the family {models.checkpoint.family!r} cannot be trained with this preset.")
    return models


def load_base(models: ModelSet, device: Device, compute: ComputeThreads) -> LoadedCheckpoint:
    """Raises CheckpointUnusable."""
    loaded = check_animatediff(models, device, compute).load()
    assert isinstance(loaded, LoadedCheckpoint)
    return loaded


def choose_device(order: Order) -> Device:
    """float32 on a CPU. On a GPU that multiplies bf16, a LoRA's base is in bf16, and all computes in it; weights that are
    trained are in float32 everywhere. float16 is too narrow for gradients."""
    if not order.device.startswith("cuda"):
        return Device(order.device, torch.float32)
    best = pick_device(order.device)
    takes_half = best.dtype is torch.bfloat16 and not order.preset.is_whole
    return Device(order.device, torch.bfloat16 if takes_half else torch.float32)


def _open_registry(places: ModelPlaces) -> ModelRegistry:
    store = None
    if places.database is not None:
        where = places.database if "://" in places.database else Path(places.database)
        store = ModelStore(open_database(where, create=False))
    return ModelRegistry(
        built_in=Path(places.built_in),
        models_dir=Path(places.models_dir),
        store=store,
        files=None if places.model_files is None else StoredFiles(Path(places.model_files)),
    )
