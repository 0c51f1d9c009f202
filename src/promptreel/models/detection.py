"""What a model is: by its pipeline's class, else by its tensors. File names are not believed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptreel.errors import CheckpointUnusable
from promptreel.models.families import WAN
from promptreel.models.foreign import made_for, refuse_foreign, refuse_strange_lora, refuse_width, width_of_text
from promptreel.models.index import INDEX_NAME
from promptreel.models.json_files import read_object, shorten
from promptreel.models.kinds import ANIMATEDIFF, ModelKind
from promptreel.models.original_layout import TEXT_ENCODER, UNET, take
from promptreel.models.parts import PIPELINES
from promptreel.models.wan.card import base_of_lora, name_base
from promptreel.models.wan.checkpoint import PIPELINES as WAN_PIPELINES
from promptreel.models.wan.lora import is_wan_lora
from promptreel.models.weights import StoredTensor, read_header

Shapes = Mapping[str, StoredTensor]

_LORA = re.compile(r"(\.|_)lora(_linear_layer)?(\.|_)|lora_(up|down|A|B)\b|\.hada_|\.lokr_")
_VAE = re.compile(r"(^|\.)decoder\.(up\.0\.block|up_blocks\.0\.resnets|layers\.\d{1,3})\.")
_TOKEN = re.compile(r"emb_params|<[^<>]{1,100}>")
_NO_WORDS = frozenset({"emb_params", "clip_l"})
_LONGEST_WORD = 100
MOST_VECTORS = 75
"""Of an embedding: as many tokens as Stable Diffusion's text encoder takes at once."""
_SD15_CHANNELS = (320, 640, 1280, 1280)
_SD15_TEXT = 768


@dataclass(frozen=True, kw_only=True)
class Detected:
    """`base`: what it fits on; None if its tensors do not tell. `words`: what stands for an embedding, if its file says so."""

    kind: ModelKind
    family: str | None
    base: str | None
    words: tuple[str, ...] = ()


def detect(paths: Mapping[str, Path]) -> Detected:
    """`paths`: where each file is, by the author's name. Raises CheckpointUnusable for what Promptreel does not run."""
    if INDEX_NAME in paths:
        pipeline = read_object(paths[INDEX_NAME], INDEX_NAME).get("_class_name")
        if pipeline in WAN_PIPELINES:
            transformer, vae = (_read(paths, re.compile(rf"{part}/").match) for part in ("transformer", "vae"))
            return Detected(kind=ModelKind.CHECKPOINT, family=WAN.name, base=name_base(transformer, vae))
        if pipeline not in PIPELINES:
            known = f"{', '.join(PIPELINES)}, {' and '.join(WAN_PIPELINES)}"
            raise CheckpointUnusable(
                f"{INDEX_NAME} names the pipeline {shorten(repr(pipeline))}; Promptreel runs {known} only."
            )
        unet = _read(paths, lambda name: name.startswith("unet/"))
        return Detected(kind=ModelKind.CHECKPOINT, family=ANIMATEDIFF, base=_base_of_unet(unet))
    return _detect_single(_read(paths, lambda _name: True))


def _read(paths: Mapping[str, Path], wanted: Callable[[str], object]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, path in sorted(paths.items()):
        if name.endswith(".safetensors") and wanted(name):
            tensors |= read_header(path, name)
    return tensors


def _detect_single(tensors: Shapes) -> Detected:
    names = list(tensors)
    if is_wan_lora(names):
        return Detected(kind=ModelKind.LORA, family=WAN.name, base=base_of_lora(tensors))
    refuse_foreign(tensors)
    if any(map(_LORA.search, names)):
        refuse_strange_lora(tensors)
        return Detected(kind=ModelKind.LORA, family=ANIMATEDIFF, base=_base_of_lora(tensors))
    if any(".motion_modules." in name or name.startswith("motion_modules.") for name in names):
        _refuse_more_than_motion(names)
        return Detected(kind=ModelKind.MOTION_ADAPTER, family=ANIMATEDIFF, base=_base_of_motion(tensors))
    if (width := _width_of_embedding(tensors)) is not None:
        refuse_width(width)
        base = "sd15" if width == _SD15_TEXT else None
        return Detected(kind=ModelKind.EMBEDDING, family=ANIMATEDIFF, base=base, words=_words_of_embedding(tensors))
    if any(name.startswith(f"{UNET}input_blocks.") for name in names):
        return Detected(kind=ModelKind.CHECKPOINT, family=ANIMATEDIFF, base=_base_of_unet(take(tensors, UNET)))
    if any(map(_VAE.search, names)):
        return Detected(kind=ModelKind.VAE, family=None, base=_base_of_vae(tensors))
    if any(".resnets." in name or name.startswith(("input_blocks.", TEXT_ENCODER, "text_model.")) for name in names):
        raise CheckpointUnusable("This is one part of a checkpoint by itself. Take the whole checkpoint.")
    raise CheckpointUnusable(
        f"Its tensors, such as {shorten(min(names), 80) if names else 'none'}, are of no model that Promptreel knows. It reads "
        "Stable Diffusion 1.5 checkpoints, motion adapters, VAEs, LoRAs and embeddings, and Wan in diffusers' folders."
    )


def _refuse_more_than_motion(names: Sequence[str]) -> None:
    """Raises CheckpointUnusable for motion modules beside other layers of a UNet."""
    if not any(name.endswith("conv_in.weight") for name in names):
        return
    if any(".resnets." in name for name in names):
        raise CheckpointUnusable("This is a UNet by itself. Take the whole checkpoint, or the motion adapter alone.")
    raise made_for("PIA, whose UNet also reads a picture")


def _base_of_unet(tensors: Shapes) -> str:
    """From the channels of the blocks. Motion modules have the same channels."""
    refuse_width(width_of_text(tensors))
    down = _channels(tensors, r"down_blocks\.([0-9]{1,2})\.resnets\.0\.conv1\.weight")
    if not down:  # the original layout numbers the blocks consecutively
        widths = _channels(tensors, r"input_blocks\.([0-9]{1,2})\.0\.out_layers\.3\.weight")
        levels = 1 + sum(1 for name in tensors if re.fullmatch(r"input_blocks\.[0-9]{1,2}\.0\.op\.weight", name))
        down = widths[:: max(1, len(widths) // levels)]
    return _name_base(down)


def _base_of_motion(tensors: Shapes) -> str:
    pattern = r"(?:.*\.)?down_blocks\.([0-9]{1,2})\.motion_modules\.0\.(?:temporal_transformer\.)?norm\.weight"
    channels = _channels(tensors, pattern)
    if channels == _SD15_CHANNELS[:3]:
        raise made_for("Stable Diffusion XL")
    return _name_base(channels)


def _channels(tensors: Shapes, pattern: str) -> tuple[int, ...]:
    """The output channels of the tensors whose names the pattern fits, in the order of the block numbers."""
    found = {
        int(match[1]): tensor.shape[0]
        for name, tensor in tensors.items()
        if tensor.shape and (match := re.fullmatch(pattern, name)) is not None
    }
    return tuple(found[number] for number in sorted(found))


def _base_of_vae(tensors: Shapes) -> str | None:
    shapes = (each.shape for name, each in tensors.items() if name.endswith("decoder.conv_in.weight"))
    is_as_wide = any(each.shape[:1] == (512,) for each in tensors.values())
    return "sd15" if is_as_wide and next(shapes, ())[1:2] == (4,) else None


def _base_of_lora(tensors: Shapes) -> str | None:
    """By the width of the text that a cross attention reads, if the LoRA changes one."""
    return "sd15" if width_of_text(tensors) == _SD15_TEXT else None


def _width_of_embedding(tensors: Shapes) -> int | None:
    """The width of an embedding: a file with one tensor of a few rows, named like its word, or `emb_params` (AUTOMATIC1111)."""
    if len(tensors) != 1:
        return None
    ((name, tensor),) = tensors.items()
    if len(tensor.shape) not in {1, 2}:
        return None
    is_word = _TOKEN.fullmatch(name) is not None or (tensor.shape[-1] == _SD15_TEXT and "." not in name)
    if is_word and math.prod(tensor.shape) > MOST_VECTORS * tensor.shape[-1]:
        raise CheckpointUnusable(f"This embedding has more than {MOST_VECTORS} vectors. Take one of fewer.")
    return tensor.shape[-1] if is_word else None


def _words_of_embedding(tensors: Shapes) -> tuple[str, ...]:
    """diffusers names the tensor like the word. A1111 gives all of them one name: there the model's id is the word."""
    (name,) = tensors
    return () if name in _NO_WORDS or len(name) > _LONGEST_WORD or not name.strip() else (name.strip(),)


def _name_base(channels: tuple[int, ...]) -> str:
    return "sd15" if channels == _SD15_CHANNELS else f"unet-{'-'.join(map(str, channels))}"
