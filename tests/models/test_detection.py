"""What a model is, is told from its tensors' names and shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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
        ({"<my-style>": (2, 64)}, ModelKind.EMBEDDING, None),
        ({"midjourney-style": (1, 768)}, ModelKind.EMBEDDING, "sd15"),
        ({"decoder.layers.0.weight": (8, 8, 3, 3), "encoder.layers.0.weight": (8, 3, 3, 3)}, ModelKind.VAE, None),
        ({f"{KOHYA}.hada_w1_a": (8, 4), f"{KOHYA}.hada_w1_b": (4, 768)}, ModelKind.LORA, "sd15"),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768)}, ModelKind.LORA, None),
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
        ("text_encoder_2.text_model.x.lora_A.weight", "Stable Diffusion XL"),
        ("clip_g", "Stable Diffusion XL"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight", "Stable Diffusion 3"),
        ("diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight", "HunyuanVideo"),
        ("model.diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_q.weight", "Stable Video Diffusion"),
        ("down_blocks.0.temporal_attentions.0.norm.weight", "Hotshot-XL"),
        ("down_blocks.0.temp_convs.0.conv1.0.weight", "ModelScope's text to video"),
        ("ip_adapter.0.to_q_lora.down.weight", "IP-Adapter"),
        ("adapter.body.0.block1.weight", "T2I-Adapter"),
    ],
)
def test_what_is_not_run_is_refused_by_name(tmp_path: Path, name: str, title: str) -> None:
    with pytest.raises(CheckpointUnusable, match=f"made for {title}, which Promptreel does not run yet"):
        told(tmp_path, {name: (2, 2)})


@pytest.mark.parametrize(
    ("name", "shape", "base"),
    [
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", (4, 1536), "wan21-1.3b"),
        ("diffusion_model.blocks.0.cross_attn.o.lora_up.weight", (5120, 4), "wan21-14b"),
        ("transformer.blocks.0.attn2.to_out.0.lora_B.weight", (3072, 4), "wan22-5b"),
        ("lora_unet_blocks_39_self_attn_q.lora_down.weight", (4, 5120), "wan21-14b"),
        ("base_model.model.blocks.0.attn1.to_q.lora_A.weight", (4, 24), None),
        ("blocks.0.ffn.0.lora_A.default.weight", (4, 5120), None),
    ],
)
def test_lora_for_wan_is_told_from_its_tensors(tmp_path: Path, name: str, shape: tuple[int, ...], base: str | None) -> None:
    assert told(tmp_path, {name: shape}) == Detected(kind=ModelKind.LORA, family="wan", base=base)


@pytest.mark.parametrize("name", ["blocks.0.self_attn.q.weight", "diffusion_model.blocks.0.self_attn.q.lokr_w1"])
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


@pytest.mark.parametrize(
    ("tensors", "title"),
    [
        ({f"{KOHYA}.lora_down.weight": (4, 1024)}, "Stable Diffusion 2"),
        ({f"{KOHYA}.lora_down.weight": (4, 2048)}, "Stable Diffusion XL"),
        ({"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight": (4, 2048)}, "Stable Diffusion XL"),
        ({f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048)}, "Stable Diffusion XL"),
        ({"emb_params": (2, 1024)}, "Stable Diffusion 2"),
        ({"<my-style>": (2, 1280)}, "Stable Diffusion XL"),
    ],
)
def test_width_of_the_text_tells_for_whom_it_is(tmp_path: Path, tensors: dict[str, tuple[int, ...]], title: str) -> None:
    with pytest.raises(CheckpointUnusable, match=f"made for {title}, which"):
        told(tmp_path, tensors)


def test_lora_that_changes_no_layer_of_stable_diffusion_is_refused(tmp_path: Path) -> None:
    """LTX-Video's, for example: its layers are named like those of several others."""
    with pytest.raises(CheckpointUnusable, match=r"changes layers such as diffusion_model\.transformer_blocks\.0\.attn1"):
        told(tmp_path, {"diffusion_model.transformer_blocks.0.attn1.to_k.lora_A.weight": (4, 8)})


def test_adapter_of_pia_is_refused_by_name(tmp_path: Path) -> None:
    paths = write(tmp_path / "pia.safetensors", {f"{DOWN}.norm.weight": (8,), "conv_in.weight": (8, 9, 3, 3)})

    with pytest.raises(CheckpointUnusable, match="made for PIA, whose UNet also reads a picture"):
        detect(paths)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("<my-style>", {}, ["<my-style>"]),
        ("midjourney-style", {}, ["midjourney-style"]),
        ("emb_params", {}, None),  # the model's id
        ("<my-style>", {"trigger_words": ["mine"]}, ["mine"]),
    ],
)
def test_word_of_an_embedding_is_that_of_its_file(
    tmp_path: Path, name: str, given: dict[str, list[str]], words: list[str] | None
) -> None:
    paths = write(tmp_path / "x.safetensors", {name: (2, 768)})
    told_words = inspect(paths, ImportParams(model_id="x", source="x", card=given)).card.get("trigger_words")

    assert (None if told_words is None else list(told_words)) == words


def test_embedding_of_too_many_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnusable, match="more than 75 vectors"):
        told(tmp_path, {"emb_params": (76, 768)})


def test_another_kind_than_the_expected_one_is_refused(tmp_path: Path) -> None:
    paths = write(tmp_path / "x.safetensors", {"emb_params": (1, 768)})

    with pytest.raises(CheckpointUnusable, match="This is an embedding, not a LoRA"):
        inspect(paths, ImportParams(model_id="x", source="x", expects="lora"))


@pytest.mark.parametrize("name", ["../x.safetensors", "/tmp/x.safetensors", "a/../../x.safetensors"])
def test_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    paths = {name: next(iter(write(tmp_path / "x.safetensors", {"emb_params": (1, 768)}).values()))}

    with pytest.raises(CheckpointUnusable, match="is no name of a file"):
        inspect(paths, ImportParams(model_id="x", source="x"))
