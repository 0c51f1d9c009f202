"""LoRA (Hu et al. 2021): small changes to a model's layers, applied to a copy that shares the model's weights.

`y = base(x) + strength * alpha / rank * up(down(x))` is computed by the copy's layers. diffusers and peft read the files' many
spellings and build the layers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.utils import set_weights_and_activate_adapters
from torch import nn

from promptreel.errors import CheckpointUnusable, GenerationFailed
from promptreel.extras import install_command, missing_modules
from promptreel.generation.add_ons import LoraFile
from promptreel.generation.told_alpha import fold_told_alpha

log = logging.getLogger(__name__)

_PEFT_PREFIX = "base_model.model."
_IN_UNET = ("down_blocks.", "mid_block.", "up_blocks.", "conv_in.", "conv_out.", "time_embedding.")
# AnimateDiff's motion LoRAs, such as those for camera movements, as their authors published them.
_MOTION = re.compile(
    r"(?:module\.)?(?:unet\.)?(?P<modules>.+\.motion_modules\.\d+)\.temporal_transformer\.(?P<block>transformer_blocks\.\d+)"
    r"\.attention_blocks\.(?P<number>[01])\.processor\.(?P<layer>to_q|to_k|to_v|to_out)_lora\.(?P<half>down|up)\.weight"
)
# What follows a layer's name in any of the layouts that diffusers understands.
_SUFFIX = re.compile(r"(?:\.lora_linear_layer|\.lora|_lora)(?:\.down|\.up|_A|_B|\.A|\.B)?(?:\.\w+)?\.weight$")


# diffusers' name for a layer of the text encoder, while it converts kohya's.
_TEXT_LAYER = re.compile(r"\.to_(q|k|v|out)$")


def name_variant(files: Sequence[LoraFile]) -> str:
    """Names a model with these LoRAs. The same files in the same order with the same strengths give the same name."""
    return "+".join(f"{file.sha256}*{file.strength}" + (f"@{file.expert}" if file.expert else "") for file in files)


def check_peft() -> None:
    """Raises GenerationFailed without peft, for which diffusers' loaders have the error of a file that does not fit."""
    if "peft" in missing_modules("worker"):
        raise GenerationFailed(f"LoRAs need the package peft, which is not installed here: {install_command('worker')}")


def add_loras(unet: Any, text_encoder: Any, files: Sequence[LoraFile]) -> None:
    """Adds LoRAs to modules that nobody else uses. Raises CheckpointUnusable for a file that fits neither of the two."""
    check_peft()
    strengths: dict[str, dict[str, float]] = {"unet": {}, "text_encoder": {}}
    for number, file in enumerate(files):
        name = f"lora_{number}"
        for part in _add_lora(unet, text_encoder, file, name):
            strengths[part][name] = file.strength
    for part, module in (("unet", unet), ("text_encoder", text_encoder)):
        if strengths[part]:
            activate(module, strengths[part])


def activate(module: Any, strengths: Mapping[str, float]) -> None:
    """Uses a module's LoRAs, which are given by name, with these strengths."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - loads slowly

    set_weights_and_activate_adapters(module, list(strengths), list(strengths.values()))
    layers: Iterator[Any] = (layer for layer in module.modules() if isinstance(layer, BaseTunerLayer))
    for layer in layers:
        own = layer.get_base_layer().weight
        for name, weight in layer.named_parameters():
            if not name.startswith("base_layer."):
                weight.requires_grad_(False)
                weight.data = weight.data.to(own.device, own.dtype)


@contextmanager
def naming_misfits(file: LoraFile) -> Iterator[None]:
    """Turns the loaders' errors into CheckpointUnusable."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        log.warning("LoRA %s cannot be applied", file.model_id, exc_info=error)
        raise CheckpointUnusable(
            f"The LoRA {file.model_id!r} does not fit the model, whose layers have other sizes: it was made for another one."
        ) from error


def fits_nowhere(file: LoraFile) -> CheckpointUnusable:
    return CheckpointUnusable(f"The LoRA {file.model_id!r} changes no layer that the model has: it was made for another one.")


def _add_lora(unet: Any, text_encoder: Any, file: LoraFile, name: str) -> set[str]:
    """Returns the modules that it changes: `unet`, `text_encoder` or both."""
    content, metadata = file.read_with_metadata()
    given = fold_told_alpha({rename(key): tensor for key, tensor in content.items()}, metadata)
    tensors, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(given, unet_config=unet.config)
    parts = {layer.split(".")[0] for layer in fitting_layers(tensors, unet=unet, text_encoder=text_encoder)}
    if not parts:
        raise fits_nowhere(file)
    with naming_misfits(file):
        if "unet" in parts:
            StableDiffusionLoraLoaderMixin.load_lora_into_unet(tensors, network_alphas=alphas, unet=unet, adapter_name=name)
        if "text_encoder" in parts:
            StableDiffusionLoraLoaderMixin.load_lora_into_text_encoder(
                tensors, network_alphas=alphas, text_encoder=text_encoder, adapter_name=name
            )
    return parts


def fitting_layers(names: Iterable[str], *, unet: nn.Module, text_encoder: nn.Module) -> set[str]:
    """The model's layers that this LoRA changes, such as `unet.mid_block.attentions.0.proj_in`."""
    there = {f"unet.{name}" for name, _ in unet.named_modules()}
    there |= {f"text_encoder.{name}" for name, _ in text_encoder.named_modules()}
    named = {_SUFFIX.sub("", name) for name in names if _SUFFIX.search(name)}
    plain = {name.replace(".processor.", ".").replace("text_encoder.text_model.", "text_encoder.") for name in named}
    in_unet = {name + ".0" if name.endswith(".to_out") else name for name in plain}
    in_text_encoder = {_TEXT_LAYER.sub(r".\1_proj", name) for name in plain if name.startswith("text_encoder.")}
    return there & (in_unet | in_text_encoder)


def rename(key: str) -> str:
    """A tensor's name as diffusers' LoRA loaders know it. They read kohya's and diffusers' names; AnimateDiff's and peft's are
    translated here.
    """
    motion = _MOTION.fullmatch(key)
    if motion is not None:
        layer = motion["layer"].replace("to_out", "to_out.0")
        return (
            f"unet.{motion['modules']}.{motion['block']}.attn{int(motion['number']) + 1}.{layer}.lora.{motion['half']}.weight"
        )
    key = key.removeprefix(_PEFT_PREFIX)
    if key.startswith("text_model."):
        return f"text_encoder.{key}"
    return f"unet.{key}" if key.startswith(_IN_UNET) else key
