"""What the gate knows of networks without torch, against the classes themselves; what is loaded, against diffusers' loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.errors import CheckpointUnusable
from promptreel.generation.devices import Device
from promptreel.generation.loading import load_network, load_tokenizer
from promptreel.models import configs
from promptreel.models.configs import Config
from promptreel.models.gate import Checkpoint, Network, check_checkpoint
from promptreel.models.layouts import lay_out
from promptreel.models.registry import ModelRegistry
from tests.generation.checkpoints import make_tiny_checkpoint
from tests.generation.conftest import CPU
from tests.generation.layout_checks import build_without_memory, check_defaults, check_layouts, shapes_of

CLASSES: dict[type[Config], Any] = {
    configs.MotionUNet: diffusers.UNetMotionModel,
    configs.ImageUNet: diffusers.UNet2DConditionModel,
    configs.MotionAdapter: diffusers.MotionAdapter,
    configs.VaeKL: diffusers.AutoencoderKL,
    configs.VaeDC: diffusers.AutoencoderDC,
    configs.VaeTiny: diffusers.AutoencoderTiny,
    configs.TextEncoder: CLIPTextConfig,
}
# What diffusers' constructors take and the gate leaves out: it has no weights, and no effect on what the engine does.
LEFT_OUT = {"sample_size", "force_upcast", "dropout", "upcast_attention", "addition_time_embed_dim", "attention_head_dim"}
LEFT_OUT |= {"encoder_qkv_multiscales", "decoder_qkv_multiscales", "addition_embed_type_num_heads"}
LEFT_OUT |= {"projection_class_embeddings_input_dim"}

COUNTS = st.integers(0, 2)
WIDTHS = st.sampled_from([4, 8, 16, 24])


def per_block(values: st.SearchStrategy[Any], blocks: int) -> st.SearchStrategy[Any]:
    return st.tuples(*[values] * blocks)


@st.composite
def unets(draw: st.DrawFn) -> dict[str, Any]:
    blocks = draw(st.integers(1, 3))
    kinds = st.sampled_from(["CrossAttn", ""])
    each = {
        "block_out_channels": WIDTHS,
        "layers_per_block": st.integers(1, 2),
        "transformer_layers_per_block": COUNTS,
        "temporal_transformer_layers_per_block": COUNTS,
        "num_attention_heads": st.sampled_from([1, 2, 4]),
        "motion_num_attention_heads": st.sampled_from([1, 2]),
    }
    drawn = {name: draw(per_block(values, blocks)) for name, values in each.items()}
    return drawn | {
        "down_block_types": tuple(f"{draw(kinds)}DownBlockMotion" for _ in range(blocks)),
        "up_block_types": tuple(f"{draw(kinds)}UpBlockMotion" for _ in range(blocks)),
        "norm_num_groups": 4,
        "cross_attention_dim": draw(WIDTHS),
        "transformer_layers_per_mid_block": draw(st.none() | COUNTS),
        "temporal_transformer_layers_per_mid_block": draw(COUNTS),
        "use_linear_projection": draw(st.booleans()),
        "motion_max_seq_length": draw(st.integers(1, 40)),
        "use_motion_mid_block": draw(st.booleans()),
        "time_cond_proj_dim": draw(st.none() | WIDTHS),
    }


@st.composite
def kl_vaes(draw: st.DrawFn) -> dict[str, Any]:
    blocks = draw(st.integers(1, 3))
    switches = ("mid_block_add_attention", "use_quant_conv", "use_post_quant_conv")
    return {name: draw(st.booleans()) for name in switches} | {
        "block_out_channels": draw(per_block(WIDTHS, blocks)),
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "layers_per_block": draw(st.integers(1, 2)),
        "norm_num_groups": draw(st.sampled_from([1, 2, 4])),
        "latent_channels": draw(st.integers(1, 8)),
    }


@st.composite
def dc_vaes(draw: st.DrawFn) -> dict[str, Any]:
    blocks = draw(st.integers(2, 3))
    layers = st.tuples(COUNTS, *[st.integers(1, 2)] * (blocks - 1))
    halves = {f"{half}_block_out_channels": draw(per_block(WIDTHS, blocks)) for half in ("encoder", "decoder")}
    halves |= {f"{half}_layers_per_block": draw(layers) for half in ("encoder", "decoder")}
    return halves | {
        "latent_channels": draw(st.sampled_from([2, 4, 8])),
        "upsample_block_type": draw(st.sampled_from(["pixel_shuffle", "interpolate"])),
        "downsample_block_type": draw(st.sampled_from(["pixel_unshuffle", "conv"])),
        "encoder_out_shortcut": draw(st.booleans()),
        "decoder_in_shortcut": draw(st.booleans()),
    }


@st.composite
def tiny_vaes(draw: st.DrawFn) -> dict[str, Any]:
    blocks = draw(st.integers(1, 3))
    channels = {f"{half}_block_out_channels": (8,) * blocks for half in ("encoder", "decoder")}
    return channels | {f"num_{half}_blocks": draw(per_block(COUNTS, blocks)) for half in ("encoder", "decoder")}


text_encoders = st.fixed_dictionaries(
    {
        "hidden_size": WIDTHS,
        "intermediate_size": WIDTHS,
        "num_hidden_layers": st.integers(1, 2),
        "num_attention_heads": st.sampled_from([1, 2, 8]),
        "max_position_embeddings": st.integers(3, 90),
        "vocab_size": st.integers(3, 90),
    }
)
DRAWN: dict[type[Config], st.SearchStrategy[Any]] = {
    configs.MotionUNet: unets(),
    configs.VaeKL: kl_vaes(),
    configs.VaeDC: dc_vaes(),
    configs.VaeTiny: tiny_vaes(),
    configs.TextEncoder: text_encoders,
}


def build(config: Config) -> Any:
    return build_without_memory(CLASSES[type(config)], config)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_defaults_and_fields_are_those_of_the_class(kind: type[Config]) -> None:
    check_defaults(kind, CLASSES[kind], left_out=None if kind is configs.TextEncoder else LEFT_OUT)


@pytest.mark.parametrize("kind", [kind for kind in DRAWN if kind is not configs.VaeKL], ids=lambda kind: kind.__name__)
def test_layout_of_the_defaults_is_that_of_the_class(kind: type[Config]) -> None:
    assert lay_out(kind()) == shapes_of(build(kind()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWN, ids=lambda kind: kind.__name__)
def test_any_config_that_passes_builds_a_network_of_its_layout_that_runs(kind: type[Config]) -> None:
    check_layouts(kind, DRAWN[kind], lay_out=lay_out, build=build, run=run, examples=6 if kind is configs.MotionUNet else 12)


def run(config: Config, network: Any) -> None:
    match config:
        case configs.MotionUNet():
            latents = torch.zeros(1, config.in_channels, 1, 8, 8)
            text = torch.zeros(1, 5, config.cross_attention_dim)
            assert network(latents, torch.zeros(1), text).sample.shape == latents.shape
        case configs.TextEncoder():
            tokens = torch.zeros(1, 3, dtype=torch.long)
            assert network(tokens).last_hidden_state.shape == (1, 3, config.hidden_size)
        case _:
            latents = torch.zeros(1, config.latent_channels, 4, 4)  # type: ignore[attr-defined]
            picture = network.decode(latents).sample
            assert picture.shape[:2] == (1, 3)
            network.encode(picture)


def check(folder: Path) -> Checkpoint:
    return check_checkpoint(ModelRegistry(built_in=folder.parent, models_dir=folder / "none").get(folder.name))


@pytest.fixture(scope="module", params=["tiny", "cutout"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "cutout":
        return BUILT_IN_MODELS / "cutout"
    return make_tiny_checkpoint(tmp_path_factory.mktemp("loading") / "tiny")


def test_networks_are_bit_for_bit_what_diffusers_and_transformers_load(folder: Path) -> None:
    found = check(folder)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    adapter = diffusers.MotionAdapter.from_pretrained(folder / "motion_adapter")
    theirs = (
        diffusers.UNetMotionModel.from_unet2d(unet, adapter),
        getattr(diffusers, found.vae.class_name).from_pretrained(folder / "vae"),
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
    )
    for ours, their in zip((found.unet, found.vae, found.text_encoder), theirs, strict=True):
        built, weights = load_network(ours, CPU), their.state_dict()
        assert not built.training
        assert [str(module) for module in built.modules()] == [str(module) for module in their.modules()]
        for name, tensor in built.state_dict().items():
            other = weights.pop(name)
            assert (tensor.dtype, tensor.stride()) == (other.dtype, other.stride())
            assert torch.equal(tensor, other)
        assert weights == {}


def test_tokenizer_is_what_transformers_load(folder: Path) -> None:
    ours, theirs = load_tokenizer(check(folder).tokenizer), CLIPTokenizer.from_pretrained(folder / "tokenizer")

    assert ours.model_max_length == theirs.model_max_length
    assert ours.special_tokens_map == theirs.special_tokens_map
    for text in ("a red cat, on grass!", "", "  Héllo 123 don't <|endoftext|> x", "日本語"):
        assert ours(text).input_ids == theirs(text).input_ids
        assert ours(text, add_special_tokens=False).input_ids == theirs(text, add_special_tokens=False).input_ids


def test_shards_and_the_variant_load_alike(tmp_path: Path) -> None:
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    whole = load_network(check(tiny).unet, CPU).state_dict()
    for part in ("unet", "motion_adapter"):
        network = getattr(diffusers, {"unet": "UNet2DConditionModel"}.get(part, "MotionAdapter")).from_pretrained(tiny / part)
        (tiny / part / "diffusion_pytorch_model.safetensors").unlink()
        network.save_pretrained(tiny / part, max_shard_size="100KB")
    assert len(list((tiny / "unet").glob("*.safetensors"))) > 1
    sharded = load_network(check(tiny).unet, CPU).state_dict()

    assert all(torch.equal(tensor, whole[name]) for name, tensor in sharded.items())


def test_weights_that_float16_cannot_hold_are_refused_where_it_computes(tmp_path: Path) -> None:
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    file = tiny / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"decoder.conv_in.bias": torch.full((16,), 1e6)}, file, metadata={"format": "pt"})

    assert load_network(check(tiny).vae, CPU)
    with pytest.raises(CheckpointUnusable, match=r"decoder\.conv_in\.bias is too large for float16"):
        load_network(check(tiny).vae, Device("cpu", torch.float16))


def test_network_that_the_class_refuses_is_an_unusable_checkpoint(tmp_path: Path) -> None:
    """Should the gate ever know less than the classes do."""
    vae = check(make_tiny_checkpoint(tmp_path / "tiny")).vae
    for arguments in ({"no": "argument"}, {"down_block_types": ("os.system",)}, {"latent_channels": 5}):
        wrong = Network(class_name=vae.class_name, arguments=vae.arguments | arguments, tensors=vae.tensors)
        with pytest.raises(CheckpointUnusable, match="AutoencoderKL") as caught:
            load_network(wrong, CPU)
        assert str(tmp_path) not in caught.value.message


def test_config_may_be_what_diffusers_saved(tmp_path: Path) -> None:
    """All keys of a saved config are known, or have no effect."""
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    for part, kind in (("unet", configs.ImageUNet), ("motion_adapter", configs.MotionAdapter), ("vae", configs.VaeKL)):
        saved = json.loads((tiny / part / "config.json").read_text())
        assert {key for key in saved if not key.startswith("_")} - set(kind.model_fields) <= LEFT_OUT
