"""Folders of tiny Wan checkpoints that pass the gate, of made-up numbers and without torch. Names are those of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from promptreel.models.wan.configs import NETWORKS
from promptreel.models.wan.layouts import lay_out
from tests.models.checkpoints import write_json

WEIGHTS = {"text_encoder": "model.safetensors", "image_encoder": "model.safetensors"}
PLAIN = "diffusion_pytorch_model.safetensors"
TRANSFORMER = {
    "_class_name": "WanTransformer3DModel",
    "added_kv_proj_dim": None,
    "attention_head_dim": 6,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 8,
    "freq_dim": 8,
    "image_dim": None,
    "in_channels": 4,
    "num_attention_heads": 2,
    "num_layers": 1,
    "out_channels": 4,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 8,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": TRANSFORMER,
    "vae": {
        "_class_name": "AutoencoderKLWan",
        "attn_scales": [],
        "base_dim": 2,
        "dim_mult": [1, 1, 1, 1],
        "dropout": 0.0,
        "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "z_dim": 4,
    },
    "text_encoder": {
        "architectures": ["UMT5EncoderModel"],
        "d_ff": 8,
        "d_kv": 4,
        "d_model": 8,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "model_type": "umt5",
        "num_heads": 2,
        "num_layers": 1,
        "vocab_size": 8,
    },
    "image_encoder": {
        "architectures": ["CLIPVisionModel"],
        "hidden_act": "gelu",
        "hidden_size": 6,
        "image_size": 8,
        "intermediate_size": 8,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "patch_size": 4,
    },
}
NEW_VAE = {"is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16}
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "beta_schedule": "linear",
    "flow_shift": 3.0,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [{"id": 0, "content": "<pad>", "special": True}, {"id": 1, "content": "</s>", "special": True}],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"},
        ],
    },
    "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    "post_processor": {"type": "TemplateProcessing"},
    "decoder": {"type": "Metaspace"},
    "model": {
        "type": "Unigram",
        "unk_id": 2,
        "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581", -2.0], ["a", -3.0], ["t", -3.0]],
        "byte_fallback": False,
    },
}
INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": "0.33.0.dev0",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
CLIP = {"image_encoder": ["transformers", "CLIPVisionModel"], "image_processor": ["transformers", "CLIPImageProcessor"]}
NO_CLIP = {"image_encoder": [None, None], "image_processor": [None, None]}
EXPERTS = {"transformer_2": ["diffusers", "WanTransformer3DModel"]}
KINDS: dict[str, dict[str, Any]] = {
    "Wan2.1-T2V-1.3B": {},
    "Wan2.1-I2V-14B-480P": {"_class_name": "WanImageToVideoPipeline", **CLIP},
    "Wan2.2-TI2V-5B": {"expand_timesteps": True, "boundary_ratio": None, "transformer_2": [None, None]},
    "Wan2.2-T2V-A14B": {"boundary_ratio": 0.875, **EXPERTS},
    "Wan2.2-I2V-A14B": {"_class_name": "WanImageToVideoPipeline", "boundary_ratio": 0.9, **EXPERTS, **NO_CLIP},
}
"""What the hub's model_index.json of each has besides INDEX, by the repository's name without `-Diffusers`."""


def make_wan(folder: Path, kind: str = "Wan2.1-T2V-1.3B", *, dtype: type = np.float16, **index: object) -> Path:
    """`index` replaces entries of model_index.json. The hub's other files are there too, with nothing in them."""
    named = INDEX | KINDS[kind] | index
    write_json(folder / "model_index.json", named)
    for component, value in named.items():
        if not isinstance(value, list) or value[0] is None or component not in {*CONFIGS, "transformer_2"}:
            continue
        config = make_config(kind, component)
        write_json(folder / component / "config.json", config)
        tensors = {name: np.full(shape, 0.01, dtype) for name, shape in lay_out_json(config, value[1]).items()}
        if component == "text_encoder":
            del tensors["encoder.embed_tokens.weight"]
        if component == "image_encoder":
            tensors = {f"vision_model.{name}": tensor for name, tensor in tensors.items()}
        save_file(tensors, folder / component / WEIGHTS.get(component, PLAIN), metadata={"format": "pt"})
    if named.get("image_processor", [None])[0] is not None:
        write_json(folder / "image_processor" / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"})
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "tokenizer" / "tokenizer.json", TOKENIZER)
    write_json(folder / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"})
    write_json(folder / "tokenizer" / "special_tokens_map.json", {})
    (folder / "tokenizer" / "spiece.model").write_bytes(b"\n\x0e\n\x05<pad>")
    (folder / "README.md").write_text("# Wan\n")
    card: dict[str, object] = {"name": kind, "family": "wan", "max_frames": 81, "fps": 16}
    card |= {"base": "wan22-5b"} if kind == "Wan2.2-TI2V-5B" else {}
    return write_json(folder / "promptreel.json", card).parent


def make_config(kind: str, component: str) -> dict[str, Any]:
    config = dict(CONFIGS["transformer" if component == "transformer_2" else component])
    if component.startswith("transformer") and "I2V" in kind and "TI2V" not in kind:
        config["in_channels"] = 12
        if kind.startswith("Wan2.1"):
            config |= {"image_dim": 6, "added_kv_proj_dim": 12}
    if component == "vae" and kind == "Wan2.2-TI2V-5B":
        config |= NEW_VAE
    return config


def lay_out_json(config: dict[str, Any], class_name: str) -> dict[str, tuple[int, ...]]:
    return lay_out(NETWORKS[class_name].model_validate_json(json.dumps(config)))
