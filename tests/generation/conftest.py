from __future__ import annotations

import pytest
import torch

from promptreel.generation.devices import Device
from promptreel.generation.engine import Engine
from promptreel.models.registry import ModelRegistry
from tests.generation.checkpoints import MAX_FRAMES, make_tiny_checkpoint

CPU = Device("cpu", torch.float32)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    """`tiny`, `tiny-v` (which predicts v), `tiny-32` (only makes 32x32), `tiny-wrong` (its card claims too many frames)."""
    root = tmp_path_factory.mktemp("models")
    make_tiny_checkpoint(root / "tiny")
    make_tiny_checkpoint(root / "tiny-v", prediction_type="v_prediction")
    make_tiny_checkpoint(root / "tiny-32", native_width=32, native_height=32)
    make_tiny_checkpoint(root / "tiny-wrong", max_frames=MAX_FRAMES + 1)
    return ModelRegistry(built_in=root, models_dir=root / "none")


@pytest.fixture
def engine(models: ModelRegistry) -> Engine:
    return Engine(models, CPU)
