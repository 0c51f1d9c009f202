from __future__ import annotations

import copy
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from promptreel.errors import CheckpointUnusable
from promptreel.models.configs import ImageUNet, MotionAdapter, TextEncoder, VaeKL, add_motion
from promptreel.models.gate import check_checkpoint, check_weights, hash_checkpoint
from promptreel.models.layouts import MOTION, lay_out
from tests.models.checkpoints import (
    CONFIGS,
    INDEX,
    MAX_FRAMES,
    SCHEDULER,
    TOKENIZER,
    WEIGHTS,
    card_of,
    change_json,
    change_tensors,
    make_card,
    make_checkpoint,
    write_json,
)

FILES = {**{f"{name}/config.json": config for name, config in CONFIGS.items()}, "scheduler/scheduler_config.json": SCHEDULER}
FILES |= {"tokenizer/tokenizer_config.json": TOKENIZER, "model_index.json": INDEX}
WRONG = [
    None,
    [],
    "../../x",
    True,
    -1,
    0.5,
    10**400,
    float("nan"),
    [[8, 16], [None]],
    [1] * 20_000,
    {"content": {"content": []}},
]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory) -> Path:
    """For tests that put back what they change."""
    return make_checkpoint(tmp_path_factory.mktemp("unchanged") / "checkpoint")


def check(folder: Path):
    """What verify_model does, and a worker before it loads."""
    checkpoint = check_checkpoint(card_of(folder))
    check_weights(checkpoint)
    return checkpoint


def refuse(folder: Path, match: str) -> str:
    with pytest.raises(CheckpointUnusable, match=match) as caught:
        check(folder)
    message = caught.value.message
    assert len(message) < 1200
    assert str(folder.parent) not in message
    return message


def test_good_checkpoint_is_described_in_full(checkpoint):
    found = check(checkpoint)

    assert (found.unet.class_name, found.vae.class_name) == ("UNetMotionModel", "AutoencoderKL")
    assert found.unet.arguments["motion_max_seq_length"] == MAX_FRAMES
    assert found.vae.arguments["scaling_factor"] == 0.18215
    assert found.tokenizer.max_tokens == 32
    assert found.noise_table["beta_schedule"] == "linear"
    assert {tensor.file for tensor in found.unet.tensors.values()} == {
        checkpoint / WEIGHTS[name] for name in ("unet", "motion_adapter")
    }
    assert set(found.files) == {*WEIGHTS.values(), *FILES, "tokenizer/vocab.json", "tokenizer/merges.txt"}


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": "StableDiffusionPipeline"},
        {"tokenizer": ["transformers", "CLIPTokenizerFast"], "scheduler": ["diffusers", "UniPCMultistepScheduler"]},
        {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]},
        {"feature_extractor": ["transformers", "CLIPImageProcessor"]},
    ],
)
def test_every_class_on_the_list_passes(tmp_path, index):
    assert check(make_checkpoint(tmp_path / "checkpoint", **index))


@pytest.mark.parametrize(
    "name", ["logging", "StableVideoDiffusionPipeline", "DDPMPipeline", ["pipeline", "MyPipe"], None, 7, {}]
)
def test_unknown_pipeline_class_is_refused(tmp_path, name):
    refuse(make_checkpoint(tmp_path / "checkpoint", _class_name=name), "names the pipeline")


@pytest.mark.parametrize(
    ("component", "named"),
    [
        ("unet", ["diffusers", "UNet3DConditionModel"]),
        ("unet", ["antigravity", "UNet2DConditionModel"]),
        ("unet", ["pipeline", "MyUNet"]),
        ("vae", ["diffusers", "AutoencoderKLWan"]),
        ("text_encoder", ["transformers", "T5EncoderModel"]),
        ("text_encoder", ["diffusers", "CLIPTextModel"]),
        ("scheduler", ["os", "DDIMScheduler"]),
        ("scheduler", ["diffusers", "system"]),
        ("scheduler", ["diffusers", "x.DDIMScheduler"]),
        ("motion_adapter", ["diffusers", "ControlNetModel"]),
        ("controlnet", ["diffusers", "ControlNetModel"]),
        ("../elsewhere", ["diffusers", "UNet2DConditionModel"]),
        ("unet", ["diffusers"]),
        ("unet", []),
        ("unet", [["diffusers", "UNetMotionModel"]]),
        ("unet", ["diffusers", "UNetMotionModel", "more"]),
        ("vae", [None, "AutoencoderKL"]),
        ("x" * 10_000, ["y" * 10_000]),
    ],
)
def test_unknown_component_class_is_refused(tmp_path, component, named):
    message = refuse(make_checkpoint(tmp_path / "checkpoint", **{component: named}), "does not load")
    assert repr(component)[:100] in message


@pytest.mark.parametrize("content", [b"", b"[]", b'"text"', b"{", b"\xff\xfe", b"[" * 90_000])
def test_index_that_is_no_json_object_is_refused(checkpoint, content):
    (checkpoint / "model_index.json").write_bytes(content)

    refuse(checkpoint, r"model_index\.json is not (JSON|a JSON object)")


@pytest.mark.parametrize("named", [["diffusers.AutoencoderKL"], ["diffusers", "AutoencoderKL", ""], ["diffusers"]])
def test_component_with_more_or_less_than_library_and_class_is_refused(tmp_path, named):
    refuse(make_checkpoint(tmp_path / "checkpoint", vae=named), "does not load")


def test_missing_index_is_refused(checkpoint):
    (checkpoint / "model_index.json").unlink()

    refuse(checkpoint, r"has no model_index\.json")


@pytest.mark.parametrize("name", [*FILES, "promptreel.json"])
def test_huge_file_is_refused_unread(checkpoint, name):
    """Sparse: reading it whole would take a terabyte."""
    with (checkpoint / name).open("ab") as file:
        file.truncate(1 << 40)

    refuse(checkpoint, "is larger than 256 kB")


@pytest.mark.parametrize("name", ["tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer.json"])
def test_huge_tokenizer_is_refused_unread(checkpoint, name):
    with (checkpoint / name).open("ab") as file:
        file.truncate(1 << 40)

    refuse(checkpoint, "is larger than 6144 kB")


def test_stable_diffusion_without_motion_adapter_is_refused(checkpoint):
    """diffusers would make random motion modules here, and each start would give another clip."""
    index = {name: value for name, value in INDEX.items() if name != "motion_adapter"}
    write_json(checkpoint / "model_index.json", index | {"_class_name": "StableDiffusionPipeline"})

    refuse(checkpoint, r"no motion adapter.*copy one into motion_adapter/")


@pytest.mark.parametrize("component", ["unet", "motion_adapter", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_component_that_is_null_or_has_no_folder_is_missed(tmp_path, component):
    without_name = make_checkpoint(tmp_path / "a", **{component: [None, None]})
    without_folder = make_checkpoint(tmp_path / "b")
    shutil.rmtree(without_folder / component)

    for folder in (without_name, without_folder):
        refuse(folder, f"{component.replace('_', '.')}/")


@pytest.mark.parametrize("component", CONFIGS)
def test_component_without_its_config_is_missed(checkpoint, component):
    (checkpoint / component / "config.json").unlink()

    refuse(checkpoint, rf"^{component}/config\.json is missing")


@pytest.mark.parametrize(
    ("name", "own"), [("vae", "ControlNetModel"), ("unet", "UNetMotionModel"), ("vae", None), ("vae", ["x"])]
)
def test_class_in_a_components_own_config_must_be_the_one_that_was_checked(checkpoint, name, own):
    change_json(checkpoint / name / "config.json", _class_name=own)

    refuse(checkpoint, rf"{name}/config\.json (is of the class|cannot be used: _class_name)")


@pytest.mark.parametrize(
    ("component", "fields"),
    [
        ("text_encoder", {"_attn_implementation": "kernels-community/flash-attn"}),
        ("text_encoder", {"auto_map": {"AutoModel": "evil/repo--modeling.Evil"}}),
        ("text_encoder", {"quantization_config": {"quant_method": "bitsandbytes"}}),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}),
        ("text_encoder", {"model_type": "t5"}),
        ("unet", {"quantization_config": {"quant_method": "torchao"}}),
        ("unet", {"class_embed_type": "identity"}),
        ("unet", {"encoder_hid_dim_type": "ip_image_proj"}),
        ("motion_adapter", {"conv_in_channels": 9}),
        ("vae", {"auto_map": {"AutoModel": "evil.Evil"}}),
        ("vae", {"scaling_factor": 0}),
        ("vae", {"scaling_factor": float("nan")}),
        ("vae", {"latents_mean": [0.0, 0.0, 0.0, 0.0]}),
        ("tokenizer", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
        ("tokenizer", {"tokenizer_class": "EvilTokenizer"}),
    ],
)
def test_config_that_asks_for_something_else_is_refused_by_field(checkpoint, component, fields):
    file = "tokenizer_config.json" if component == "tokenizer" else "config.json"
    change_json(checkpoint / component / file, **fields)

    refuse(checkpoint, rf"^{component}/{file} cannot be used: {next(iter(fields))}")


@pytest.mark.parametrize(
    ("component", "fields"),
    [
        ("text_encoder", {"max_position_embeddings": 10_000_000}),
        ("text_encoder", {"num_hidden_layers": 1_000_000}),
        ("text_encoder", {"vocab_size": 10**9}),
        ("text_encoder", {"hidden_size": 10**7}),
        ("motion_adapter", {"motion_max_seq_length": 10_000_000}),
        ("motion_adapter", {"motion_layers_per_block": 1_000_000}),
        ("motion_adapter", {"motion_transformer_layers_per_block": [1, 1_000_000]}),
        ("unet", {"layers_per_block": 1_000_000}),
        ("unet", {"transformer_layers_per_block": 1_000_000}),
        ("unet", {"block_out_channels": [8] * 10_000}),
        ("unet", {"block_out_channels": [8, 10**7]}),
        ("vae", {"layers_per_block": 1_000_000}),
    ],
)
def test_config_that_would_build_without_end_is_refused_by_field(checkpoint, component, fields):
    change_json(checkpoint / component / "config.json", **fields)

    refuse(checkpoint, rf"^{component}/config\.json cannot be used: {next(iter(fields))}")


def test_config_within_all_bounds_may_still_ask_for_too_much(checkpoint):
    """64 layers of 4096 channels: 13 billion numbers."""
    wide = {"hidden_size": 4096, "intermediate_size": 16_384, "num_hidden_layers": 64}
    change_json(checkpoint / "text_encoder" / "config.json", **wide)

    refuse(checkpoint, r"ask for [\d,]+ parameters. Promptreel loads 3,000,000,000 at most")


@pytest.mark.parametrize("name", FILES)
def test_malformed_config_passes_or_is_refused_and_nothing_else(unchanged, name):
    """Every value in turn replaced by one of another kind: a wrong one never surfaces as an error of Python's."""
    outcomes = {"passed": 0, "refused": 0}
    for key in {**FILES[name], "extra": 1}:
        for wrong in WRONG:
            outcomes[try_config(unchanged, name, copy.deepcopy(FILES[name]) | {key: wrong})] += 1
    assert outcomes["refused"] > 2 * outcomes["passed"] or name in ("tokenizer/tokenizer_config.json", "model_index.json")
    assert try_config(unchanged, name, FILES[name]) == "passed"


def try_config(folder: Path, name: str, config: dict) -> str:
    write_json(folder / name, config)
    try:
        check_checkpoint(card_of(folder))
    except CheckpointUnusable as error:
        refusal = error.message
    else:
        return "passed"
    assert len(refusal) < 1200
    assert str(folder.parent) not in refusal
    return "refused"


@pytest.mark.parametrize("name", FILES)
def test_config_of_another_shape_is_refused(checkpoint, name):
    for content in (b"[]", b"null", b"7", b"", b"\xff", b"[" * 100_000, b'{"a": ' * 10_000, b"NaN"):
        (checkpoint / name).write_bytes(content)
        refuse(checkpoint, name.split("/")[-1].replace(".", r"\."))


@pytest.mark.parametrize("component", WEIGHTS)
def test_missing_tensor_is_named(checkpoint, component):
    gone = []

    def change(tensors):
        gone.append(min(tensors))
        return {name: tensor for name, tensor in tensors.items() if name != gone[0]}

    change_tensors(checkpoint / WEIGHTS[component], change)

    assert gone[0] in refuse(checkpoint, rf"^{component}/: its weights do not fit its config\.json: it lacks ")


@pytest.mark.parametrize("component", WEIGHTS)
def test_unexpected_tensor_is_named(checkpoint, component):
    change_tensors(checkpoint / WEIGHTS[component], lambda tensors: tensors | {"lora.up.weight": np.ones(2, np.float16)})

    refuse(checkpoint, rf"^{component}/: .* it should not hold lora\.up\.weight\.")


def test_motion_module_under_its_original_names_is_refused_by_name(checkpoint):
    """guoyww/AnimateDiff#336: diffusers would leave these motion modules as random as they were built."""
    change_tensors(
        checkpoint / WEIGHTS["motion_adapter"],
        lambda tensors: {name.replace("modules.0.", "modules.0.temporal_transformer."): each for name, each in tensors.items()},
    )

    refuse(
        checkpoint, r"^motion_adapter/: .* it lacks down_blocks\.0\.motion_modules.* and \d+ other tensors; it should not hold"
    )


def test_tensor_of_another_shape_is_named(checkpoint):
    change_json(checkpoint / "vae" / "config.json", block_out_channels=[8])

    refuse(checkpoint, r"^vae/: .* in the shape \[4.* in place of \[8")


def test_numbers_in_a_format_that_networks_do_not_compute_with_are_refused(checkpoint):
    change_tensors(checkpoint / WEIGHTS["vae"], lambda tensors: {name: each.astype(np.int8) for name, each in tensors.items()})

    refuse(checkpoint, "^vae/ stores .* as I8")


def test_weight_that_is_not_finite_is_refused_by_name(checkpoint):
    def overflow(tensors):
        tensors["decoder.conv_in.weight"][0, 0, 0, 0] = np.inf
        return tensors

    change_tensors(checkpoint / WEIGHTS["vae"], overflow)

    refuse(checkpoint, r"^vae/diffusion_pytorch_model\.safetensors holds numbers that are not finite, in decoder\.conv_in")


@pytest.mark.parametrize(("max_frames", "passes"), [(MAX_FRAMES, True), (MAX_FRAMES + 1, False)])
def test_card_may_not_claim_more_frames_than_the_motion_adapter_supports(checkpoint, max_frames, passes):
    make_card(checkpoint, max_frames=max_frames)

    if passes:
        assert check(checkpoint)
    else:
        refuse(checkpoint, r"^promptreel\.json says 17 max_frames, but the motion adapter supports 16\. Write 16 there")


def test_unknown_family_is_refused(checkpoint):
    make_card(checkpoint, family="wan")

    refuse(checkpoint, "is of family 'wan'; only 'animatediff'")


def test_variant_fp16_of_all_components_passes(checkpoint):
    for file in checkpoint.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))

    assert check(checkpoint)


def test_parts_that_were_not_made_for_each_other_are_refused(tmp_path):
    wide = [16, 16]
    for number, (component, fields, match) in enumerate(
        [
            ("motion_adapter", {"block_out_channels": wide}, "unet/ and motion_adapter/ do not fit together: block_out"),
            ("motion_adapter", {"motion_layers_per_block": 2}, "unet/ and motion_adapter/ do not fit together: layers_per"),
            ("motion_adapter", {"motion_num_attention_heads": 3}, "do not fit together: .*motion_num_attention_heads"),
        ]
    ):
        folder = make_checkpoint(tmp_path / str(number))
        change_json(folder / component / "config.json", **fields)
        refuse(folder, match)


def test_older_names_of_a_text_encoder_and_a_vae_are_known(checkpoint):
    """Stable Diffusion 1.5 was stored with transformers 4 and an early diffusers."""
    new = check(checkpoint)
    change_tensors(
        checkpoint / WEIGHTS["text_encoder"],
        lambda tensors: (
            {f"text_model.{name}": each for name, each in tensors.items()}
            | {"text_model.embeddings.position_ids": np.arange(32)[None]}
        ),
    )
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name: str) -> str:
        return next((name.replace(f".{now}.", f".{then}.") for now, then in old.items() if f".{now}." in name), name)

    change_tensors(checkpoint / WEIGHTS["vae"], lambda tensors: {rename(name): each for name, each in tensors.items()})
    stored = check(checkpoint)

    assert stored.vae.tensors.keys() == new.vae.tensors.keys()
    assert stored.text_encoder.tensors.keys() == new.text_encoder.tensors.keys()
    assert stored.vae.tensors["encoder.mid_block.attentions.0.to_q.weight"].name.endswith(".query.weight")


def test_tensor_under_its_old_and_its_new_name_is_refused(checkpoint):
    change_tensors(
        checkpoint / WEIGHTS["text_encoder"],
        lambda tensors: tensors | {"text_model.final_layer_norm.bias": tensors["final_layer_norm.bias"]},
    )

    refuse(checkpoint, "^text_encoder/ holds a tensor twice")


def test_configs_of_stable_diffusion_and_of_animatediff_ask_for_their_tensors():
    """As their public checkpoints have them; the numbers of tensors are those of their files."""
    unet = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    }
    adapter = {
        "_class_name": "MotionAdapter",
        "block_out_channels": [320, 640, 1280, 1280],
        "motion_layers_per_block": 2,
        "motion_max_seq_length": 32,
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": 32,
        "motion_num_attention_heads": 8,
        "use_motion_mid_block": False,
    }
    vae = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    text = {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "torch_dtype": "float32",
        "vocab_size": 49408,
    }
    read = [
        kind.model_validate_json(json.dumps(config))
        for kind, config in ((ImageUNet, unet), (MotionAdapter, adapter), (VaeKL, vae), (TextEncoder, text))
    ]
    both = lay_out(add_motion(read[0], read[1]))

    assert len([name for name in both if MOTION not in name]) == 686
    assert sum(math.prod(shape) for name, shape in both.items() if MOTION not in name) == 859_520_964
    assert len(lay_out(read[2])) == 248
    assert len(lay_out(read[3])) == 196


def test_files_that_are_not_loaded_are_not_looked_into(checkpoint):
    """A public checkpoint has more variants than one needs."""
    (checkpoint / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"half a download")
    before = hash_checkpoint(check(make_checkpoint(checkpoint.parent / "other")))

    assert hash_checkpoint(check(checkpoint)) == before


@pytest.mark.parametrize("name", [WEIGHTS["unet"], "unet/config.json", "tokenizer/merges.txt", "model_index.json"])
def test_any_changed_byte_of_what_is_loaded_changes_the_hash(checkpoint, name):
    found = check(checkpoint)
    before = hash_checkpoint(found)
    content = bytearray((checkpoint / name).read_bytes())
    content[-1] ^= 1
    (checkpoint / name).write_bytes(content)

    assert hash_checkpoint(found) != before


@pytest.mark.parametrize("name", ["README.md", "LICENSE.md"])
def test_card_and_prose_do_not_change_the_hash(checkpoint, name):
    before = hash_checkpoint(check(checkpoint))
    (checkpoint / name).write_text("other words")
    make_card(checkpoint, name="Another")

    assert hash_checkpoint(check(checkpoint)) == before


def test_built_in_model_passes_with_the_hash_that_it_always_had():
    found = check(Path(sys.modules["promptreel"].__file__).parent / "models" / "built_in" / "cutout")

    assert len(found.unet.tensors) == 208 + 99
    assert json.loads((found.card.path / "promptreel.json").read_text()).get("beta_schedule") is None
