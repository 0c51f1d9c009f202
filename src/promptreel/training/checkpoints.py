"""Training checkpoints: all that a training needs to go on, in a folder each. safetensors and JSON; nothing is unpickled."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from promptreel.errors import TrainingFailed
from promptreel.training.tensor_files import file_errors, load_tensors, save_tensors, sync_folder, writing

KEPT = 2
_NAME = re.compile(r"step-\d{6,}")
_STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a training checkpoint has. `tensors`: by file and name. `state`: the step, the generator, and what else goes on."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class Checkpoints:
    """The training checkpoints in a folder. One is complete or absent, after a crash too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with file_errors():
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(".*.part"):
                shutil.rmtree(left, ignore_errors=True)

    def save(self, saved: Saved) -> str:
        """Returns its name. Raises StorageFailed and DiskFull; then the older ones are as they were."""
        name = f"step-{saved.state['step']:06d}"
        beside = self._folder / f".{name}.part"
        try:
            with file_errors():
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir()
                for file, tensors in saved.tensors.items():
                    save_tensors(beside / f"{file}.safetensors", tensors)
                with writing(beside / _STATE) as file:
                    file.write(json.dumps(saved.state).encode())
                sync_folder(beside)
                shutil.rmtree(self._folder / name, ignore_errors=True)  # of a run that died before its name was noted
                beside.rename(self._folder / name)
                sync_folder(self._folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        return name

    def load(self, name: str) -> Saved:
        """Raises TrainingFailed if it is gone or damaged."""
        folder = self._folder / name
        if _NAME.fullmatch(name) is None or not folder.is_dir():
            raise TrainingFailed(f"There is no training checkpoint {name[:40]!r}. Start the training anew.")
        try:
            state = json.loads((folder / _STATE).read_text())
        except (OSError, ValueError) as error:
            raise TrainingFailed(f"The training checkpoint {name} is damaged. Start the training anew.") from error
        return Saved(tensors={file.stem: load_tensors(file) for file in folder.glob("*.safetensors")}, state=state)

    def forget_older(self, name: str) -> None:
        """Deletes all but this one and the one before it."""
        older = sorted((each for each in self.names() if _step(each) < _step(name)), key=_step)
        for each in older[: len(older) - (KEPT - 1)]:
            shutil.rmtree(self._folder / each, ignore_errors=True)

    def names(self) -> list[str]:
        return [path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))
