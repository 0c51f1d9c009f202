"""Models for other programs and families, told by tensors that only they have. They are refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from promptreel.errors import CheckpointUnusable
from promptreel.models.json_files import shorten
from promptreel.models.weights import StoredTensor

Tensors = Mapping[str, StoredTensor]

# Of each table, the first one that fits is named. Some of them have the tensors of a later one, too.
_ADD_ONS = {
    "IP-Adapter": r"^ip_adapter\.|^image_proj\.|\.to_[kv]_ip\.",
    "T2I-Adapter": r"^(adapter\.)?body\.\d{1,2}\.(block1|resnets)\.",
    "ControlNet": r"controlnet_|^control_model\.|zero_convs",
}
_MODELS = {
    "Stable Video Diffusion": r"\.time_stack\.|\.time_mixer\.|\.temporal_transformer_blocks\.",
    "ModelScope's text to video": r"\.temp_convs\.|\.temp_attentions\.|\.temopral_conv\.",
    "Hotshot-XL": r"\.temporal_attentions\.",
    "Stable Diffusion XL": r"(^|\.)conditioner\.embedders\.|(^|[._])add_embedding[._]linear_1|lora_te2_|^text_encoder_2\.|"
    r"^clip_g$",
    "Stable Diffusion 2": r"^cond_stage_model\.model\.",
    "HunyuanVideo": r"individual_token_refiner|(^|\.)double_blocks\.\d{1,3}\.img_attn_qkv\.",
    "Flux": r"(^|[._])double_blocks[._]\d{1,3}[._]img_|(^|[._])single_(transformer_)?blocks[._]\d",
    "Stable Diffusion 3": r"(^|[._])joint_blocks[._]|^text_encoders\.clip_l\.|\.attn\.add_k_proj\.",
    "LTX-Video": r"(^|\.)patchify_proj\.|(^|\.)last_scale_shift_table$",
    "CogVideoX": r"^patch_embed\.text_proj\.",
    "Mochi": r"\.attn\.qkv_x\.",
}
# How wide the text is that a cross attention of theirs reads. That of Stable Diffusion 1.5 is 768.
_TEXT_WIDTHS = {1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL", 2048: "Stable Diffusion XL"}
_OF_WAN = r"(^|\.)head\.modulation$|(^|[._])blocks[._]\d{1,2}[._]self_attn[._][qkvo][._]|^condition_embedder\."
_READS_TEXT = re.compile(r"attn2[._]to_[kv]\.(weight|lora_down\.weight|lora\.down\.weight|lora_A|hada_w1_b)")
# A layer of a Stable Diffusion's UNet or text encoder, in any spelling of LoRAs.
_LAYER = re.compile(
    r"(down|up|input|output)_blocks[._]|(mid|middle)_block[._]|conv_(in|out)[._]|time_embed|text_(model|encoder)[._]|"
    r"encoder[._]layers[._]"
)


def refuse_foreign(tensors: Tensors) -> None:
    """Raises CheckpointUnusable, with the name of what the tensors are made for."""
    if any(re.search(_OF_WAN, name) for name in tensors):
        raise CheckpointUnusable(
            "This is a part of Wan. Promptreel runs whole checkpoints of Wan in diffusers' layout, such as "
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers, and LoRAs for them: import one of these."
        )
    for title, pattern in (_ADD_ONS | _MODELS).items():
        if any(re.search(pattern, name) for name in tensors):
            raise made_for(title)
    refuse_width(width_of_text(tensors))


def refuse_width(width: int | None) -> None:
    """Raises CheckpointUnusable for a width of text that another model than Stable Diffusion 1.5 has."""
    if width in _TEXT_WIDTHS:
        raise made_for(_TEXT_WIDTHS[width])


def refuse_strange_lora(tensors: Tensors) -> None:
    """Raises CheckpointUnusable for a LoRA that changes no layer of a Stable Diffusion."""
    if not any(map(_LAYER.search, tensors)):
        raise CheckpointUnusable(
            f"This LoRA changes layers such as {shorten(min(tensors), 80)}, and none of Stable Diffusion 1.5. "
            "Take one for Stable Diffusion 1.5."
        )


def made_for(title: str) -> CheckpointUnusable:
    """The error for a model that is made for `title`."""
    advice = "" if title in _ADD_ONS else " Take one for Stable Diffusion 1.5."
    return CheckpointUnusable(f"This is made for {title}, which Promptreel does not run yet.{advice}")


def width_of_text(tensors: Tensors) -> int | None:
    """How wide the text is that a cross attention reads, or a LoRA of one; None if the tensors do not tell."""
    widths = (
        tensor.shape[1]
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and "motion" not in name and _READS_TEXT.search(name)
    )
    return next(widths, None)
