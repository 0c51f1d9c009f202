"""A component's weights: their files, where each tensor is stored, and whether all numbers are finite.

Reads only safetensors headers, and the bytes for `check_finite`. Builds nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from promptreel.errors import CheckpointUnusable
from promptreel.models.json_files import read_object, shorten

if TYPE_CHECKING:
    import numpy as np

MAX_HEADER_BYTES = 2 << 20  # Stable Diffusion's largest is 0.2 MB; parsed JSON takes many times its size in memory
MAX_DIMENSIONS = 8
MAX_SHARDS = 100
AGAIN = "Download it again, or convert the checkpoint to safetensors again."

# Bytes per number, and the mask of its exponent: all bits are set in infinities and NaN.
_FORMATS = {"F64": (8, 0x7FF << 52), "F32": (4, 0xFF << 23), "F16": (2, 0x1F << 10), "BF16": (2, 0xFF << 7)}
# Formats that are never loaded: only their size matters.
_OTHER_FORMATS = dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1) | dict.fromkeys(("I16", "U16"), 2)
_OTHER_FORMATS |= dict.fromkeys(("I32", "U32"), 4) | dict.fromkeys(("I64", "U64"), 8)
_SIZES = _OTHER_FORMATS | {dtype: size for dtype, (size, _) in _FORMATS.items()}
_BYTES_AT_ONCE = 4 << 20
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.safetensors", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file: `begin` and `end` are byte offsets in the file; `name` is its name there."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def find_weights(root: Path, components: Mapping[str, str]) -> dict[str, tuple[Path, ...]]:
    """The weight files of each component. `components`: the plain file name of each, without suffix.

    A component has one file, or several with an index. The plain files are taken, or those of the variant fp16, as
    `save_pretrained(variant="fp16")` names it, if all components have one and some have nothing else. Where components have
    only the one or only the other, each is taken as it is. Raises CheckpointUnusable if files are missing.
    """
    found = {}
    for component, stem in components.items():
        folder = root / component
        found[component] = {
            "plain": _find_files(folder, f"{stem}.safetensors", f"{stem}.safetensors.index.json"),
            "fp16": _find_files(folder, f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json"),
        }
        if not any(found[component].values()):
            raise CheckpointUnusable(f"{component}/ holds no {stem}.safetensors. Download the weights again, or convert them.")
    for variant in ("plain", "fp16"):
        if all(files[variant] for files in found.values()):
            return {component: files[variant] for component, files in found.items()}
    return {component: files["plain"] or files["fp16"] for component, files in found.items()}


def _find_files(folder: Path, whole: str, index: str) -> tuple[Path, ...]:
    if (folder / whole).is_file():
        return (folder / whole,)
    return _read_shards(folder, index) if (folder / index).is_file() else ()


def _read_shards(folder: Path, index: str) -> tuple[Path, ...]:
    name = f"{folder.name}/{index}"
    placed = read_object(folder / index, name, most=MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(shard, str) for shard in placed.values()):
        raise CheckpointUnusable(f"{name} has no weight_map that names a file for each tensor. {AGAIN}")
    shards = sorted(set(placed.values()))
    if len(shards) > MAX_SHARDS:
        raise CheckpointUnusable(f"{name} names {len(shards)} files; {MAX_SHARDS} are enough. Save the weights in larger ones.")
    for shard in shards:
        if _SHARD_NAME.fullmatch(shard) is None:
            raise CheckpointUnusable(f"{name} names {shorten(repr(shard))}: only .safetensors files beside it may be named.")
        if not (folder / shard).is_file():
            raise CheckpointUnusable(f"{folder.name}/{shard} is missing, which {index} names. Download the weights again.")
    held = {tensor: shard for shard in shards for tensor in read_header(folder / shard, f"{folder.name}/{shard}")}
    if held != placed:
        wrong = min(held.items() ^ placed.items())[0]
        raise CheckpointUnusable(f"{name} and its files do not agree on where {shorten(repr(wrong))} is. {AGAIN}")
    return tuple(folder / shard for shard in shards)


def read_tensors(files: Iterable[Path], root: Path) -> dict[str, StoredTensor]:
    """All tensors of the files, by name. Raises CheckpointUnusable for a damaged file or a duplicate name."""
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        name = file.relative_to(root).as_posix()
        for key, tensor in read_header(file, name).items():
            if key in tensors:
                raise CheckpointUnusable(f"{name} holds {shorten(repr(key))}, which another file holds too. {AGAIN}")
            tensors[key] = tensor
    return tensors


def read_header(file: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors by the library's reading of the header. It refuses headers that do not cover every byte exactly once.

    So a tensor's offset follows from the sizes before it, and we need not parse the header ourselves.
    """
    try:
        start = _find_start(file, name)
        with safe_open(file, framework="np") as content:
            described = {key: _describe(content.get_slice(key)) for key in content.offset_keys()}
    except OSError as error:
        raise CheckpointUnusable(f"{name} cannot be read: {error.strerror or 'it is gone'}. Check its rights.") from error
    except SafetensorError as error:
        raise CheckpointUnusable(f"{name} is damaged: {shorten(error)}. {AGAIN}") from error
    tensors = {}
    for key, (dtype, shape) in described.items():
        if dtype not in _SIZES or len(shape) > MAX_DIMENSIONS:
            raise CheckpointUnusable(f"{name} is damaged: {shorten(repr(key))} is of no format that weights have. {AGAIN}")
        end = start + math.prod(shape) * _SIZES[dtype]
        tensors[key] = StoredTensor(file=file, name=key, dtype=dtype, shape=shape, begin=start, end=end)
        start = end
    return tensors


def read_metadata(file: Path, name: str) -> dict[str, str]:
    """What the header says of the file, such as its title. Raises CheckpointUnusable."""
    try:
        with safe_open(file, framework="np") as content:
            return dict(content.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointUnusable(f"{name} cannot be read. {AGAIN}") from error


def _find_start(file: Path, name: str) -> int:
    """The offset of the first tensor. Refuses large headers: the library parses up to 100 MB, in many times as much memory."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointUnusable(f"{name} is no safetensors file: its header has a wrong length. {AGAIN}")
    return 8 + length


def _describe(tensor: Any) -> tuple[str, tuple[int, ...]]:
    return tensor.get_dtype(), tuple(tensor.get_shape())


def check_dtypes(tensors: Mapping[str, StoredTensor], component: str) -> None:
    """Raises CheckpointUnusable for number formats that the networks do not use."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _FORMATS:
            raise CheckpointUnusable(
                f"{component}/ stores {shorten(name)} as {tensor.dtype}. Save the weights as float16, bfloat16 or float32."
            )


def check_finite(tensors: Iterable[StoredTensor], names: Mapping[Path, str]) -> None:
    """Reads the tensors' bytes. Raises CheckpointUnusable for the first that contains an infinity or NaN.

    `names`: the files' names for the message. Tensors of whole numbers are skipped.
    """
    import numpy as np  # noqa: PLC0415 - an extra, which whoever computes with weights has

    part = np.empty(_BYTES_AT_ONCE, np.uint8)
    floating = (tensor for tensor in tensors if tensor.dtype in _FORMATS)
    for tensor in sorted(floating, key=lambda each: (each.file, each.begin)):
        if not _is_finite(tensor, part):
            raise CheckpointUnusable(
                f"{names.get(tensor.file, tensor.file.name)} holds numbers that are not finite, in {shorten(tensor.name)}: "
                "all that is made with them would be black. Convert the original weights again, to float32 if float16 "
                "is too narrow for them."
            )


def _is_finite(tensor: StoredTensor, part: np.ndarray[Any, np.dtype[np.uint8]]) -> bool:
    """`part` is a buffer that is reused for each read."""
    size, exponent = _FORMATS[tensor.dtype]
    left = tensor.end - tensor.begin
    with tensor.file.open("rb", buffering=0) as content:
        content.seek(tensor.begin)
        while left > 0:
            count = min(left, len(part))
            if content.readinto(part[:count].data) != count:
                raise CheckpointUnusable(f"{tensor.file.name} became shorter while it was read. {AGAIN}")
            bits = part[:count].view(f"<u{size}")
            bits &= bits.dtype.type(exponent)
            if int(bits.max()) == exponent:
                return False
            left -= count
    return True
