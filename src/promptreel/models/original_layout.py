"""Reads weights in their authors' own layouts: renames tensors to diffusers' names, and works out the config from shapes.

Nothing is converted on disk. A renamed tensor still names its place in the file, so the loader reads it from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from promptreel.errors import CheckpointUnusable
from promptreel.models.configs import Config, ImageUNet, MotionAdapter, TextEncoder, VaeKL, VaeTiny
from promptreel.models.json_files import explain
from promptreel.models.weights import StoredTensor

Tensors = Mapping[str, StoredTensor]
_Config = TypeVar("_Config", bound=Config)

UNET, VAE, TEXT_ENCODER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
"""Prefixes of a checkpoint in one file, as CompVis published Stable Diffusion and as most tools save it."""
_OF_TRAINING = ("loss.", "model_ema.")
"""What whole VAEs also hold: the discriminator that they were trained against, and their EMA."""

HEADS = 8
"""Attention heads per layer. No shape tells it; Stable Diffusion 1.5 and AnimateDiff have eight everywhere."""
WIDTH_OF_HEAD = 64
"""Channels per head in CLIP's text encoders."""

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_MOTION = {
    ".temporal_transformer": "",
    ".attention_blocks.0.pos_encoder.pe": ".pos_embed.pe",
    ".attention_blocks.0": ".attn1",
    ".attention_blocks.1": ".attn2",
    ".norms.0": ".norm1",
    ".norms.1": ".norm2",
    ".ff_norm": ".norm3",
}
_SECOND_POSITIONS = ".attention_blocks.1.pos_encoder.pe"  # equal to the first


@dataclass(frozen=True)
class Found:
    """A part of a model: its config, and its tensors by their names in diffusers."""

    config: Config
    tensors: Tensors


def read_unet(tensors: Tensors, name: str) -> Found:
    """Stable Diffusion's UNet, from tensors without their prefix. `name`: the file's, for errors."""
    names = _UNetNames(tensors)
    renamed = _rename(tensors, names.blocks, inside=lambda block, rest: _rename_resnet(rest) if "resnets" in block else rest)
    channels = [_shape(tensors, f"{block}.out_layers.3.weight", name)[0] for block in names.last_resnets]
    reads_text = names.levels_with_attention
    to_key = next((key for key in renamed if key.endswith("attn2.to_k.weight")), "")
    proj_in = next((key for key in renamed if key.endswith("proj_in.weight")), "")
    depth = _count(renamed, r"transformer_blocks\.([0-9]{1,4})\.")
    config = _make(
        ImageUNet,
        name,
        in_channels=_shape(renamed, "conv_in.weight", name)[1],
        out_channels=_shape(renamed, "conv_out.weight", name)[0],
        block_out_channels=tuple(channels),
        layers_per_block=names.layers_per_block,
        down_block_types=tuple("CrossAttnDownBlock2D" if reads else "DownBlock2D" for reads in reads_text),
        up_block_types=tuple("CrossAttnUpBlock2D" if reads else "UpBlock2D" for reads in reversed(reads_text)),
        cross_attention_dim=_shape(renamed, to_key, name)[1],
        transformer_layers_per_block=depth,
        use_linear_projection=len(_shape(renamed, proj_in, name)) == 2,
        attention_head_dim=HEADS,
    )
    return Found(config, renamed)


class _UNetNames:
    """The blocks of a UNet by their original names, found by walking from the first to the last."""

    def __init__(self, tensors: Tensors) -> None:
        self.blocks = dict(_UNET_ENDS)
        self.last_resnets: list[str] = []
        self.levels_with_attention: list[bool] = []
        self.layers_per_block = 1
        heads = {".".join(key.split(".")[:3]) for key in tensors} | {".".join(key.split(".")[:4]) for key in tensors}
        self._walk_down(heads)
        self._walk_up(heads)

    def _walk_down(self, heads: set[str]) -> None:
        level = layer = 0
        reads_text = False
        for number in range(1, 100):
            block = f"input_blocks.{number}"
            if f"{block}.0.op" in heads:
                self.blocks[f"{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
                self.levels_with_attention.append(reads_text)
                level, layer, reads_text = level + 1, 0, False
                continue
            if f"{block}.0" not in heads:
                break
            self.blocks[f"{block}.0"] = f"down_blocks.{level}.resnets.{layer}"
            self.last_resnets[level:] = [f"{block}.0"]
            if f"{block}.1" in heads:
                self.blocks[f"{block}.1"] = f"down_blocks.{level}.attentions.{layer}"
                reads_text = True
            layer += 1
            self.layers_per_block = max(self.layers_per_block, layer)
        self.levels_with_attention.append(reads_text)

    def _walk_up(self, heads: set[str]) -> None:
        per_level = self.layers_per_block + 1
        for number in range(100):
            block, (level, layer) = f"output_blocks.{number}", divmod(number, per_level)
            if f"{block}.0" not in heads:
                break
            self.blocks[f"{block}.0"] = f"up_blocks.{level}.resnets.{layer}"
            for place in (1, 2):
                if f"{block}.{place}.conv" in heads:
                    self.blocks[f"{block}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
                elif f"{block}.{place}" in heads:
                    self.blocks[f"{block}.{place}"] = f"up_blocks.{level}.attentions.{layer}"


def _rename_resnet(rest: str) -> str:
    for old, new in _RESNET.items():
        if rest.startswith(f"{old}."):
            return new + rest.removeprefix(old)
    return rest


def read_vae(tensors: Tensors, name: str) -> Found:
    """Stable Diffusion's VAE, from tensors without their prefix. Also reads diffusers' names, and AutoencoderTiny under
    diffusers' names only.
    """
    if "decoder.layers.0.weight" in tensors:
        return Found(VaeTiny(), tensors)
    blocks = _count(tensors, r"encoder\.down(?:_blocks)?\.([0-9]{1,4})\.")
    layers = _count(tensors, r"encoder\.down(?:_blocks)?\.0\.(?:block|resnets)\.([0-9]{1,4})\.")
    renamed = {_rename_vae(key, blocks): tensor for key, tensor in tensors.items()}
    for key, tensor in renamed.items():
        if ".attentions.0." in key and tensor.shape[2:] == (1, 1):  # a 1x1 convolution is a linear layer
            renamed[key] = replace(tensor, shape=tensor.shape[:2])
    channels = [_shape(renamed, f"encoder.down_blocks.{block}.resnets.0.conv1.weight", name)[0] for block in range(blocks)]
    config = _make(
        VaeKL,
        name,
        block_out_channels=tuple(channels),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=layers,
        latent_channels=_shape(renamed, "decoder.conv_in.weight", name)[1],
        use_quant_conv="quant_conv.weight" in renamed,
        use_post_quant_conv="post_quant_conv.weight" in renamed,
    )
    return Found(config, renamed)


def _rename_vae(key: str, blocks: int) -> str:
    key = re.sub(r"^encoder\.down\.([0-9]{1,4})\.block\.([0-9]{1,4})\.", r"encoder.down_blocks.\1.resnets.\2.", key)
    key = re.sub(r"^encoder\.down\.([0-9]{1,4})\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", key)
    up = re.match(r"decoder\.up\.([0-9]{1,4})\.(?:block\.([0-9]{1,4})|upsample)\.", key)
    if up:
        inside = "upsamplers.0" if up[2] is None else f"resnets.{up[2]}"
        key = f"decoder.up_blocks.{blocks - 1 - int(up[1])}.{inside}.{key[up.end() :]}"
    key = re.sub(r"\.mid\.block_([12])\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}.", key)
    key = re.sub(
        r"\.mid\.attn_1\.(\w+)\.", lambda found: f".mid_block.attentions.0.{_VAE_ATTENTION.get(found[1], found[1])}.", key
    )
    return key.replace(".norm_out.", ".conv_norm_out.").replace(".nin_shortcut.", ".conv_shortcut.")


def read_text_encoder(tensors: Tensors, name: str) -> Found:
    """CLIP's text encoder, from tensors without their prefix."""
    renamed = {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
    wanted = {
        key: tensor for key, tensor in renamed.items() if key.startswith(("embeddings.", "encoder.", "final_layer_norm."))
    }
    wanted.pop("embeddings.position_ids", None)
    layers = _count(wanted, r"encoder\.layers\.([0-9]{1,4})\.")
    vocab_size, width = _shape(wanted, "embeddings.token_embedding.weight", name)[:2]
    config = _make(
        TextEncoder,
        name,
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=_shape(wanted, "encoder.layers.0.mlp.fc1.weight", name)[0],
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // WIDTH_OF_HEAD),
        max_position_embeddings=_shape(wanted, "embeddings.position_embedding.weight", name)[0],
    )
    return Found(config, wanted)


def read_motion_adapter(tensors: Tensors, name: str) -> Found:
    """Motion modules in AnimateDiff's own layout, or in that of diffusers without a config."""
    renamed = {}
    for key, tensor in tensors.items():
        plain = key[_start_of_block(key) :]
        if plain.endswith(_SECOND_POSITIONS):
            continue
        for old, new in _MOTION.items():
            plain = plain.replace(old, new)
        renamed[plain] = tensor
    norms = [key for key in renamed if re.fullmatch(r"down_blocks\.[0-9]{1,4}\.motion_modules\.0\.norm\.weight", key)]
    blocks = [f"down_blocks.{block}.motion_modules.0.norm.weight" for block in range(len(norms))]
    layers = {key.split(".")[3] for key in renamed if key.startswith("down_blocks.0.motion_modules.")}
    depth = _count(renamed, r"transformer_blocks\.([0-9]{1,4})\.")
    positions = next((key for key in renamed if key.endswith("pos_embed.pe")), "pos_embed.pe")
    config = _make(
        MotionAdapter,
        name,
        block_out_channels=tuple(_shape(renamed, norm, name)[0] for norm in blocks),
        motion_layers_per_block=max(1, len(layers)),
        motion_transformer_layers_per_block=depth,
        motion_transformer_layers_per_mid_block=1,
        motion_max_seq_length=_shape(renamed, positions, name)[1],
        motion_num_attention_heads=HEADS,
        use_motion_mid_block=any(key.startswith("mid_block.") for key in renamed),
    )
    return Found(config, renamed)


def _start_of_block(key: str) -> int:
    """Where the name begins, after prefixes such as `module.`."""
    found = re.search(r"(?:^|\.)(?=(?:down_blocks|up_blocks|mid_block|conv_in)\.)", key)
    return found.end() if found else 0


def take(tensors: Tensors, prefix: str) -> dict[str, StoredTensor]:
    """The tensors whose names have this prefix. Removes the prefix, and drops tensors that only training needs."""
    taken = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return {key: tensor for key, tensor in taken.items() if not key.startswith(_OF_TRAINING)}


def predicts_v(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
    """Whether a checkpoint in one file predicts v in place of noise: by a tensor `v_pred` (ComfyUI's convention), or by the
    metadata `modelspec.prediction_type`.
    """
    return "v_pred" in tensors or metadata.get("modelspec.prediction_type") == "v"


def _rename(tensors: Tensors, blocks: Mapping[str, str], *, inside: Any) -> dict[str, StoredTensor]:
    renamed = {}
    for key, tensor in tensors.items():
        parts = key.split(".")
        prefixes: Iterable[str] = (".".join(parts[:count]) for count in (4, 3, 2))
        block = next((prefix for prefix in prefixes if prefix in blocks), None)
        if block is None:
            renamed[key] = tensor
            continue
        new = blocks[block]
        renamed[f"{new}.{inside(new, key.removeprefix(f'{block}.'))}"] = tensor
    return renamed


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number that the pattern finds in a name; at least 1."""
    return 1 + max((int(found[1]) for name in names if (found := re.search(pattern, name))), default=0)


def _shape(tensors: Tensors, key: str, name: str) -> tuple[int, ...]:
    """Raises CheckpointUnusable if the tensor is missing, or has fewer dimensions than such tensors have."""
    if key not in tensors or len(tensors[key].shape) < (1 if key.endswith("norm.weight") else 2):
        raise CheckpointUnusable(
            f"{name} lacks {key.rpartition('.')[0] or 'tensors'}, or has it in another shape: it is not complete. "
            "Download it again, or take another version of it."
        )
    return tensors[key].shape


def _make(kind: type[_Config], name: str, **arguments: Any) -> _Config:
    try:
        return kind(**arguments)
    except ValidationError as error:
        raise CheckpointUnusable(f"{name} has layers that Promptreel does not run: {explain(error)}.") from error
