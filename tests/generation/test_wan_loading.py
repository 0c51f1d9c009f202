"""What the gate knows of Wan's networks without torch, against the classes; what is loaded, against their own loaders."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, CLIPVisionModel, T5TokenizerFast, UMT5Config, UMT5EncoderModel

from promptreel.errors import CheckpointUnusable
from promptreel.generation.compute import ComputeThreads
from promptreel.generation.devices import Device
from promptreel.generation.families.wan_loading import _dtype_of, _load_network, check_wan_model
from promptreel.generation.families.wan_text import WanTokenizer, clean
from promptreel.models.composition import ModelSet
from promptreel.models.configs import Config
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelRegistry
from promptreel.models.wan import configs
from promptreel.models.wan.checkpoint import WanCheckpoint, check_wan
from promptreel.models.wan.layouts import lay_out
from tests.generation.conftest import CPU
from tests.generation.layout_checks import build_without_memory, check_defaults, check_layouts, shapes_of
from tests.generation.wan_checkpoints import make_tiny_wan

CLASSES: dict[type[Config], Any] = {
    configs.Transformer: diffusers.WanTransformer3DModel,
    configs.Vae: diffusers.AutoencoderKLWan,
    configs.TextEncoder: UMT5Config,
    configs.ImageEncoder: CLIPVisionConfig,
}
WIDTHS = st.sampled_from([4, 8, 16])


@st.composite
def transformers(draw: st.DrawFn) -> dict[str, Any]:
    heads, width = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([6, 8, 12]))
    reads_pictures = draw(st.booleans())
    return {
        "num_attention_heads": heads,
        "attention_head_dim": width,
        "in_channels": draw(WIDTHS),
        "out_channels": draw(WIDTHS),
        "text_dim": draw(WIDTHS),
        "freq_dim": draw(WIDTHS),
        "ffn_dim": draw(WIDTHS),
        "num_layers": draw(st.integers(1, 2)),
        "cross_attn_norm": draw(st.booleans()),
        "image_dim": draw(WIDTHS) if reads_pictures else None,
        "added_kv_proj_dim": heads * width if reads_pictures else None,
        "rope_max_seq_len": 128,
    }


@st.composite
def vaes(draw: st.DrawFn) -> dict[str, Any]:
    steps = draw(st.integers(2, 3))
    z_dim, patch = draw(st.integers(1, 4)), draw(st.sampled_from([None, 1, 2]))
    return {
        "base_dim": draw(st.sampled_from([2, 4, 6])),
        "decoder_base_dim": draw(st.sampled_from([None, 2, 4, 6])),
        "z_dim": z_dim,
        "dim_mult": draw(st.tuples(*[st.integers(1, 4)] * (steps + 1))),
        "num_res_blocks": draw(st.integers(1, 2)),
        "temperal_downsample": (False,) * (steps - 2) + (True, True),
        "latents_mean": (0.0,) * z_dim,
        "latents_std": (1.0,) * z_dim,
        "is_residual": draw(st.booleans()),
        "in_channels": 3 * (patch or 1) ** 2,
        "out_channels": 3 * (patch or 1) ** 2,
        "patch_size": patch,
        "scale_factor_spatial": (patch or 1) * 2**steps,
    }


text_encoders = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(3, 90),
        "d_model": WIDTHS,
        "d_kv": WIDTHS,
        "d_ff": WIDTHS,
        "num_layers": st.integers(1, 2),
        "num_heads": st.sampled_from([1, 2]),
        "relative_attention_num_buckets": st.sampled_from([4, 8, 32]),
        "relative_attention_max_distance": st.integers(2, 200),
    }
)
image_encoders = st.fixed_dictionaries(
    {
        "hidden_size": WIDTHS,
        "intermediate_size": WIDTHS,
        "num_hidden_layers": st.integers(1, 2),
        "num_attention_heads": st.sampled_from([1, 2, 3]),
        "image_size": st.integers(4, 20),
        "patch_size": st.integers(1, 8),
    }
)
DRAWN: dict[type[Config], st.SearchStrategy[Any]] = {
    configs.Transformer: transformers(),
    configs.Vae: vaes(),
    configs.TextEncoder: text_encoders,
    configs.ImageEncoder: image_encoders,
}


def build(config: Config) -> Any:
    return build_without_memory(CLASSES[type(config)], config)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_defaults_and_fields_are_those_of_the_class(kind: type[Config]) -> None:
    check_defaults(kind, CLASSES[kind], left_out={"dropout"} if kind in {configs.Transformer, configs.Vae} else None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWN, ids=lambda kind: kind.__name__)
def test_any_config_that_passes_builds_a_network_of_its_layout_that_runs(kind: type[Config]) -> None:
    check_layouts(kind, DRAWN[kind], lay_out=lay_out, build=build, run=run)


def run(config: Config, network: Any) -> None:
    match config:
        case configs.Transformer():
            latents = torch.zeros(1, config.in_channels, 1, 4, 4)
            picture = None if config.image_dim is None else torch.zeros(1, 5, config.image_dim)
            output = network(latents, torch.zeros(1), torch.zeros(1, 512, config.text_dim), picture).sample
            assert output.shape == (1, config.out_channels, 1, 4, 4)
        case configs.Vae():
            side = config.scale_factor_spatial
            assert network.decode(torch.zeros(1, config.z_dim, 2, 2, 2)).sample.shape == (1, 3, 5, 2 * side, 2 * side)
            encoded = network.encode(torch.zeros(1, 3, 5, 2 * side, 2 * side)).latent_dist.mean
            assert encoded.shape == (1, config.z_dim, 2, 2, 2)
        case configs.TextEncoder():
            tokens = torch.zeros(1, 3, dtype=torch.long)
            assert network(tokens).last_hidden_state.shape == (1, 3, config.d_model)
        case configs.ImageEncoder():
            tokens = network(torch.zeros(1, 3, config.image_size, config.image_size)).last_hidden_state
            assert tokens.shape[2] == config.hidden_size


@pytest.mark.parametrize("patch", [None, 2], ids=["2.1", "2.2"])
def test_layout_of_the_public_vaes_is_that_of_the_class(patch: int | None) -> None:
    """By config alone: without memory."""
    new = {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": patch,
        "scale_factor_spatial": 16,
        "latents_mean": (0.0,) * 48,
        "latents_std": (1.0,) * 48,
    }
    config = configs.Vae(**(new if patch else {}))

    assert lay_out(config) == shapes_of(build(config))


def check(folder: Path) -> WanCheckpoint:
    return check_wan(ModelRegistry(built_in=folder.parent, models_dir=folder / "none").get(folder.name))


def test_networks_are_bit_for_bit_what_diffusers_and_transformers_load(tmp_path: Path) -> None:
    folder = make_tiny_wan(tmp_path / "wan", "i2v")
    found = check(folder)
    transformer = diffusers.WanTransformer3DModel.from_config(
        diffusers.WanTransformer3DModel.load_config(folder / "transformer")
    )
    theirs = {
        "vae": diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        "image_encoder": CLIPVisionModel.from_pretrained(folder / "image_encoder"),
    }
    for name, their in theirs.items():
        built = _load_network(found.networks[name], CPU)
        assert not built.training
        if name != "text_encoder":  # its embedding is one module here, and two that share a weight there
            assert [str(module) for module in built.modules()] == [str(module) for module in their.modules()]
        for (key, tensor), (other_key, other) in zip(
            [*built.state_dict().items(), *built.named_buffers()],
            [*their.state_dict().items(), *their.named_buffers()],
            strict=True,
        ):
            assert key == other_key
            assert torch.equal(tensor, other)
    built = _load_network(found.networks["transformer"], CPU)
    assert {name: transformer.config[name] for name in built.config} | {"patch_size": (1, 2, 2)} == dict(built.config)
    for (_, buffer), (_, other) in zip(built.named_buffers(), transformer.named_buffers(), strict=True):
        assert torch.equal(buffer, other)
    encoder = _load_network(found.networks["text_encoder"], CPU)
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight  # not twice in memory


def test_weights_have_the_dtype_of_the_device_but_for_those_that_need_more(tmp_path: Path) -> None:
    found = check(make_tiny_wan(tmp_path / "wan", "i2v"))
    formats = {
        (name, tensor.rpartition(".")[0].rpartition(".")[2]): _dtype_of(network, Device("cpu", torch.bfloat16), tensor)
        for name, network in found.networks.items()
        for tensor in network.tensors
    }

    assert {dtype for (name, _), dtype in formats.items() if name in {"vae", "image_encoder"}} == {torch.float32}
    assert {dtype for (name, _), dtype in formats.items() if name == "text_encoder"} == {torch.bfloat16}
    assert formats["transformer", "to_q"] is torch.bfloat16
    assert formats["transformer", "norm2"] is formats["transformer", "linear_1"] is torch.float32
    half = Device("cpu", torch.float16)
    encoder = found.networks["text_encoder"]
    assert _dtype_of(encoder, half, "encoder.block.0.layer.1.DenseReluDense.wo.weight") is torch.float32
    assert _dtype_of(encoder, half, "shared.weight") is torch.float16


def test_loadable_says_how_much_memory_the_weights_take(tmp_path: Path) -> None:
    folder = make_tiny_wan(tmp_path / "wan", "t2v-a14b")
    card = ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none").get("wan")
    loadable = check_wan_model(ModelSet(checkpoint=card), CPU, ComputeThreads(1))
    files = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))

    assert 0.9 * files < loadable.size_bytes < files
    assert set(loadable.files) > set(folder.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "text", ["a red cat", "", "  Red,  cat!\n", "x" * 700, "h\u00e9llo \u65e5\u672c", "<extra_id_0></s> cat"]
)
def test_tokens_are_those_of_transformers(tmp_path: Path, text: str) -> None:
    folder = make_tiny_wan(tmp_path / "wan")
    ours = WanTokenizer(check(folder).tokenizer)
    theirs = T5TokenizerFast.from_pretrained(folder / "tokenizer")
    told = theirs([clean(text)], padding="max_length", max_length=512, truncation=True, return_tensors="pt")
    ids, mask = ours.pad(ours.split(text))

    assert torch.equal(ids, told.input_ids)
    assert torch.equal(mask, told.attention_mask)


@pytest.mark.parametrize(("tail", "usable"), [(b"a\0b\0", True), (b"\xff\xfe", False)])
def test_damaged_table_of_characters_is_an_unusable_checkpoint(tmp_path: Path, tail: bytes, usable: bool) -> None:
    """The library panics at it, which is no Exception: a worker would go down with it."""
    folder = make_tiny_wan(tmp_path / "wan")
    file = folder / "tokenizer" / "tokenizer.json"
    table = base64.b64encode((1024).to_bytes(4, "little") + bytes(1024) + tail).decode()
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": table}})
    )
    parts = check(folder).tokenizer
    if usable:
        assert WanTokenizer(parts).split("a cat")
        return
    with pytest.raises(CheckpointUnusable, match="A tokenizer cannot be built"):
        WanTokenizer(parts)


def test_parts_of_other_models_are_refused(tmp_path: Path) -> None:
    make_tiny_wan(tmp_path / "wan")
    card = ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none").get("wan")
    soft = replace(card, model_id="soft", kind=ModelKind.VAE)

    with pytest.raises(CheckpointUnusable, match="'soft' cannot be used with 'wan': Wan has its own parts"):
        check_wan_model(ModelSet(checkpoint=card, vae=soft), CPU, ComputeThreads(1))
