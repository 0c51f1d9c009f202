"""Tiny Wan checkpoints with random weights, of the real classes, saved as the hub has them: each loads in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Tokenizer, UMT5Config, UMT5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

TEXT, WIDTH, PICTURE = 16, 24, 20  # channels of the text, the transformer and CLIP's tokens
LATENTS = 4
KINDS: dict[str, dict[str, Any]] = {
    "t2v": {},
    "ti2v": {"_class_name": "WanPipeline", "expand_timesteps": True, "boundary_ratio": None},
    "t2v-a14b": {"boundary_ratio": 0.875},
    "i2v": {"_class_name": "WanImageToVideoPipeline"},
    "i2v-a14b": {"_class_name": "WanImageToVideoPipeline", "boundary_ratio": 0.9},
}
"""Of a checkpoint's model_index.json what says which of Wan's it is."""


def make_tiny_wan(folder: Path, kind: str = "t2v", **card: object) -> Path:
    """The same weights each time; `card` replaces fields of promptreel.json."""
    takes_picture, has_experts = kind.startswith("i2v"), kind.endswith("a14b")
    reads_picture = kind == "i2v"
    in_channels = 2 * LATENTS + 4 if takes_picture else LATENTS
    components: dict[str, Any] = {
        "transformer": _transformer(0, in_channels, reads_picture=reads_picture),
        "transformer_2": _transformer(1, in_channels, reads_picture=reads_picture) if has_experts else None,
        "vae": _vae(is_new=kind == "ti2v"),
        "text_encoder": _text_encoder(),
        "tokenizer": _tokenizer(),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        "image_encoder": _image_encoder() if reads_picture else None,
        "image_processor": CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
        if reads_picture
        else None,
    }
    names = {"T5Tokenizer": "T5TokenizerFast", "CLIPImageProcessorPil": "CLIPImageProcessor"}
    index: dict[str, Any] = {"_class_name": "WanPipeline", "_diffusers_version": "0.35.0"} | KINDS[kind]
    for name, component in components.items():
        if component is None:
            index[name] = [None, None]
            continue
        component.save_pretrained(folder / name)
        own = type(component).__name__
        library = "diffusers" if type(component).__module__.startswith("diffusers") else "transformers"
        index[name] = [library, names.get(own, own)]
    (folder / "model_index.json").write_text(json.dumps(index))
    fields: dict[str, object] = {"name": "Tiny", "family": "wan", "max_frames": 81, "fps": 16}
    fields |= {"base": "wan22-5b"} if kind == "ti2v" else {}
    (folder / "promptreel.json").write_text(json.dumps(fields | card))
    return folder


def _transformer(seed: int, in_channels: int, *, reads_picture: bool) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=WIDTH // 2,
        in_channels=in_channels,
        out_channels=LATENTS,
        text_dim=TEXT,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        image_dim=PICTURE if reads_picture else None,
        added_kv_proj_dim=WIDTH if reads_picture else None,
        rope_max_seq_len=128,
    )


def _vae(*, is_new: bool) -> AutoencoderKLWan:
    """Wan 2.1's, or that of Wan 2.2's TI2V-5B."""
    torch.manual_seed(2)
    new: dict[str, Any] = {
        "decoder_base_dim": 8,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
    }
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=LATENTS,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[-0.7, 0.1, 0.4, -0.3],
        latents_std=[2.8, 1.5, 0.9, 2.0],
        **(new if is_new else {}),
    )


def _text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(3)
    config = UMT5Config(vocab_size=128, d_model=TEXT, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return UMT5EncoderModel(config)


def _tokenizer() -> T5Tokenizer:
    """Every printable ASCII character is a token, and some words are."""
    words = ["\u2581", "\u2581a", "\u2581red", "\u2581cat"]
    pieces = [*words, *(chr(code) for code in range(33, 127))]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0 - len(pieces) / 100) for piece in pieces)]
    return T5Tokenizer(vocab=[*vocab, ("<extra_id_0>", 0.0)], extra_ids=1)


def _image_encoder() -> CLIPVisionModel:
    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=PICTURE,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        hidden_act="gelu",
    )
    return CLIPVisionModel(config)
