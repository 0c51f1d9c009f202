"""Writes and reads safetensors. The files of equal tensors are equal, and a file is whole or absent, after a crash too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from promptreel.errors import DiskFull, StorageFailed, TrainingFailed, is_disk_full

_FORMATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """The library's own `save_file` writes the metadata in another order each time. Raises StorageFailed and DiskFull."""
    header: dict[str, Any] = {"__metadata__": dict(sorted((metadata or {}).items()))} if metadata else {}
    end = 0
    for name in sorted(tensors, key=lambda each: (-tensors[each].element_size(), each)):  # so that each is aligned
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _FORMATS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with writing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            if name != "__metadata__":
                plain = tensors[name].detach().cpu().contiguous().flatten()
                file.write(plain.view(torch.uint8).numpy().data)


@contextmanager
def writing(path: Path) -> Iterator[Any]:
    """A file open for writing, which gets its name once it is whole and on disk."""
    beside = path.with_name(f".{path.name}.part")
    with file_errors():
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises TrainingFailed for a damaged file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingFailed(f"{path.name} of a training checkpoint cannot be read. Start the training anew.") from error


def sync_folder(folder: Path) -> None:
    """Makes sure that the names in the folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def file_errors() -> Iterator[None]:
    """Turns errors of the file system into StorageFailed and DiskFull."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("The disk has no room for the training's files. It goes on once there is some.") from error
        raise StorageFailed(f"A file of the training cannot be written: {error.strerror}.") from error
