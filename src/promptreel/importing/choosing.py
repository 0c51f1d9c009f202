"""Which files of a folder or a repository are one model, by their names alone: before anything is downloaded or copied.

Names only say which files belong together. What the files are, their contents say (models/detection.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from promptreel.errors import CheckpointUnusable
from promptreel.models.json_files import shorten

INDEX = "model_index.json"
COMPONENTS = frozenset(
    {"unet", "vae", "text_encoder", "tokenizer", "scheduler", "motion_adapter", "transformer", "transformer_2", "image_encoder"}
)
"""Folders of a pipeline in diffusers' layout that may be read. Safety checkers and the like are left behind."""

CARD = "promptreel.json"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
HOW_TO_CONVERT = (
    "Pickled weights can run code when they are opened, so they are never read. Take the same weights as .safetensors, or "
    "convert them where you trust them: "
    'python -c "import sys, torch; from safetensors.torch import save_file; w = torch.load(sys.argv[1], weights_only=True); '
    "w = w.get('state_dict') or w.get('string_to_param') or w; "
    'save_file({k: v.clone().contiguous() for k, v in w.items() if torch.is_tensor(v)}, sys.argv[2])" OLD.ckpt NEW.safetensors'
)

_STEMS = "diffusion_pytorch_model|model"
_PLAIN = re.compile(rf"({_STEMS})(-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?", re.ASCII)
_FP16 = re.compile(
    rf"({_STEMS})(\.fp16(-\d{{5}}-of-\d{{5}})?|-\d{{5}}-of-\d{{5}}\.fp16)\.safetensors|({_STEMS})\.safetensors\.index\.fp16\.json",
    re.ASCII,
)
_TEXTS = (".json", ".txt")
_SHOWN = 8


def choose_files(names: Collection[str], wanted: str | None, *, of: str) -> tuple[str, ...]:
    """The names of one model's files. `wanted`: the file or folder that the user named. `of`: where they are, for messages.

    Raises CheckpointUnusable, with what to do, if there is none, or if there are several and only the user can choose.
    """
    if wanted is not None:
        return _choose_wanted(names, wanted, of=of)
    if INDEX in names:
        return _choose_pipeline(names)
    if "config.json" in names and (weights := _weights_in(names, "")):
        return ("config.json", *weights)
    files = sorted(name for name in names if name.endswith(".safetensors"))
    if len(files) == 1:
        return (*files,)
    if files:
        raise CheckpointUnusable(f"{of} holds {len(files)} models. Name one of its files: {_name_some(files)}.")
    raise _nothing_in(names, of)


def _choose_wanted(names: Collection[str], wanted: str, *, of: str) -> tuple[str, ...]:
    if wanted in names:
        if wanted.endswith(PICKLES):
            raise CheckpointUnusable(f"{shorten(wanted)} is pickled. {HOW_TO_CONVERT}")
        folder = wanted.rpartition("/")[0]
        config = f"{folder}/config.json" if folder else "config.json"
        has_config = _PLAIN.fullmatch(wanted.rpartition("/")[2]) or _FP16.fullmatch(wanted.rpartition("/")[2])
        return (config, wanted) if has_config and config in names else (wanted,)
    folder = wanted.rstrip("/") + "/"
    inside = {name.removeprefix(folder) for name in names if name.startswith(folder)}
    if not inside:
        raise CheckpointUnusable(f"{of} holds no {shorten(wanted)}. It holds {_name_some(sorted(names))}.")
    return tuple(folder + name for name in choose_files(inside, None, of=f"{of}, in {shorten(folder)},"))


def _choose_pipeline(names: Collection[str]) -> tuple[str, ...]:
    """A pipeline in diffusers' layout: of its weights the plain ones, or the variant fp16 where only that is everywhere."""
    parts = sorted({name.partition("/")[0] for name in names if "/" in name} & COMPONENTS)
    if "image_encoder" in parts and "transformer" not in parts:
        parts.remove("image_encoder")  # of an image prompt for Stable Diffusion, which is never loaded
    plain = {part: _matching(names, part, _PLAIN) for part in parts}
    fp16 = {part: _matching(names, part, _FP16) for part in parts}
    weighted = [part for part in parts if plain[part] or fp16[part] or _pickled(names, part)]
    for part in weighted:
        if not plain[part] and not fp16[part]:
            raise CheckpointUnusable(f"{part}/ holds {_pickled(names, part)[0]} and no .safetensors file. {HOW_TO_CONVERT}")
    if all(plain[part] for part in weighted):
        weights = [name for part in weighted for name in plain[part]]
    elif all(fp16[part] for part in weighted):
        weights = [name for part in weighted for name in fp16[part]]
    else:
        weights = [name for part in weighted for name in (*plain[part], *fp16[part])]
    texts = [name for name in names if _is_text_of(name, parts)]
    return tuple(dict.fromkeys([*([CARD] if CARD in names else []), INDEX, *sorted(texts), *weights]))


def _is_text_of(name: str, parts: Collection[str]) -> bool:
    part, _, file = name.partition("/")
    return part in parts and "/" not in file and file.endswith(_TEXTS) and ".index." not in file


def _matching(names: Iterable[str], part: str, pattern: re.Pattern[str]) -> list[str]:
    """The component's files; "" is the root."""
    folder = f"{part}/" if part else ""
    return sorted(name for name in names if name.startswith(folder) and pattern.fullmatch(name.removeprefix(folder)))


def _pickled(names: Iterable[str], part: str) -> list[str]:
    folder = f"{part}/"
    return sorted(shorten(name) for name in names if name.startswith(folder) and name.endswith(PICKLES))


def _weights_in(names: Iterable[str], part: str) -> list[str]:
    return _matching(names, part, _PLAIN) or _matching(names, part, _FP16)


def _nothing_in(names: Collection[str], of: str) -> CheckpointUnusable:
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        return CheckpointUnusable(f"{of} holds pickled weights only: {_name_some(pickles)}. {HOW_TO_CONVERT}")
    return CheckpointUnusable(f"{of} holds no .safetensors file.")


def _name_some(names: list[str]) -> str:
    shown = ", ".join(shorten(name, 80) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
