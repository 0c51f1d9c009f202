"""Checkpoint folders for tests: real files in diffusers' layout, of the smallest networks, with made-up numbers as weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from promptreel.models.configs import ImageUNet, MotionAdapter, TextEncoder, VaeKL, add_motion
from promptreel.models.layouts import MOTION, lay_out
from promptreel.models.registry import ModelCard, ModelRegistry

INDEX = {
    "_class_name": "AnimateDiffPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "motion_adapter": ["diffusers", "MotionAdapter"],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "motion_adapter": "motion_adapter/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
MAX_FRAMES = 16
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "attention_head_dim": 2,
        "block_out_channels": [8, 16],
        "cross_attention_dim": 12,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "in_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "out_channels": 4,
        "sample_size": 8,
        "transformer_layers_per_block": 1,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "motion_adapter": {
        "_class_name": "MotionAdapter",
        "block_out_channels": [8, 16],
        "motion_layers_per_block": 1,
        "motion_max_seq_length": MAX_FRAMES,
        "motion_norm_num_groups": 4,
        "motion_num_attention_heads": 2,
        "use_motion_mid_block": False,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [4],
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "scaling_factor": 0.18215,
        "sample_size": 16,
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu",
        "hidden_size": 12,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "torch_dtype": "float32",
        "vocab_size": 6,
    },
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
VOCAB = {"a": 0, "t</w>": 1, "at</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}
MERGES = "#version: 0.2\na t</w>\n"
TOKENIZER = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 32, "pad_token": {"content": "<|endoftext|>"}}
CARD = {
    "name": "Midjourney v4 style",
    "description": "Pictures in the style of mdjrny-v4.",
    "family": "animatediff",
    "native_width": 512,
    "native_height": 512,
    "max_frames": MAX_FRAMES,
    "fps": 8,
    "default_negative_prompt": "blurry, watermark",
    "trigger_words": ["mdjrny-v4 style", " animated "],
    "quality_words": ["sharp focus"],
    "words": ["cat", "bench"],
    "beta_schedule": None,
    "reference_seconds_per_unit": 12.5,
}


def make_checkpoint(folder: Path, **index: object) -> Path:
    """A checkpoint that passes the gate; `index` replaces entries of model_index.json."""
    for component, config in CONFIGS.items():
        write_json(folder / component / "config.json", config)
    for component, tensors in _make_tensors().items():
        save_file(tensors, folder / WEIGHTS[component], metadata={"format": "pt"})
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "tokenizer" / "vocab.json", VOCAB)
    write_json(folder / "tokenizer" / "tokenizer_config.json", TOKENIZER)
    (folder / "tokenizer" / "merges.txt").write_text(MERGES)
    (folder / "README.md").write_text("# A checkpoint\n")
    write_json(folder / "model_index.json", INDEX | index)
    return make_card(folder)


def _make_tensors() -> dict[str, dict[str, np.ndarray]]:
    unet = add_motion(ImageUNet(**_read("unet")), MotionAdapter(**_read("motion_adapter")))
    both = lay_out(unet)
    layouts = {
        "unet": {name: shape for name, shape in both.items() if MOTION not in name},
        "motion_adapter": {name: shape for name, shape in both.items() if MOTION in name},
        "vae": lay_out(VaeKL(**_read("vae"))),
        "text_encoder": lay_out(TextEncoder(**_read("text_encoder"))),
    }
    return {
        component: {name: np.full(shape, 0.01, np.float16) for name, shape in layout.items()}
        for component, layout in layouts.items()
    }


def _read(component: str) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in CONFIGS[component].items()}


def make_card(folder: Path, **fields: object) -> Path:
    """A folder with a card; `fields` replaces the card's."""
    return write_json(folder / "promptreel.json", CARD | fields).parent


def write_json(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def change_json(file: Path, **fields: object) -> None:
    write_json(file, json.loads(file.read_text()) | fields)


def change_tensors(file: Path, change: Any) -> None:
    """`change` is given all arrays by name and returns those to write."""
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def card_of(folder: Path) -> ModelCard:
    """As the registry reads it."""
    return ModelRegistry(built_in=folder.parent, models_dir=folder.parent / "none").get(folder.name)
