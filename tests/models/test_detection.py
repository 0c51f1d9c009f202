"""What a model is, is told from its tensors' names and shapes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from promptreel.errors import CheckpointUnusable
from promptreel.jobs.import_params import ImportParams
from promptreel.models.detection import Detected, detect
from promptreel.models.inspection import inspect
from promptreel.models.kinds import ModelKind

UNET = "model.diffusion_model."
DOWN = "down_blocks.0.motion_modules.0.temporal_transformer"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def write(path: Path, tensors: dict[str, tuple[int, ...]]) -> dict[str, Path]:
    save_file({name: np.zeros(shape, np.float16) for name, shape in tensors.items()}, path)
    return {path.name: path}


def told(tmp_path: Path, tensors: dict[str, tuple[int, ...]]) -> Detected:
    return detect(write(tmp_path / "misleading_sdxl_name.safetensors", tensors))


@pytest.mark.parametrize(
    ("tensors", "kind", "base"),
    [
        ({f"{UNET}input_blocks.1.0.out_layers.3.weight": (8, 8, 3, 3)}, ModelKind.CHECKPOINT, "unet-8"),
        ({f"{DOWN}.norm.weight": (8,)}, ModelKind.MOTION_ADAPTER, "unet-8"),
        ({f"module.{DOWN}.norm.weight": (8,)}, ModelKind.MOTION_ADAPTER, "unet-8"),
        ({"down_blocks.0.motion_modules.0.norm.weight": (8,)}, ModelKind.MOTION_ADAPTER, "unet-8"),
        ({"decoder.up.0.block.0.conv1.weight": (512, 4, 1, 1), "decoder.conv_in.weight": (8, 4, 3, 3)}, ModelKind.VAE, "sd15"),
        ({"first_stage_model.decoder.up.0.block.0.conv1.weight": (8, 8, 1, 1)}, ModelKind.VAE, None),
        ({"decoder.up_blocks.0.resnets.0.conv1.weight": (8, 8, 1, 1)}, ModelKind.VAE, None),
        ({f"{KOHYA}.lora_down.weight": (4, 768), f"{KOHYA}.lora_up.weight": (8, 4)}, ModelKind.LORA, "sd15"),
        ({"unet.mid_block.attentions.0.proj_in.lora.down.weight": (4, 8)}, ModelKind.LORA, None),
        ({"unet.down_blocks.0.attn2.to_k.lora_A.weight": (4, 768)}, ModelKind.LORA, "sd15"),
        ({"base_model.model.down_blocks.0.attn1.to_q.lora_A.weight": (4, 8)}, ModelKind.LORA, None),
        ({"down_blocks.0.attn1.processor.to_q_lora.down.weight": (4, 8)}, ModelKind.LORA, None),
        (
            {f"{DOWN}.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.down.weight": (4, 8)},
            ModelKind.LORA,
            None,
        ),
        ({"emb_params": (3, 768)}, ModelKind.EMBEDDING, "sd15"),
        ({"<my-style>": (768,)}, ModelKind.EMBEDDING, "sd15"),
        ({"<my-style>": (2, 1024)}, ModelKind.EMBEDDING, None),
    ],
)
def test_kind_and_base_are_told_from_tensors(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], kind: ModelKind, base: str | None
) -> None:
    found = told(tmp_path, tensors)

    assert (found.kind, found.base) == (kind, base)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("conditioner.embedders.0.transformer.text_model.x.weight", "Stable Diffusion XL"),
        ("cond_stage_model.model.token_embedding.weight", "Stable Diffusion 2"),
        (f"{UNET}joint_blocks.0.x_block.mlp.fc1.weight", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "Flux"),
        ("lora_te2_text_model_x.lora_down.weight", "Stable Diffusion XL"),
        ("patchify_proj.weight", "LTX-Video"),
        ("controlnet_cond_embedding.conv_in.weight", "ControlNet"),
        ("unet.add_embedding.linear_1.weight", "Stable Diffusion XL"),
    ],
)
def test_what_is_not_run_is_refused_by_name(tmp_path: Path, name: str, title: str) -> None:
    with pytest.raises(CheckpointUnusable, match=f"made for {title}, which Promptreel does not run yet"):
        told(tmp_path, {name: (2, 2)})


@pytest.mark.parametrize("name", ["blocks.0.self_attn.q.weight", "diffusion_model.blocks.0.self_attn.q.lora_A.weight"])
def test_parts_of_wan_are_refused_with_what_to_take(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointUnusable, match="whole checkpoints of Wan in diffusers' layout, such as"):
        told(tmp_path, {name: (2, 2)})


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"conv_in.weight": (2, 2), "down_blocks.0.resnets.0.conv1.weight": (2, 2)}, "one part of a checkpoint by itself"),
        ({"weight": (2, 2)}, "are of no model that Promptreel knows"),
        ({}, "are of no model that Promptreel knows"),
        ({f"down_blocks.{block}.motion_modules.0.norm.weight": (320 << block,) for block in range(2)} | {
            "down_blocks.2.motion_modules.0.norm.weight": (1280,)}, "made for Stable Diffusion XL"),
    ],
)  # fmt: skip
def test_parts_and_strangers_are_refused(tmp_path: Path, tensors: dict[str, tuple[int, ...]], why: str) -> None:
    with pytest.raises(CheckpointUnusable, match=why):
        told(tmp_path, tensors)


def test_adapter_of_pia_is_refused_by_name(tmp_path: Path) -> None:
    paths = write(tmp_path / "pia.safetensors", {f"{DOWN}.norm.weight": (8,), "conv_in.weight": (8, 9, 3, 3)})

    with pytest.raises(CheckpointUnusable, match="made for PIA"):
        inspect(paths, ImportParams(model_id="pia", source="pia"))


def test_another_kind_than_the_expected_one_is_refused(tmp_path: Path) -> None:
    paths = write(tmp_path / "x.safetensors", {"emb_params": (1, 768)})

    with pytest.raises(CheckpointUnusable, match="This is an embedding, not a LoRA"):
        inspect(paths, ImportParams(model_id="x", source="x", expects="lora"))


@pytest.mark.parametrize("name", ["../x.safetensors", "/tmp/x.safetensors", "a/../../x.safetensors"])
def test_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    paths = {name: next(iter(write(tmp_path / "x.safetensors", {"emb_params": (1, 768)}).values()))}

    with pytest.raises(CheckpointUnusable, match="is no name of a file"):
        inspect(paths, ImportParams(model_id="x", source="x"))


PIECES = [
    UNET, "first_stage_model.", "cond_stage_model.transformer.", "text_model.", "module.", "input_blocks.", "output_blocks.",
    "middle_block.", "0.", "1.", "2.", "11.", "999999999999.", "out_layers.3.", "in_layers.0.", "op.", "transformer_blocks.",
    "attn2.to_k.", "proj_in.", "decoder.", "encoder.", "up.", "down.", "block.", "mid.attn_1.", "conv_in.", "down_blocks.",
    "motion_modules.", "temporal_transformer.", "pos_encoder.pe", "norm.", "weight", "bias", "lora_", "emb_params", "",
    "embeddings.token_embedding.", "mlp.fc1.", "layers.",
]  # fmt: skip
NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join).filter(bool)
SHAPES = st.lists(st.integers(0, 9), max_size=5).map(tuple)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=st.dictionaries(NAMES, SHAPES, max_size=12), config=st.none() | VALUES)
def test_made_up_files_are_told_or_refused(tmp_path: Path, tensors: dict[str, tuple[int, ...]], config: object) -> None:
    """Whatever the names, the shapes and the configs: nothing but our own error."""
    paths = write(tmp_path / "model.safetensors", tensors)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        paths["config.json"] = tmp_path / "config.json"
    with contextlib.suppress(CheckpointUnusable):
        inspect(paths, ImportParams(model_id="x", source="x"), reads_weights=True)
