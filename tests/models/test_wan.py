"""The gate for Wan checkpoints."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptreel.errors import CheckpointUnusable
from promptreel.models.gate import check_weights, hash_checkpoint
from promptreel.models.wan.checkpoint import WanCheckpoint, check_wan
from tests.models.checkpoints import card_of, change_json, change_tensors, write_json
from tests.models.wan_checkpoints import KINDS, PLAIN, TOKENIZER, WEIGHTS, lay_out_json, make_wan

TEXT = "tokenizer/tokenizer.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_wan(tmp_path / "wan")


def check(folder: Path) -> WanCheckpoint:
    checkpoint = check_wan(card_of(folder))
    check_weights(checkpoint)
    return checkpoint


def refuse(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointUnusable, match=match) as caught:
        check(folder)
    assert len(caught.value.message) < 1200
    assert str(folder.parent) not in caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_read_as_the_hub_has_them(tmp_path: Path, kind: str) -> None:
    found = check(make_wan(tmp_path / "wan", kind))

    experts = {"transformer", "transformer_2"} if kind.endswith("A14B") else {"transformer"}
    pictures = {"image_encoder"} if kind == "Wan2.1-I2V-14B-480P" else set()
    assert set(found.networks) == {*experts, *pictures, "vae", "text_encoder"}
    assert found.takes_picture == ("-I2V-" in kind)
    assert found.expands_timesteps == (kind == "Wan2.2-TI2V-5B")
    assert found.boundary_ratio == KINDS[kind].get("boundary_ratio")
    assert found.noise_table["flow_shift"] == 3.0
    assert {"model_index.json", "scheduler/scheduler_config.json", TEXT, f"vae/{PLAIN}"} < set(found.files)
    assert not any(name.endswith((".model", ".md")) for name in found.files)
    assert len(hash_checkpoint(found)) == 64


def test_text_encoder_may_have_its_embedding_under_either_name(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    change_tensors(file, lambda held: held | {"encoder.embed_tokens.weight": held["shared.weight"]})
    check(folder)
    change_tensors(file, lambda held: {name: each for name, each in held.items() if name != "shared.weight"})
    tensors = check(folder).networks["text_encoder"].tensors

    assert tensors["shared.weight"] == tensors["encoder.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ({"_class_name": "WanVACEPipeline"}, "names the pipeline 'WanVACEPipeline'"),
        ({"_class_name": ["a"]}, "_class_name"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "gives 'text_encoder' the class"),
        ({"tokenizer": ["os", "system"]}, "gives 'tokenizer' the class"),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "gives 'vae' the class"),
        ({"animator": ["custom", "Animator"]}, "gives 'animator' the class"),
        ({"transformer": [None, None]}, "has no transformer/"),
        ({"boundary_ratio": 0.875}, "must name a transformer_2 and a boundary_ratio, or neither"),
        ({"boundary_ratio": 7}, "boundary_ratio"),
        ({"expand_timesteps": "yes"}, "expand_timesteps"),
    ],
)
def test_wrong_index_is_refused(folder: Path, index: dict[str, Any], match: str) -> None:
    change_json(folder / "model_index.json", **index)
    refuse(folder, match)


@pytest.mark.parametrize(
    ("component", "fields", "match"),
    [
        ("transformer", {"num_layers": 100_000}, "num_layers"),
        (
            "transformer",
            {"ffn_dim": 65_536, "num_layers": 128, "attention_head_dim": 1024, "num_attention_heads": 512},
            "at most",
        ),
        ("transformer", {"patch_size": [1, 4, 4]}, "patch_size"),
        ("transformer", {"pos_embed_seq_len": 514}, "pos_embed_seq_len"),
        ("transformer", {"image_dim": 6}, "image_dim and added_kv_proj_dim"),
        ("transformer", {"out_channels": 8}, "weights do not fit"),
        ("transformer", {"quantization_config": {}}, "quantization_config"),
        ("transformer", {"_class_name": "os.system"}, "is of the class"),
        ("vae", {"latents_std": [0.0] * 4}, "latents_std"),
        ("vae", {"latents_mean": [0.0] * 3}, "z_dim values"),
        ("vae", {"temperal_downsample": [True, True, True]}, "halve the frames twice"),
        ("vae", {"attn_scales": [1.0]}, "attn_scales"),
        ("vae", {"scale_factor_spatial": 16}, "product of all steps"),
        ("vae", {"dim_mult": [1] * 9}, "dim_mult"),
        ("text_encoder", {"model_type": "t5"}, "model_type"),
        ("text_encoder", {"feed_forward_proj": "relu"}, "feed_forward_proj"),
        ("text_encoder", {"auto_map": {"AutoModel": "x.y"}}, "auto_map"),
    ],
)
def test_wrong_config_is_refused(folder: Path, component: str, fields: dict[str, Any], match: str) -> None:
    change_json(folder / component / "config.json", **fields)
    refuse(folder, match)


def test_scheduler_of_pictures_is_refused(folder: Path) -> None:
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "DDIMScheduler", "beta_schedule": "linear"})
    refuse(folder, "not of a flow model")


@pytest.mark.parametrize(
    ("component", "fields", "match"),
    [
        ("transformer", {"text_dim": 16}, "takes text of 16 channels"),
        ("transformer", {"in_channels": 6}, "takes 6 channels; 4 or 12 fit"),
        ("text_encoder", {"vocab_size": 5}, "has 6 tokens, but the text encoder only 5"),
    ],
)
def test_parts_that_do_not_fit_are_refused(folder: Path, component: str, fields: dict[str, Any], match: str) -> None:
    rebuild(folder, component, **fields)
    refuse(folder, match)


def rebuild(folder: Path, component: str, **fields: object) -> None:
    """Changes the config, and weights with it."""
    file = folder / component / "config.json"
    change_json(file, **fields)
    index = json.loads((folder / "model_index.json").read_text())
    shapes = lay_out_json(json.loads(file.read_text()), index[component][1])
    change_tensors(
        folder / component / WEIGHTS.get(component, PLAIN),
        lambda _held: {name: np.full(shape, 0.01, np.float16) for name, shape in shapes.items()},
    )


def test_experts_must_be_alike(tmp_path: Path) -> None:
    folder = make_wan(tmp_path / "wan", "Wan2.2-T2V-A14B")
    rebuild(folder, "transformer_2", ffn_dim=16)
    refuse(folder, "have different configs")


def test_transformer_that_reads_tokens_needs_an_image_encoder(tmp_path: Path) -> None:
    refuse(
        make_wan(tmp_path / "wan", "Wan2.1-I2V-14B-480P", image_encoder=[None, None], image_processor=[None, None]),
        "there is no image_encoder/",
    )


@pytest.mark.parametrize(("model", "wrong", "multiple", "right"), [
    ("Wan2.2-TI2V-5B", None, 32, "wan22"),
    ("Wan2.1-T2V-1.3B", "wan22", 16, "wan21"),
])  # fmt: skip
def test_card_must_name_the_base_with_the_models_steps(
    tmp_path: Path, model: str, wrong: str | None, multiple: int, right: str
) -> None:
    folder = make_wan(tmp_path / "wan", model)
    card = json.loads((folder / "promptreel.json").read_text()) | {"base": wrong}
    write_json(folder / "promptreel.json", card)
    refuse(folder, rf'multiples of {multiple}. Write "base": "{right}" into promptreel.json')


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    change_tensors(folder / "transformer" / PLAIN, lambda held: held | {"proj_out.bias": np.full(16, np.inf, np.float16)})
    refuse(folder, r"not finite, in proj_out\.bias")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": {**TOKENIZER["model"], "type": "BPE"}}, "Unigram"),
        ({"model": {**TOKENIZER["model"], "unk_id": 6}}, "unk_id is not in the vocabulary"),
        ({"model": {**TOKENIZER["model"], "vocab": [["<pad>", 0.0], ["<unk>", 0.0], ["a", 0.0]]}}, "which its vocabulary"),
        ({"model": {**TOKENIZER["model"], "vocab": [["a", 0.0]] * 3}}, "a token appears twice"),
        ({"added_tokens": [{"id": 9, "content": "a"}]}, "adds the token 'a'"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}}, "Regex"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "!"}}, "not base64"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff" * 99).decode()}}, "damaged"),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
            "Split",
        ),
    ],
)
def test_tokenizer_of_another_kind_is_refused(folder: Path, change: dict[str, Any], match: str) -> None:
    write_json(folder / TEXT, TOKENIZER | change)
    refuse(folder, match)


def test_tokenizer_with_too_many_lists_is_refused(folder: Path) -> None:
    (folder / TEXT).write_bytes(b"[" * 2_000_000)
    refuse(folder, "more than 1500000 nested lists")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
def test_any_value_in_any_file_is_read_or_refused(tmp_path: Path) -> None:
    folder = make_wan(tmp_path / "wan", "Wan2.1-I2V-14B-480P")
    files = [*folder.glob("*/config.json"), folder / "model_index.json", folder / TEXT, *folder.glob("scheduler/*.json")]
    known = {file: json.loads(file.read_text()) for file in files}
    messages: list[str] = []

    @settings(max_examples=150)
    @given(st.sampled_from(files), st.data())
    def try_out(file: Path, data: st.DataObject) -> None:
        content = copy.deepcopy(known[file])
        held = content
        while True:
            key = data.draw(st.sampled_from(sorted(held)))
            if not isinstance(held[key], dict) or data.draw(st.booleans()):
                held[key] = data.draw(JSON)
                break
            held = held[key]
        file.write_text(json.dumps(content))
        try:
            check(folder)
        except CheckpointUnusable as error:
            messages.append(error.message)
        finally:
            write_json(file, known[file])

    try_out()
    assert messages
    assert max(map(len, messages)) < 1200
