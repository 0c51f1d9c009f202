"""A tiny Stable Diffusion 1.5 style checkpoint with random weights, and a motion adapter that fits it: loads in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_FRAMES = 16
# The noise table of Stable Diffusion 1.5.
TABLE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
WIDTH = 8  # channels of the first block
TEXT = 16  # channels of the text encoder
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "motion_adapter": ["diffusers", "MotionAdapter"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}


def make_tiny_checkpoint(folder: Path, *, prediction_type: str = "epsilon", **card: object) -> Path:
    """The same weights each time; `card` replaces fields of promptreel.json."""
    tokenizer = _tokenizer()
    components: dict[str, Any] = {
        "unet": _unet(),
        "motion_adapter": _motion_adapter(),
        "vae": _vae(),
        "text_encoder": _text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "scheduler": DDIMScheduler(**TABLE, prediction_type=prediction_type),
    }
    for name, component in components.items():
        component.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "AnimateDiffPipeline", **CLASSES}))
    fields = {
        "name": "Tiny",
        "family": "animatediff",
        "max_frames": MAX_FRAMES,
        "fps": 8,
        "beta_schedule": TABLE["beta_schedule"],
    }
    fields |= card
    (folder / "promptreel.json").write_text(json.dumps(fields))
    return folder


def _unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(WIDTH, 2 * WIDTH),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT,
        norm_num_groups=4,
        attention_head_dim=2,
    )


def _motion_adapter() -> MotionAdapter:
    torch.manual_seed(1)
    adapter = MotionAdapter(
        block_out_channels=(WIDTH, 2 * WIDTH),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
        motion_max_seq_length=MAX_FRAMES,
    )
    for name, weights in adapter.named_parameters():
        if "proj_out" in name:  # zero at first, so that the adapter would do nothing
            torch.nn.init.normal_(weights, std=0.1)
    return adapter


def _vae() -> AutoencoderKL:
    torch.manual_seed(2)
    return AutoencoderKL(
        block_out_channels=(WIDTH, 2 * WIDTH),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(3)
    config = CLIPTextConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
        hidden_size=TEXT,
        intermediate_size=4 * TEXT,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=TEXT,
    )
    return CLIPTextModel(config)


def _tokenizer() -> CLIPTokenizer:
    """Every printable ASCII character is a token of its own."""
    characters = [chr(code) for code in range(33, 127)]
    tokens = [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=77)
