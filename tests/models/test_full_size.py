"""Public models in their real sizes and under their real names: headers only, so the gate checks them in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptreel.errors import CheckpointUnusable
from promptreel.jobs.import_params import ImportParams
from promptreel.models.gate import check_part
from promptreel.models.inspection import Inspected, inspect
from promptreel.models.kinds import ModelKind
from promptreel.models.noise_table import table_of_adapter
from promptreel.models.parts import read_image_parts
from tests.models.headers import Shapes, checkpoint_shapes, full_size_parts, original, shapes_of, write_header

# As they stand in v1-5-pruned-emaonly.safetensors: the first and the last of each kind of block.
KNOWN = {
    "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
    "model.diffusion_model.input_blocks.10.0.emb_layers.1.weight": (1280, 1280),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
    "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
    "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
}
ADDED: dict[str, Callable[[], Shapes]] = {
    "what training left": lambda: shapes_of(original().training_leftovers()),
    "discriminator": lambda: {"first_stage_model.loss.logvar": (), "first_stage_model.model_ema.decay": ()},
    "projection": lambda: {"cond_stage_model.transformer.text_projection.weight": (768, 768)},
}


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return full_size_parts()


def look(path: Path, shapes: Shapes, dtype: str = "F16", **card: Any) -> Inspected:
    return inspect(write_header(path / "x.safetensors", shapes, dtype), ImportParams(model_id="x", source="x", card=card))


@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED)
@pytest.mark.parametrize(("level", "dtype"), [("text_model.", "F16"), ("", "F32"), ("text_model.", "BF16")])
def test_stable_diffusion_in_one_file(
    parts: dict[str, Any], tmp_path: Path, added: Callable[[], Shapes], level: str, dtype: str
) -> None:
    whole = checkpoint_shapes(parts, level=level)
    found = look(tmp_path, whole | added(), dtype)
    networks = read_image_parts(tmp_path).networks

    if level:
        assert {name: whole[name] for name in KNOWN} == KNOWN
    assert (found.kind, found.base) == (ModelKind.CHECKPOINT, "sd15")
    assert {name: len(part.tensors) for name, part in networks.items()} == {"unet": 686, "text_encoder": 196, "vae": 248}
    assert networks["text_encoder"].config.arguments["num_attention_heads"] == 12
    assert networks["vae"].config.arguments["scaling_factor"] == 0.18215


def test_checkpoint_without_a_part_is_refused_with_what_to_add(parts: dict[str, Any], tmp_path: Path) -> None:
    whole = checkpoint_shapes(parts)
    for lacks, why in (("first_stage_model.", "`--vae ID`"), ("cond_stage_model.", "no text encoder")):
        pruned = {name: shape for name, shape in whole.items() if not name.startswith(lacks)}
        with pytest.raises(CheckpointUnusable, match=why):
            look(tmp_path, pruned)
        if lacks == "first_stage_model.":
            assert look(tmp_path, pruned, vae="vae-ft-mse").kind is ModelKind.CHECKPOINT


def test_tensors_that_no_part_has_are_named(parts: dict[str, Any], tmp_path: Path) -> None:
    whole = checkpoint_shapes(parts)
    more = whole | {"model.diffusion_model.input_blocks.1.1.fuser.linear.weight": (8, 8)}
    less = {name: shape for name, shape in whole.items() if not name.endswith("output_blocks.7.0.in_layers.2.bias")}

    with pytest.raises(CheckpointUnusable, match=r"^x\.safetensors holds no usable unet: it should not hold .*fuser"):
        look(tmp_path, more)
    with pytest.raises(CheckpointUnusable, match=r"usable unet: it lacks up_blocks\.2\.resnets\.1\.conv1\.bias"):
        look(tmp_path, less)


@pytest.mark.parametrize("channels", [8, 9])
def test_unet_that_reads_a_picture_is_refused_as_such(parts: dict[str, Any], tmp_path: Path, channels: int) -> None:
    first = "model.diffusion_model.input_blocks.0.0.weight"

    with pytest.raises(CheckpointUnusable, match=f"takes {channels} channels and returns 4, like a UNet for inpainting"):
        look(tmp_path, checkpoint_shapes(parts) | {first: (320, channels, 3, 3)})


@pytest.mark.parametrize(
    ("added", "metadata", "predicts"),
    [
        ({}, {}, "epsilon"),
        ({}, {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"v_pred": (0,)}, {}, "v_prediction"),
    ],
)
def test_checkpoint_says_what_it_predicts(
    parts: dict[str, Any], tmp_path: Path, added: Shapes, metadata: dict[str, str], predicts: str
) -> None:
    write_header(tmp_path / "x.safetensors", checkpoint_shapes(parts) | added, **metadata)
    image = read_image_parts(tmp_path)
    table = table_of_adapter(image.noise_file, None, predicts_v=image.predicts_v)

    assert (table["prediction_type"], table["beta_schedule"]) == (predicts, "linear")


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.diffusion_model."])
@pytest.mark.parametrize(("version", "frames", "mid_block"), [("v1", 24, False), ("v2", 32, True), ("v3", 32, False)])
def test_motion_adapters(
    parts: dict[str, Any], tmp_path: Path, version: str, frames: int, mid_block: bool, prefix: str
) -> None:
    shapes = shapes_of(original().original_adapter(parts[version], prefix))
    if version == "v1":  # either of the two tables of positions is enough
        shapes = {name: shape for name, shape in shapes.items() if not name.endswith("blocks.1.pos_encoder.pe")}
    found = look(tmp_path, shapes)
    config = check_part(tmp_path, "motion_adapter").config.arguments

    assert (found.kind, found.base) == (ModelKind.MOTION_ADAPTER, "sd15")
    assert (found.card["beta_schedule"], found.card["max_frames"]) == ("linear", 16)
    assert (config["motion_max_seq_length"], config["use_motion_mid_block"]) == (frames, mid_block)
    assert config["motion_num_attention_heads"] == 8


def test_motion_adapter_in_diffusers_names_needs_no_config(parts: dict[str, Any], tmp_path: Path) -> None:
    """As AnimateDiff-Lightning is published."""
    found = look(tmp_path, shapes_of(parts["v2"].state_dict()))

    assert (found.kind, found.base) == (ModelKind.MOTION_ADAPTER, "sd15")


VAES = {
    "as in a checkpoint": ("first_stage_model.", {}),
    "alone": ("", {}),
    "with its training": ("", {"loss.discriminator.main.0.weight": (64, 3, 4, 4), "model_ema.num_updates": ()}),
}


@pytest.mark.parametrize(("prefix", "added"), VAES.values(), ids=VAES)
def test_vae_in_one_file(parts: dict[str, Any], tmp_path: Path, prefix: str, added: Shapes) -> None:
    found = look(tmp_path, shapes_of(original().original_vae(parts["vae"], prefix)) | added)

    assert (found.kind, found.base) == (ModelKind.VAE, "sd15")


def test_tiny_vae_needs_no_config(parts: dict[str, Any], tmp_path: Path) -> None:
    """TAESD, which decodes in a fraction of the time."""
    vae = parts["tiny_vae"]
    vae.save_config(tmp_path)
    alone = look(tmp_path / "alone", shapes_of(vae.state_dict()))
    weights = write_header(tmp_path / "diffusion_pytorch_model.safetensors", shapes_of(vae.state_dict()))
    folder = inspect(weights | {"config.json": tmp_path / "config.json"}, ImportParams(model_id="x", source="x"))

    assert alone.kind is folder.kind is ModelKind.VAE
    assert check_part(tmp_path, "vae").config == check_part(tmp_path / "alone", "vae").config


def test_vaes_of_other_models_are_refused_by_name(parts: dict[str, Any], tmp_path: Path) -> None:
    shapes = shapes_of(parts["vae"].state_dict())
    parts["vae"].save_config(tmp_path / "xl")
    config = tmp_path / "xl" / "config.json"
    config.write_text(config.read_text().replace("0.18215", "0.13025"))
    paths = write_header(tmp_path / "xl" / "diffusion_pytorch_model.safetensors", shapes) | {"config.json": config}
    wider = {
        "decoder.conv_in.weight": (512, 16, 3, 3),
        "encoder.conv_out.weight": (32, 512, 3, 3),
        "encoder.conv_out.bias": (32,),
    }

    with pytest.raises(CheckpointUnusable, match="made for Stable Diffusion XL"):
        inspect(paths, ImportParams(model_id="x", source="x"))
    with pytest.raises(CheckpointUnusable, match="made for Stable Diffusion 3 or Flux"):
        look(tmp_path / "flux", {name: shape for name, shape in (shapes | wider).items() if "quant_conv" not in name})
