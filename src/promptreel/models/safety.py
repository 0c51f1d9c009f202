"""The gate in front of every loader: a checkpoint folder that passes holds no code, no pickle and no unknown class."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptreel.errors import CheckpointUnusable
from promptreel.models.registry import CARD_NAME

SUFFIXES = (".safetensors", ".json", ".txt", ".md")
MAX_HEADER_BYTES = 8 << 20  # Stable Diffusion's largest is 0.2 MB; parsed JSON takes many times its size in memory

PIPELINES = ("AnimateDiffPipeline", "StableDiffusionPipeline")
NEEDED = {
    "unet": r"diffusers\.(UNet2DConditionModel|UNetMotionModel)",
    "motion_adapter": r"diffusers\.MotionAdapter",
    "vae": r"diffusers\.(AutoencoderKL|AutoencoderDC|AutoencoderTiny)",
    "text_encoder": r"transformers\.CLIPTextModel",
    "tokenizer": r"transformers\.CLIPTokenizer(Fast)?",
    "scheduler": r"diffusers\.[A-Z][A-Za-z0-9]*Scheduler",
}
"""The components of a checkpoint, and the classes that each may name."""
UNUSED = {
    "safety_checker": r"stable_diffusion\.StableDiffusionSafetyChecker",
    "feature_extractor": r"transformers\.(CLIPImageProcessor|CLIPFeatureExtractor)",
    "image_encoder": r"transformers\.CLIPVisionModelWithProjection",
}
"""Components that public Stable Diffusion checkpoints name and that nothing here loads."""
WITH_WEIGHTS = ("unet", "motion_adapter", "vae", "text_encoder")
HASHED_SUFFIXES = (".safetensors", ".json", ".txt")
AGAIN = "Download it again, or convert the checkpoint to safetensors again."


def check_checkpoint_dir(path: Path) -> None:
    """Refuses a folder that could run code, read outside itself, or load as something else than it says.

    Reads file names, JSON and the headers of the weights, no tensor. Raises CheckpointUnusable, which names the file.
    """
    root = path.resolve()
    if not root.is_dir():
        raise CheckpointUnusable(
            f"{path.name} is not a folder. Put the checkpoint there in diffusers' layout, see docs/models.md."
        )
    try:
        for file in _files(root):
            _check_file(file, root)
        _check_index(root)
    except OSError as error:
        raise CheckpointUnusable(f"A file of the checkpoint cannot be read: {error.strerror}. Check its rights.") from error


def model_hash(path: Path) -> str:
    """SHA-256 over the names and contents of the weights and configs: equal for equal models, whatever their cards say.

    Reads every byte, seconds for a large checkpoint. Raises CheckpointUnusable when there is nothing to read.
    """
    digest = hashlib.sha256()
    hashed = (file for file in _files(path) if file.suffix in HASHED_SUFFIXES)
    files = {file.relative_to(path).as_posix(): file for file in hashed}
    files.pop(CARD_NAME, None)
    if not files:
        raise CheckpointUnusable(
            f"{path.name} holds no weights. Put the checkpoint there in diffusers' layout, see docs/models.md."
        )
    try:
        for name, file in sorted(files.items()):
            with file.open("rb") as content:
                digest.update(os.fsencode(name) + b"\0" + hashlib.file_digest(content, "sha256").digest())
    except OSError as error:
        raise CheckpointUnusable(f"A file of the checkpoint cannot be read: {error.strerror}. Check its rights.") from error
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    """Everything under `root` but plain folders: links to folders are not followed and come out as they are."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            entry = Path(folder, name)
            if entry.is_symlink() or not entry.is_dir():
                yield entry


def _check_file(file: Path, root: Path) -> None:
    name = file.relative_to(root)
    if not Path(os.path.realpath(file)).is_relative_to(root):
        raise CheckpointUnusable(f"{name} is a link out of the checkpoint's folder. Copy the file itself there (cp -L).")
    if not file.is_file():
        raise CheckpointUnusable(f"{name} is not a plain file. Remove it, or put the file itself there.")
    if file.suffix not in SUFFIXES:
        raise CheckpointUnusable(
            f"{name} is refused: only {', '.join(SUFFIXES)} files may be in a checkpoint's folder. "
            "Convert other weights to safetensors and remove what is left."
        )
    if file.suffix == ".safetensors":
        _check_safetensors(file, str(name))


def _check_safetensors(file: Path, name: str) -> None:
    """The format: 8 bytes little-endian header length, a JSON object, then the tensors' bytes without gap or rest."""
    size = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointUnusable(f"{name} is no safetensors file: its header has a wrong length. {AGAIN}")
        text = content.read(length)
    try:
        header = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointUnusable(f"{name} is no safetensors file: its header is not JSON. {AGAIN}") from error
    if not isinstance(header, dict):
        raise CheckpointUnusable(f"{name} is no safetensors file: its header is not an object. {AGAIN}")
    spans = sorted(_span(tensor, name) for key, tensor in header.items() if key != "__metadata__")
    end = 0
    for begin, next_end in spans:
        if begin != end or next_end < begin:
            raise CheckpointUnusable(f"{name} is damaged: its tensors overlap or leave gaps. {AGAIN}")
        end = next_end
    if end != size - 8 - length:
        raise CheckpointUnusable(f"{name} is damaged: its header speaks of {end} bytes, it holds {size - 8 - length}. {AGAIN}")


def _span(tensor: Any, name: str) -> tuple[int, int]:
    """Where a tensor's bytes begin and end, counted from the end of the header."""
    offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise CheckpointUnusable(f"{name} is damaged: a tensor has no offsets. {AGAIN}")
    return offsets[0], offsets[1]


def _check_index(root: Path) -> None:
    index = _read_index(root / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise CheckpointUnusable(
            f"model_index.json names the pipeline {pipeline!r}; Promptreel runs {' and '.join(PIPELINES)} only."
        )
    components = {key: value for key, value in index.items() if isinstance(value, list) and not key.startswith("_")}
    for component, named in components.items():
        if named != [None, None]:
            _check_class(component, named)
    for component in NEEDED:
        if components.get(component, [None, None]) == [None, None] or not (root / component).is_dir():
            raise CheckpointUnusable(_missing(component))
    for component in WITH_WEIGHTS:
        if not any((root / component).glob("*.safetensors")):
            raise CheckpointUnusable(f"{component}/ holds no .safetensors file. Download the weights again, or convert them.")


def _read_index(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointUnusable(
            "The checkpoint has no model_index.json. Save it again in diffusers' layout, see docs/models.md."
        )
    try:
        index = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointUnusable("model_index.json is not JSON. Save the checkpoint again in diffusers' layout.") from error
    if not isinstance(index, dict):
        raise CheckpointUnusable("model_index.json is not a JSON object. Save the checkpoint again in diffusers' layout.")
    return index


def _check_class(component: str, named: list[Any]) -> None:
    allowed = (NEEDED | UNUSED).get(component)
    if allowed is None or re.fullmatch(allowed, ".".join(map(str, named))) is None:
        raise CheckpointUnusable(
            f"model_index.json gives {component!r} the class {named!r}, which Promptreel does not load. "
            "Use a Stable Diffusion 1.5 checkpoint with a motion adapter, see docs/models.md."
        )


def _missing(component: str) -> str:
    if component == "motion_adapter":
        # diffusers would fill the gap with random motion modules, without a word.
        return (
            "The checkpoint has no motion adapter, so nothing would move as it should. Copy one into motion_adapter/ and add "
            '"motion_adapter": ["diffusers", "MotionAdapter"] to model_index.json.'
        )
    return f"The checkpoint has no {component}/, or model_index.json does not name it. Save it again in diffusers' layout."
