"""LoRAs for Wan: which layer a tensor changes, told from its name, in any of the namings in which they are published.

diffusers and peft name layers as WanTransformer3DModel does (`transformer.blocks.0.attn1.to_q.lora_A.weight`), most others as
Wan's authors do (`diffusion_model.blocks.0.self_attn.q.lora_down.weight`), and musubi-tuner writes underscores
(`lora_unet_blocks_0_self_attn_q.lora_down.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from promptreel.models.weights import StoredTensor

Role = Literal["down", "up", "bias", "alpha"]

# Wan's own names and diffusers', within a block and outside of blocks.
_IN_BLOCK = {
    **{
        f"{ours}.{layer}": f"{theirs}.{there}"
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for layer, there in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    },
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
_OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "head.head": "proj_out",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
}


def _spell(table: Mapping[str, str]) -> dict[str, str]:
    """The table with diffusers' names too, and with underscores."""
    known = {**table, **{name: name for name in table.values()}}
    return known | {name.replace(".", "_"): layer for name, layer in known.items()}


_LAYERS_IN_BLOCK, _LAYERS_OUTSIDE = _spell(_IN_BLOCK), _spell(_OUTSIDE)
_NAME = re.compile(
    r"(?:transformer\.|(?P<second>transformer_2\.)|(?:model\.)?diffusion_model\.|base_model\.model\.|lora_unet_)?"
    r"(?:blocks[._](?P<block>\d{1,3})[._])?(?P<layer>\w+(?:\.\w+)*?)"
    r"\.(?:lora[._](?P<half>A|B|down|up)(?:\.default)?\.(?P<kind>weight|bias)|(?P<other>alpha|diff_b))"
)
_ROLES: dict[str, Role] = {"A": "down", "down": "down", "B": "up", "up": "up", "alpha": "alpha", "diff_b": "bias"}


@dataclass(frozen=True)
class LoraTensor:
    """`layer`: by diffusers' name. `role`: its part in the change. `is_of_second`: whether it is for transformer_2."""

    layer: str
    role: Role
    is_of_second: bool

    @property
    def is_in_block(self) -> bool:
        return self.layer.startswith("blocks.")


def read_name(name: str) -> LoraTensor | None:
    """None for a name that no layer of Wan's has."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    block = match["block"]
    layer = (_LAYERS_OUTSIDE if block is None else _LAYERS_IN_BLOCK).get(match["layer"])
    if layer is None:
        return None
    role = "bias" if match["kind"] == "bias" else _ROLES[match["half"] or match["other"]]
    return LoraTensor(layer if block is None else f"blocks.{block}.{layer}", role, match["second"] is not None)


def is_wan_lora(names: Iterable[str]) -> bool:
    """Whether a LoRA changes a block of Wan's: names outside of blocks are those of other models, too."""
    return any(found is not None and found.is_in_block and found.role in {"down", "up"} for found in map(read_name, names))


def width_of(tensors: Mapping[str, StoredTensor]) -> int | None:
    """The width of the transformer that the LoRA was made for; None if it changes no attention."""
    for name, tensor in tensors.items():
        found = read_name(name)
        if found is not None and ".attn" in found.layer and found.role in {"down", "up"} and len(tensor.shape) == 2:
            is_from_text = found.layer.endswith(("add_k_proj", "add_v_proj"))
            if found.role == "up" or not is_from_text:
                return tensor.shape[0 if found.role == "up" else 1]
    return None
