"""Checkpoints that try to run code, work forever or use all memory, and checkpoints that would produce noise."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from promptreel.bootstrap import BUILT_IN_MODELS
from tests.flows.service import SHORT, Service
from tests.hostile.case import HostileCase

Change = Callable[[Path], object]

UNET, ADAPTER = "unet/diffusion_pytorch_model.safetensors", "motion_adapter/diffusion_pytorch_model.safetensors"
VAE, TEXT = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
CARD, INDEX = "promptreel.json", "model_index.json"


def refused(name: str, words: str, change: Change) -> HostileCase:
    """A case: the built-in model's folder with one change. verify_model and a job must both refuse it with these words."""

    def attack(service: Service) -> None:
        folder = service.data_dir / "models" / f"hostile-{name.replace(' ', '-')}"
        folder.parent.mkdir(exist_ok=True)
        shutil.copytree(BUILT_IN_MODELS / "cutout", folder, copy_function=_link)
        try:
            change(folder)
            _check_answers(service, folder.name, words)
        finally:
            shutil.rmtree(folder)

    return HostileCase(f"checkpoint: {name}", attack)


def _check_answers(service: Service, model_id: str, words: str) -> None:
    verified = service.client.post(f"{service.url}/api/v1/enterprise/verify_model", json={"model_id": model_id}).json()
    asked = service.ask(model_id=model_id, **SHORT)
    ended = service.finish(asked) if asked["status"] == "processing" else asked
    listed = service.client.post(f"{service.url}/api/v4/dreambooth/model_list", json={}).json()

    for answer in (verified, ended):
        assert answer["status"] in ("error", "failed"), answer
        assert words in answer["message"], answer
        assert len(answer["message"]) < 1200, "an error message must not carry what somebody put into a file"
        assert str(service.data_dir) not in answer["message"], answer
    assert "cutout" in [model["model_id"] for model in listed]


def _link(source: str, target: str) -> None:
    """Links the file if possible, else copies it: most files do not change."""
    try:
        os.link(source, target)
    except OSError:  # the package is on another disk, or has another owner
        shutil.copyfile(source, target)


def write(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)  # it may be a link to the package's own
        (folder / name).write_bytes(content)

    return change


def fields(name: str, **changed: object) -> Change:
    return lambda folder: write(name, json.dumps(json.loads((folder / name).read_text()) | changed).encode())(folder)


def sparse(name: str, size: int, start: bytes = b"") -> Change:
    """A sparse file of this size, which takes no disk space."""

    def change(folder: Path) -> None:
        write(name, start)(folder)
        os.truncate(folder / name, size)

    return change


def tensors(name: str, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    def change(folder: Path) -> None:
        content = changed(load_file(folder / name))
        (folder / name).unlink()
        save_file(content, folder / name, metadata={"format": "pt"})

    return change


def header(text: bytes, data: bytes = b"") -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(text)) + text + data


def overflow(weights: dict[str, Any]) -> dict[str, Any]:
    weights["decoder.conv_in.weight"].flat[0] = np.inf
    return weights


def rename_all(weights: dict[str, Any]) -> dict[str, Any]:
    return {f"module.{name}": each for name, each in weights.items()}


def move_shard(folder: Path) -> None:
    """The UNet's weights through an index that names a file outside the folder. The file itself is valid."""
    outside = folder.parent.parent / "scratch" / "outside.safetensors"
    names = dict.fromkeys(load_file(folder / UNET), f"../../../scratch/{outside.name}")
    write(UNET + ".index.json", json.dumps({"weight_map": names}).encode())(folder)
    (folder / UNET).unlink()


def hide_pickle(folder: Path) -> None:
    """A pickle as a shard. Unpickling it would create a folder."""
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    names = dict.fromkeys(load_file(folder / UNET), shard)
    write(UNET + ".index.json", json.dumps({"weight_map": names}).encode())(folder)
    write(f"unet/{shard}", pickle.dumps(Evil()) + b"\0" * 999)(folder)
    (folder / UNET).unlink()


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pwned",)


def claim_positions(folder: Path) -> None:
    """Ten million rows in the config, and a matching (sparse) file of 2.6 GB."""
    fields("text_encoder/config.json", max_position_embeddings=10_000_000)(folder)
    content = (folder / TEXT).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    described, end = json.loads(content[8 : 8 + length]), len(content) - 8 - length
    size = 10_000_000 * 128 * 2
    described["embeddings.position_embedding.weight"] |= {"shape": [10_000_000, 128], "data_offsets": [end, end + size]}
    text = json.dumps(described).encode()
    sparse(TEXT, 8 + len(text) + end + size, header(text))(folder)


def rename_unet(folder: Path) -> None:
    (folder / UNET).rename((folder / UNET).with_suffix(".int8.safetensors"))


def index_without_end(folder: Path) -> None:
    rename_unet(folder)
    sparse(UNET + ".index.json", 1 << 40)(folder)


def link_out(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()
    (folder / "vae" / "config.json").symlink_to(BUILT_IN_MODELS / "cutout" / "vae" / "config.json")


def fill(folder: Path) -> None:
    for number in range(1001):
        (folder / "unet" / f"{number}.txt").touch()


def pipe(folder: Path) -> None:
    (folder / INDEX).unlink()
    os.mkfifo(folder / INDEX)


SCHEDULER = "scheduler/scheduler_config.json"
ONE = b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
NESTED = b"[" + b"[]," * 80_000 + b"[]]"
NUMBERS = b'{"model":[' + b"1.5," * 1_500_000 + b"0]}"
MAPPED = b"{" + b",".join(b'"%d":[]' % number for number in range(150_000)) + b"}"
CASES = [
    refused("shard outside the folder", "only .safetensors files beside it", move_shard),
    refused("pickle as a shard", "is no safetensors file", hide_pickle),
    refused("pickle beside the weights", "vae/more.bin is refused", write("vae/more.bin", pickle.dumps(Evil()))),
    refused("code beside the weights", "unet/my_unet.py is refused", write("unet/my_unet.py", b"import os")),
    refused("link out of the folder", "vae/config.json is a link out", link_out),
    refused("pipe that nobody writes to", "model_index.json is not a plain file", pipe),
    refused(
        "another network as the VAE",
        "is of the class 'ControlNetModel'",
        fields("vae/config.json", _class_name="ControlNetModel"),
    ),
    refused("another pipeline", "names the pipeline 'DDPMPipeline'", fields(INDEX, _class_name="DDPMPipeline")),
    refused("module in place of a library", "does not load", fields(INDEX, unet=["antigravity", "UNet2DConditionModel"])),
    refused(
        "attention from a hub",
        "_attn_implementation",
        fields("text_encoder/config.json", _attn_implementation="kernels-community/flash-attn"),
    ),
    refused(
        "code from a hub", "auto_map", fields("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["e/v.T", None]})
    ),
    refused("ten million positions", "max_position_embeddings", claim_positions),
    refused(
        "ten million frames", "motion_max_seq_length", fields("motion_adapter/config.json", motion_max_seq_length=10_000_000)
    ),
    refused("million layers", "num_hidden_layers", fields("text_encoder/config.json", num_hidden_layers=1_000_000)),
    refused("million blocks", "block_out_channels", fields("unet/config.json", block_out_channels=[8] * 80_000)),
    refused(
        "thirteen billion weights",
        "3,000,000,000 at most",
        fields("text_encoder/config.json", hidden_size=4096, intermediate_size=16_384, num_hidden_layers=64),
    ),
    refused("billion scheduler steps", "num_train_timesteps", fields(SCHEDULER, num_train_timesteps=10**9)),
    refused("betas that are no numbers", "trained_betas", fields(SCHEDULER, trained_betas=[float("nan")] * 999)),
    refused("noise table that is a guess", '"beta_schedule": "linear"', fields(SCHEDULER, beta_schedule="scaled_linear")),
    refused("window of no tokens", "model_max_length", fields("tokenizer/tokenizer_config.json", model_max_length=0)),
    refused("vocabulary of 2 GB", "larger than 6144 kB", sparse("tokenizer/tokenizer.json", 2 << 30)),
    refused(
        "vocabulary of empty lists", "lists in lists", write("tokenizer/tokenizer.json", b"[" + b"[]," * 2_000_000 + b"[]]")
    ),
    refused("vocabulary of small numbers", "not of CLIP's kind", write("tokenizer/tokenizer.json", NUMBERS)),
    refused("index of 300 MB", "larger than 256 kB", sparse(INDEX, 300 << 20)),
    refused("index of empty lists", "is not a JSON object", write(INDEX, NESTED)),
    refused("index of weights of 1 TB", "larger than 2048 kB", index_without_end),
    refused("config nested without end", "cannot be used", write("unet/config.json", b'{"a":' * 50_000)),
    refused("scaling by nothing", "scaling_factor", fields("vae/config.json", scaling_factor=0)),
    refused("config of another kind", "layers_per_block", fields("unet/config.json", layers_per_block={"a": [None]})),
    refused("card of 2 GB", "larger than 256 kB", sparse(CARD, 2 << 30)),
    refused("card with 1 MB of negative prompt", "larger than 256 kB", fields(CARD, default_negative_prompt="x" * (1 << 20))),
    refused(
        "card with a long negative prompt", "default_negative_prompt", fields(CARD, default_negative_prompt="x, " * 60_000)
    ),
    refused("card with very many wrong fields", "more", fields(CARD, **{f"wrong{number}": 0 for number in range(10_000)})),
    refused("card that claims more frames", "the motion adapter supports 40", fields(CARD, max_frames=80)),
    refused("header of a gigabyte", "header has a wrong length", sparse(UNET, 2 << 30, struct.pack("<Q", 1 << 30))),
    refused("header of empty lists", "is damaged: Error while deserializing header", write(UNET, header(MAPPED))),
    refused("header that speaks of more than there is", "is damaged", sparse(VAE, 1 << 40, header(ONE))),
    refused("weight that overflowed", "not finite, in decoder.conv_in.weight", tensors(VAE, overflow)),
    refused("tensors of another model", "it lacks down_blocks", tensors(ADAPTER, rename_all)),
    refused("variant that is not read", "unet/ holds no diffusion_pytorch_model.safetensors", rename_unet),
    refused("folder of a thousand files", "more than 1000 files", fill),
]
