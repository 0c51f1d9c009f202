"""What a model is, by the names and shapes of its tensors. File names are not believed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from promptreel.errors import CheckpointUnusable
from promptreel.models.families import WAN
from promptreel.models.json_files import read_object, shorten
from promptreel.models.kinds import ModelKind
from promptreel.models.original_layout import TEXT_ENCODER, UNET
from promptreel.models.parts import INDEX_NAME, PIPELINES
from promptreel.models.wan.card import name_base
from promptreel.models.wan.checkpoint import PIPELINES as WAN_PIPELINES
from promptreel.models.weights import StoredTensor, read_header

Shapes = Mapping[str, StoredTensor]

# A tensor that only these have. Promptreel knows them, to say by name what it does not run.
_FOREIGN = {
    "Stable Diffusion XL": r"(^|\.)conditioner\.embedders\.|(^|\.)add_embedding\.linear_1\.|lora_te2_",
    "Stable Diffusion 2": r"^cond_stage_model\.model\.",
    "Stable Diffusion 3": r"(^|\.)joint_blocks\.|^text_encoders\.clip_l\.",
    "Flux": r"(^|[._])double_blocks[._]\d+[._]img_|(^|[._])single_blocks[._]\d+[._]linear",
    "LTX-Video": r"(^|\.)patchify_proj\.|(^|\.)last_scale_shift_table$",
    "HunyuanVideo": r"txt_in\.individual_token_refiner",
    "Mochi": r"\.attn\.qkv_x\.",
    "ControlNet": r"controlnet_|^control_model\.|zero_convs",
}
_OF_WAN = r"(^|\.)head\.modulation$|(^|\.)blocks\.0\.self_attn\.q\.|^condition_embedder\."
_LORA = re.compile(r"(\.|_)lora(_linear_layer)?(\.|_)|lora_(up|down|A|B)\b|\.hada_|\.lokr_")
_SD15_CHANNELS = (320, 640, 1280, 1280)


@dataclass(frozen=True, kw_only=True)
class Detected:
    """`base`: what it fits on; None if its tensors do not tell."""

    kind: ModelKind
    family: str | None
    base: str | None


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
        return Detected(kind=ModelKind.CHECKPOINT, family="animatediff", base=_base_of_unet(unet))
    return _detect_single(_read(paths, lambda _name: True))


def _read(paths: Mapping[str, Path], wanted: object) -> dict[str, StoredTensor]:
    assert callable(wanted)
    tensors: dict[str, StoredTensor] = {}
    for name, path in sorted(paths.items()):
        if name.endswith(".safetensors") and wanted(name):
            tensors |= read_header(path, name)
    return tensors


def _detect_single(tensors: Shapes) -> Detected:
    names = list(tensors)
    if any(map(_LORA.search, names)):
        _refuse_foreign(names)
        return Detected(kind=ModelKind.LORA, family="animatediff", base=_base_of_lora(tensors))
    if any(".motion_modules." in name or name.startswith("motion_modules.") for name in names):
        if any(name.endswith("conv_in.weight") for name in names) and any(".resnets." in name for name in names):
            raise CheckpointUnusable("This is a UNet by itself. Take the whole checkpoint, or the motion adapter alone.")
        return Detected(kind=ModelKind.MOTION_ADAPTER, family="animatediff", base=_base_of_motion(tensors))
    if (embedding := _embedding_width(tensors)) is not None:
        return Detected(kind=ModelKind.EMBEDDING, family="animatediff", base="sd15" if embedding == 768 else None)
    _refuse_foreign(names)
    if any(name.startswith(f"{UNET}input_blocks.") for name in names):
        unet = {name.removeprefix(UNET): tensor for name, tensor in tensors.items() if name.startswith(UNET)}
        return Detected(kind=ModelKind.CHECKPOINT, family="animatediff", base=_base_of_unet(unet))
    if any(re.search(r"(^|\.)decoder\.(up\.0\.block|up_blocks\.0\.resnets)\.", name) for name in names):
        return Detected(kind=ModelKind.VAE, family=None, base=_base_of_vae(tensors))
    if any(".resnets." in name or name.startswith(TEXT_ENCODER) for name in names):
        raise CheckpointUnusable("This is one part of a checkpoint by itself. Take the whole checkpoint.")
    raise CheckpointUnusable(
        f"Its tensors, such as {shorten(min(names), 80) if names else 'none'}, are of no model that Promptreel knows. It runs "
        "Stable Diffusion 1.5 checkpoints, motion adapters, VAEs, LoRAs and embeddings."
    )


def _refuse_foreign(names: Iterable[str]) -> None:
    if any(re.search(_OF_WAN, name) for name in names):
        raise CheckpointUnusable(
            "This is a part of Wan, or a LoRA for it. Promptreel runs whole checkpoints of Wan in diffusers' layout, such as "
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers: import one of these."
        )
    for title, pattern in _FOREIGN.items():
        if any(re.search(pattern, name) for name in names):
            raise CheckpointUnusable(
                f"This is made for {title}, which Promptreel does not run yet. Take one for Stable Diffusion 1.5."
            )


def _base_of_unet(tensors: Shapes) -> str:
    """From the channels of the blocks, which motion modules share."""
    down = {
        int(found[1]): tensor.shape[0]
        for name, tensor in tensors.items()
        if (found := re.fullmatch(r"down_blocks\.(\d+)\.resnets\.0\.conv1\.weight", name))
    }
    if not down:  # the original layout
        widths = [
            tensor.shape[0]
            for name, tensor in sorted(tensors.items(), key=lambda item: _numbers(item[0]))
            if re.fullmatch(r"input_blocks\.\d+\.0\.out_layers\.3\.weight", name)
        ]
        ops = sum(1 for name in tensors if re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", name))
        per_block = max(1, len(widths) // (ops + 1))
        down = dict(enumerate(widths[::per_block]))
    if any(name.endswith("attn2.to_k.weight") and tensor.shape[1] == 1024 for name, tensor in tensors.items()):
        _refuse_foreign(["cond_stage_model.model."])
    return _name_base(tuple(down[number] for number in sorted(down)))


def _base_of_motion(tensors: Shapes) -> str:
    found = {}
    for name, tensor in tensors.items():
        match = re.search(r"down_blocks\.(\d+)\.motion_modules\.0\.(?:temporal_transformer\.)?norm\.weight$", name)
        if match:
            found[int(match[1])] = tensor.shape[0]
    channels = tuple(found[number] for number in sorted(found))
    if channels == _SD15_CHANNELS[:3]:
        raise CheckpointUnusable("This motion adapter is made for Stable Diffusion XL, which Promptreel does not run yet.")
    return _name_base(channels)


def _base_of_vae(tensors: Shapes) -> str | None:
    latents = next((each.shape[1] for name, each in tensors.items() if name.endswith("decoder.conv_in.weight")), None)
    return "sd15" if latents == 4 and any(each.shape[0] == 512 for each in tensors.values() if each.shape) else None


def _base_of_lora(tensors: Shapes) -> str | None:
    """By the width of the text that a cross attention reads, if the LoRA changes one."""
    for name, tensor in tensors.items():
        is_down = re.search(r"down|lora_A|_A\.", name) is not None and len(tensor.shape) == 2
        if re.search(r"attn2[._]to_k", name) and is_down and "motion" not in name:
            return "sd15" if tensor.shape[-1] == 768 else None
    return None


def _embedding_width(tensors: Shapes) -> int | None:
    """The width of an embedding: a file with one tensor of a few rows."""
    if len(tensors) != 1:
        return None
    ((name, tensor),) = tensors.items()
    is_named = name == "emb_params" or re.fullmatch(r"<[^<>]{1,100}>", name) is not None
    return tensor.shape[-1] if is_named and len(tensor.shape) in {1, 2} else None


def _name_base(channels: tuple[int, ...]) -> str:
    return "sd15" if channels == _SD15_CHANNELS else f"unet-{'-'.join(map(str, channels))}"


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
