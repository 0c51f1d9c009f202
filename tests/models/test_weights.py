from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from promptreel.errors import CheckpointUnusable
from promptreel.models.weights import check_finite, find_weights, read_header, read_tensors
from tests.models.checkpoints import write_json
from tests.models.test_safety import Evil

TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
STEMS = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}


def safetensors(header: object, data: bytes = b"\0" * 4) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


BAD_FILES = {
    "empty": b"",
    "shorter than a length": b"\x02\0\0",
    "only a length": struct.pack("<Q", 2),
    "renamed pickle": pickle.dumps(Evil()) + b"\0" * 99,
    "renamed zip": b"PK\x03\x04" + b"\0" * 99,
    "huge header length": struct.pack("<Q", 2**63) + b"{}",
    "header length past the end": struct.pack("<Q", 100) + b"{}",
    "huge header": safetensors(b"{" + b" " * (3 << 20) + b"}", b""),
    "no JSON": safetensors(b"not json at all"),
    "not UTF-8": safetensors('{"a": 1}'.encode("utf-16")),
    "nested too deep": safetensors(b"[" * 200_000),
    "list as header": safetensors([TENSOR]),
    "number as header": safetensors(b"42"),
    "tensor is no object": safetensors({"a": [0, 4]}),
    "missing offsets": safetensors({"a": {"dtype": "F32", "shape": [1]}}),
    "missing shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 4]}}),
    "shape of another size": safetensors({"a": TENSOR | {"shape": [2]}}),
    "shape of many dimensions": safetensors({"a": TENSOR | {"shape": [1] * 1000}}),
    "dtype is no text": safetensors({"a": TENSOR | {"dtype": None}}),
    "dtype that nobody knows": safetensors({"a": TENSOR | {"dtype": "F32\ud800"}}),
    "metadata that is no text": safetensors({"__metadata__": {"a": {}}, "a": TENSOR}),
    "no number in the header": safetensors({"a": TENSOR | {"more": float("nan")}}),
    "very many lists": safetensors(json.dumps({"a": TENSOR, "b": [[]] * 100_000}).encode()),
    "one offset": safetensors({"a": TENSOR | {"data_offsets": [4]}}),
    "offsets as text": safetensors({"a": TENSOR | {"data_offsets": ["0", "4"]}}),
    "offsets as fractions": safetensors({"a": TENSOR | {"data_offsets": [0.0, 4.0]}}),
    "offset past the end": safetensors({"a": TENSOR | {"shape": [2], "data_offsets": [0, 8]}}),
    "negative offset": safetensors({"a": TENSOR | {"data_offsets": [-4, 0]}}),
    "end before begin": safetensors({"a": TENSOR | {"data_offsets": [4, 0]}}),
    "overlap": safetensors({"a": TENSOR, "b": TENSOR | {"data_offsets": [2, 6]}}),
    "gap": safetensors({"a": TENSOR, "b": TENSOR | {"data_offsets": [8, 12]}}, b"\0" * 12),
    "bytes that belong to no tensor": safetensors({"a": TENSOR}, b"\0" * 4 + b"#!/bin/sh"),
}


@pytest.fixture
def weights(tmp_path) -> Path:
    return save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", a=[1.0, 2.0], b=[[0.5]])


def save(file: Path, **tensors: object) -> Path:
    file.parent.mkdir(exist_ok=True)
    save_file({name: np.array(values, np.float16) for name, values in tensors.items()}, file, metadata={"format": "pt"})
    return file


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_malformed_weights_are_refused_by_name(weights, content, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    weights.write_bytes(content)

    with pytest.raises(CheckpointUnusable, match=r"^unet/w is (no safetensors file|damaged): .* again\.") as caught:
        read_header(weights, "unet/w")
    assert not (tmp_path / "pwned").exists()
    assert len(caught.value.message) < 400


@given(share=st.floats(0, 1, exclude_max=True))
def test_weights_cut_off_anywhere_are_refused(tmp_path_factory, share):
    weights = save(tmp_path_factory.mktemp("cut") / "w.safetensors", a=[1.0, 2.0], b=[[0.5]])
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])

    with pytest.raises(CheckpointUnusable, match="unet/w"):
        read_header(weights, "unet/w")


offsets = st.integers(-1, 9)
tensors = st.fixed_dictionaries({"dtype": st.sampled_from(["U8", "F16"]), "begin": offsets, "end": offsets})


@given(st.dictionaries(st.sampled_from("abcd"), tensors, max_size=4))
def test_offsets_that_pass_are_those_that_the_library_accepts(tmp_path_factory, described):
    weights = tmp_path_factory.mktemp("offsets") / "w.safetensors"
    header = {
        name: {
            "dtype": each["dtype"],
            "shape": [max(0, each["end"] - each["begin"]) // (1 if each["dtype"] == "U8" else 2)],
            "data_offsets": [each["begin"], each["end"]],
        }
        for name, each in described.items()
    }
    weights.write_bytes(safetensors(header, b"\0" * 8))

    assert passes(weights) == opens(weights)


def passes(weights: Path) -> bool:
    try:
        read_header(weights, "w")
    except CheckpointUnusable:
        return False
    return True


def opens(weights: Path) -> bool:
    try:
        with safe_open(weights, framework="numpy"):
            return True
    except SafetensorError:
        return False


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_number_that_is_not_finite_is_found_by_name(tmp_path, dtype, value):
    numbers = np.full((3, 750_000), np.finfo(dtype).max, dtype)  # more than is read at once
    save_file({"calm": np.ones(3, dtype), "wild": numbers}, tmp_path / "w.safetensors")
    tensors = read_tensors([tmp_path / "w.safetensors"], tmp_path)
    check_finite(tensors.values(), {})
    numbers[-1, -1] = value
    save_file({"calm": np.ones(3, dtype), "wild": numbers}, tmp_path / "w.safetensors")

    with pytest.raises(CheckpointUnusable, match=r"^w\.safetensors holds numbers that are not finite, in wild"):
        check_finite(tensors.values(), {})


def test_bfloat16_is_looked_at_too(tmp_path):
    for bits, finite in ((0x7F7F, True), (0x7F80, False), (0xFFC0, False)):
        header = {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}
        (tmp_path / "w.safetensors").write_bytes(safetensors(header, struct.pack("<H", bits)))
        tensors = read_tensors([tmp_path / "w.safetensors"], tmp_path).values()
        if finite:
            check_finite(tensors, {})
        else:
            with pytest.raises(CheckpointUnusable, match="not finite"):
                check_finite(tensors, {})


def lay_files(root: Path, *names: str) -> None:
    for name in names:
        save(root / name, a=[1.0])


UNET, TEXT = "unet/diffusion_pytorch_model", "text_encoder/model"


def test_plain_weights_win_over_the_variant(tmp_path):
    lay_files(tmp_path, f"{UNET}.safetensors", f"{UNET}.fp16.safetensors", f"{TEXT}.safetensors", f"{TEXT}.fp16.safetensors")

    assert find_weights(tmp_path, STEMS) == {
        "unet": (tmp_path / f"{UNET}.safetensors",),
        "text_encoder": (tmp_path / f"{TEXT}.safetensors",),
    }


@pytest.mark.parametrize("more", [(), (f"{UNET}.safetensors",)])
def test_variant_that_all_components_have_is_found(tmp_path, more):
    lay_files(tmp_path, f"{UNET}.fp16.safetensors", f"{TEXT}.fp16.safetensors", *more)

    assert find_weights(tmp_path, STEMS)["unet"] == (tmp_path / f"{UNET}.fp16.safetensors",)


def test_each_component_has_what_there_is_of_it(tmp_path):
    lay_files(tmp_path, f"{UNET}.fp16.safetensors", f"{TEXT}.safetensors")

    found = find_weights(tmp_path, STEMS)
    assert found["unet"] == (tmp_path / f"{UNET}.fp16.safetensors",)
    assert found["text_encoder"] == (tmp_path / f"{TEXT}.safetensors",)


def test_component_without_weights_is_missed(tmp_path):
    lay_files(tmp_path, f"{UNET}.safetensors", "text_encoder/other.safetensors")

    with pytest.raises(CheckpointUnusable, match=r"^text_encoder/ holds no model\.safetensors"):
        find_weights(tmp_path, STEMS)


@pytest.fixture(params=["", "fp16"])
def shards(tmp_path, request) -> Path:
    """Two files and their index, as `save_pretrained` names them; returns the index."""
    folder, variant = tmp_path / "unet", f".{request.param}" if request.param else ""
    first = save(folder / f"diffusion_pytorch_model{variant}-00001-of-00002.safetensors", a=[1.0], b=[2.0])
    second = save(folder / f"diffusion_pytorch_model{variant}-00002-of-00002.safetensors", c=[3.0])
    index = folder / f"diffusion_pytorch_model.safetensors.index{variant}.json"
    return write_json(index, {"metadata": {}, "weight_map": {"a": first.name, "b": first.name, "c": second.name}})


def test_shards_are_found_through_their_index(shards, tmp_path):
    files = find_weights(tmp_path, {"unet": STEMS["unet"]})["unet"]

    assert [file.name[-26:-12] for file in files] == ["00001-of-00002", "00002-of-00002"]
    assert sorted(read_tensors(files, tmp_path)) == ["a", "b", "c"]


BAD_SHARDS = {
    "elsewhere": "../secret/w.safetensors",
    "absolute": "/etc/w.safetensors",
    "pickle": "pytorch_model.bin",
    "below": "deeper/w.safetensors",
    "nothing": "",
    "long": "w" * 10_000 + ".safetensors",
    "a number": 7,
    "missing": "diffusion_pytorch_model-00009-of-00009.safetensors",
}


@pytest.mark.parametrize("shard", BAD_SHARDS.values(), ids=BAD_SHARDS)
def test_index_that_names_other_than_files_beside_it_is_refused(shards, tmp_path, shard):
    save(tmp_path / "secret" / "w.safetensors", c=[3.0])
    placed = json.loads(shards.read_text())["weight_map"]
    write_json(shards, {"weight_map": placed | {"c": shard}})

    with pytest.raises(
        CheckpointUnusable, match=r"^unet/(diffusion_pytorch_model\.safetensors\.index|.* is missing)"
    ) as caught:
        find_weights(tmp_path, {"unet": STEMS["unet"]})
    assert str(tmp_path) not in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("placed", [None, [], {}, {"a": 1}, "text", {"a": None}])
def test_index_without_a_map_is_refused(shards, tmp_path, placed):
    write_json(shards, {"weight_map": placed})

    with pytest.raises(CheckpointUnusable, match="has no weight_map"):
        find_weights(tmp_path, {"unet": STEMS["unet"]})


@pytest.mark.parametrize("change", [{"d": "c"}, {"c": "a"}, {"b": None}])
def test_index_that_does_not_agree_with_its_files_is_refused(shards, tmp_path, change):
    placed = json.loads(shards.read_text())["weight_map"]
    moved = {name: placed[like] if like else None for name, like in change.items()}
    write_json(shards, {"weight_map": {name: file for name, file in (placed | moved).items() if file}})

    with pytest.raises(CheckpointUnusable, match="do not agree"):
        find_weights(tmp_path, {"unet": STEMS["unet"]})


def test_tensor_in_two_files_is_refused(tmp_path):
    lay_files(tmp_path, "unet/one.safetensors", "unet/two.safetensors")

    with pytest.raises(CheckpointUnusable, match=r"^unet/two\.safetensors holds 'a', which another file holds too"):
        read_tensors([tmp_path / "unet/one.safetensors", tmp_path / "unet/two.safetensors"], tmp_path)


def test_tensors_lie_where_the_header_says(weights, tmp_path):
    content = weights.read_bytes()
    for name, tensor in read_tensors([weights], tmp_path).items():
        stored = np.frombuffer(content[tensor.begin : tensor.end], np.float16).reshape(tensor.shape)
        assert np.array_equal(stored, load_file(weights)[name])
