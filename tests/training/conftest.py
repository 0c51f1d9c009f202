from __future__ import annotations

from pathlib import Path

import pytest
import torch

from promptreel.training.presets import PRESETS, ExampleKind
from tests.generation.checkpoints import make_tiny_checkpoint
from tests.training.orders import draw_clips, draw_pictures, make_order, run

KINDS = {
    "subject": ("subject", {"class_prompt": "a cat"}),
    "lycoris": ("subject", {"lora_type": "lycoris", "rank": 8}),
    "style": ("style", {}),
    "motion": ("motion", {"class_prompt": "a cat"}),
    "dreambooth": ("dreambooth", {"class_prompt": "a cat"}),
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_checkpoint(folder / "tiny")
    make_tiny_checkpoint(folder / "tiny-v", prediction_type="v_prediction")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return draw_clips(tmp_path_factory.mktemp("clips"))


class Trained:
    """One uninterrupted training of each kind, made when it is first asked for."""

    def __init__(self, models_dir: Path, pictures: list[str], clips: list[str], root: Path) -> None:
        self._models_dir, self._root = models_dir, root
        self._files = {ExampleKind.PICTURE: pictures, ExampleKind.CLIP: clips}

    def order(self, kind: str, folder: Path, **changed: object):
        preset, params = KINDS[kind]
        return make_order(self._models_dir, folder, preset, self._files[PRESETS[preset].examples], **{**params, **changed})

    def folder(self, kind: str) -> Path:
        folder = self._root / kind
        if not folder.exists():
            folder.mkdir()
            run(self.order(kind, folder))
        return folder


@pytest.fixture(scope="session")
def trained(models_dir: Path, pictures: list[str], clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(models_dir, pictures, clips, tmp_path_factory.mktemp("trained"))
