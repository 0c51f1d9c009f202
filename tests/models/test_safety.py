from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from promptreel.errors import CheckpointUnusable
from promptreel.models.safety import check_checkpoint_dir, model_hash
from tests.models.checkpoints import INDEX, WEIGHTS, make_checkpoint

UNET = WEIGHTS["unet"]
TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


class Evil:
    """Unpickling it creates a file: what a checkpoint must never be able to do."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pwned",)


def safetensors(header: object, data: bytes = b"\0" * 4) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


BAD_WEIGHTS = {
    "empty": b"",
    "shorter than a length": b"\x02\0\0",
    "only a length": struct.pack("<Q", 2),
    "renamed pickle": pickle.dumps(Evil()) + b"\0" * 99,
    "renamed zip": b"PK\x03\x04" + b"\0" * 99,
    "huge header length": struct.pack("<Q", 2**63) + b"{}",
    "header length past the end": struct.pack("<Q", 100) + b"{}",
    "huge header": safetensors(b"{" + b" " * (9 << 20) + b"}", b""),
    "no JSON": safetensors(b"not json at all"),
    "not UTF-8": safetensors('{"a": 1}'.encode("utf-16")),
    "nested too deep": safetensors(b"[" * 200_000),
    "list as header": safetensors([TENSOR]),
    "number as header": safetensors(b"42"),
    "tensor is no object": safetensors({"a": [0, 4]}),
    "missing offsets": safetensors({"a": {"dtype": "F32", "shape": [1]}}),
    "one offset": safetensors({"a": TENSOR | {"data_offsets": [4]}}),
    "offsets as text": safetensors({"a": TENSOR | {"data_offsets": ["0", "4"]}}),
    "offsets as fractions": safetensors({"a": TENSOR | {"data_offsets": [0.0, 4.0]}}),
    "offset past the end": safetensors({"a": TENSOR | {"data_offsets": [0, 8]}}),
    "negative offset": safetensors({"a": TENSOR | {"data_offsets": [-4, 4]}}),
    "end before begin": safetensors({"a": TENSOR | {"data_offsets": [4, 0]}}),
    "overlap": safetensors({"a": TENSOR | {"data_offsets": [0, 4]}, "b": TENSOR | {"data_offsets": [2, 4]}}),
    "gap": safetensors({"a": TENSOR, "b": TENSOR | {"data_offsets": [8, 12]}}, b"\0" * 12),
    "bytes that belong to no tensor": safetensors({"a": TENSOR}, b"\0" * 4 + b"#!/bin/sh"),
}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


def test_good_checkpoint_passes(checkpoint):
    assert check_checkpoint_dir(checkpoint) is None


@pytest.mark.parametrize(
    "index",
    [
        {"unet": ["diffusers", "UNet2DConditionModel"], "_class_name": "StableDiffusionPipeline"},
        {"vae": ["diffusers", "AutoencoderDC"], "tokenizer": ["transformers", "CLIPTokenizerFast"]},
        {"vae": ["diffusers", "AutoencoderTiny"], "scheduler": ["diffusers", "UniPCMultistepScheduler"]},
        {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]},
        {"feature_extractor": ["transformers", "CLIPImageProcessor"]},
    ],
)
def test_every_class_on_the_list_passes(tmp_path, index):
    assert check_checkpoint_dir(make_checkpoint(tmp_path / "checkpoint", **index)) is None


def test_folder_may_itself_be_a_link(checkpoint, tmp_path):
    (tmp_path / "link").symlink_to(checkpoint)

    assert check_checkpoint_dir(tmp_path / "link") is None


def test_link_within_the_folder_passes(checkpoint):
    (checkpoint / "vae" / "copy.safetensors").symlink_to(checkpoint / WEIGHTS["vae"])

    assert check_checkpoint_dir(checkpoint) is None


@pytest.mark.parametrize("content", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_malformed_weights_are_refused_by_name(checkpoint, content, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (checkpoint / UNET).write_bytes(content)

    with pytest.raises(CheckpointUnusable, match=rf"{UNET} is (no safetensors file|damaged): .* again\."):
        check_checkpoint_dir(checkpoint)
    assert not (tmp_path / "pwned").exists()


@given(share=st.floats(0, 1, exclude_max=True))
def test_weights_cut_off_anywhere_are_refused(tmp_path_factory, share):
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("cut") / "checkpoint")
    content = (checkpoint / UNET).read_bytes()
    (checkpoint / UNET).write_bytes(content[: int(share * len(content))])

    with pytest.raises(CheckpointUnusable, match=UNET):
        check_checkpoint_dir(checkpoint)


offsets = st.integers(-1, 9)
tensors = st.fixed_dictionaries({"dtype": st.just("U8"), "begin": offsets, "end": offsets})


@given(st.dictionaries(st.sampled_from("abcd"), tensors, max_size=4))
def test_offsets_that_pass_are_those_that_the_library_accepts(tmp_path_factory, described):
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("offsets") / "checkpoint")
    header = {
        name: {"dtype": "U8", "shape": [max(0, each["end"] - each["begin"])], "data_offsets": [each["begin"], each["end"]]}
        for name, each in described.items()
    }
    (checkpoint / UNET).write_bytes(safetensors(header, b"\0" * 8))

    assert passes(checkpoint) == opens(checkpoint / UNET)


def passes(checkpoint: Path) -> bool:
    try:
        check_checkpoint_dir(checkpoint)
    except CheckpointUnusable:
        return False
    return True


def opens(weights: Path) -> bool:
    try:
        with safe_open(weights, framework="numpy"):
            return True
    except SafetensorError:
        return False


@pytest.mark.parametrize(
    "name",
    ["unet/diffusion_pytorch_model.bin", "evil.py", "model.ckpt", "vae/weights.pt", "unet.SAFETENSORS", ".hidden", "noname"],
)
def test_other_kinds_of_file_are_refused_by_name(checkpoint, name):
    (checkpoint / name).write_bytes(pickle.dumps(Evil()))

    with pytest.raises(CheckpointUnusable, match=f"^{name} is refused: only .safetensors"):
        check_checkpoint_dir(checkpoint)


def test_link_out_of_the_folder_is_refused(checkpoint, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (checkpoint / "vae" / "config.json").unlink()
    (checkpoint / "vae" / "config.json").symlink_to(tmp_path / "secret.json")

    with pytest.raises(CheckpointUnusable, match=r"vae/config\.json is a link out"):
        check_checkpoint_dir(checkpoint)


def test_linked_folder_outside_is_refused(checkpoint, tmp_path):
    outside = make_checkpoint(tmp_path / "outside")
    (checkpoint / "more").symlink_to(outside / "unet")

    with pytest.raises(CheckpointUnusable, match="more is a link out"):
        check_checkpoint_dir(checkpoint)


def test_link_to_a_namesake_of_the_folder_is_refused(checkpoint, tmp_path):
    """`checkpoint-2` begins with `checkpoint`, but does not lie in it."""
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "a.json").write_text("{}")
    (checkpoint / "a.json").symlink_to(tmp_path / "checkpoint-2" / "a.json")

    with pytest.raises(CheckpointUnusable, match=r"a\.json is a link out"):
        check_checkpoint_dir(checkpoint)


@pytest.mark.parametrize("target", ["nothing.json", "loop.json"])
def test_link_to_nothing_is_refused(checkpoint, target):
    (checkpoint / "loop.json").symlink_to(checkpoint / target)

    with pytest.raises(CheckpointUnusable, match=r"loop\.json is not a plain file"):
        check_checkpoint_dir(checkpoint)


def test_pipe_is_refused_and_not_waited_for(checkpoint):
    os.mkfifo(checkpoint / "pipe.safetensors")

    with pytest.raises(CheckpointUnusable, match=r"pipe\.safetensors is not a plain file"):
        check_checkpoint_dir(checkpoint)


@pytest.mark.parametrize("name", ["logging", "StableVideoDiffusionPipeline", ["pipeline", "MyPipe"], None, 7, {}])
def test_unknown_pipeline_class_is_refused(tmp_path, name):
    with pytest.raises(CheckpointUnusable, match="names the pipeline"):
        check_checkpoint_dir(make_checkpoint(tmp_path / "checkpoint", _class_name=name))


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
    ],
)
def test_unknown_component_class_is_refused(tmp_path, component, named):
    with pytest.raises(CheckpointUnusable, match="does not load") as caught:
        check_checkpoint_dir(make_checkpoint(tmp_path / "checkpoint", **{component: named}))
    assert repr(component) in caught.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b'"text"', b"{", b"\xff\xfe", b"[" * 200_000])
def test_index_that_is_no_json_object_is_refused(checkpoint, content):
    (checkpoint / "model_index.json").write_bytes(content)

    with pytest.raises(CheckpointUnusable, match=r"model_index\.json is not (JSON|a JSON object)"):
        check_checkpoint_dir(checkpoint)


def test_missing_index_is_refused(checkpoint):
    (checkpoint / "model_index.json").unlink()

    with pytest.raises(CheckpointUnusable, match=r"has no model_index\.json"):
        check_checkpoint_dir(checkpoint)


def test_stable_diffusion_without_motion_adapter_is_refused(checkpoint):
    """diffusers would make random motion modules here, and each start would give another clip."""
    index = {name: value for name, value in INDEX.items() if name != "motion_adapter"} | {
        "_class_name": "StableDiffusionPipeline"
    }
    (checkpoint / "model_index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointUnusable, match=r"no motion adapter.*Copy one into motion_adapter/"):
        check_checkpoint_dir(checkpoint)


@pytest.mark.parametrize("component", ["unet", "motion_adapter", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_component_that_is_null_or_has_no_folder_is_missed(tmp_path, component):
    without_name = make_checkpoint(tmp_path / "a", **{component: [None, None]})
    without_folder = make_checkpoint(tmp_path / "b")
    (without_folder / component).rename(without_folder / "spare")

    for folder in (without_name, without_folder):
        with pytest.raises(CheckpointUnusable, match=f"{component.replace('_', '.')}/"):
            check_checkpoint_dir(folder)


@pytest.mark.parametrize("component", WEIGHTS)
def test_component_without_weights_is_missed(checkpoint, component):
    (checkpoint / WEIGHTS[component]).unlink()

    with pytest.raises(CheckpointUnusable, match=f"{component}/ holds no .safetensors"):
        check_checkpoint_dir(checkpoint)


@pytest.mark.parametrize("name", ["missing", "checkpoint/README.md"])
def test_path_that_is_no_folder_is_refused(checkpoint, tmp_path, name):
    with pytest.raises(CheckpointUnusable, match="is not a folder"):
        check_checkpoint_dir(tmp_path / name)


def test_check_loads_no_torch():
    program = "import sys, promptreel.models.safety; sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode == 0


def test_equal_checkpoints_have_equal_hashes_wherever_they_lie(tmp_path):
    first, second = make_checkpoint(tmp_path / "a"), make_checkpoint(tmp_path / "elsewhere" / "b")

    assert model_hash(first) == model_hash(second)
    assert len(model_hash(first)) == 64


@pytest.mark.parametrize("name", [UNET, "unet/config.json", "tokenizer/merges.txt", "model_index.json"])
def test_any_changed_byte_changes_the_hash(checkpoint, name):
    before = model_hash(checkpoint)
    content = bytearray((checkpoint / name).read_bytes())
    content[-1] ^= 1
    (checkpoint / name).write_bytes(content)

    assert model_hash(checkpoint) != before


def test_renamed_weights_change_the_hash(checkpoint):
    before = model_hash(checkpoint)
    (checkpoint / UNET).rename(checkpoint / "unet" / "other.safetensors")

    assert model_hash(checkpoint) != before


@pytest.mark.parametrize("name", ["promptreel.json", "README.md", "LICENSE.md"])
def test_card_and_prose_do_not_change_the_hash(checkpoint, name):
    before = model_hash(checkpoint)
    (checkpoint / name).write_text("other words")

    assert model_hash(checkpoint) == before


def test_hash_of_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointUnusable, match="holds no weights"):
        model_hash(tmp_path)
