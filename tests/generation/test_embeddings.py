"""Embeddings (textual inversions) give diffusers' own latents, in each form, and change nothing for others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from promptreel.errors import CheckpointUnusable
from promptreel.generation.add_ons import EmbeddingFile
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.models.registry import ModelRegistry
from tests.generation.checkpoints import TEXT
from tests.generation.conftest import CPU
from tests.generation.loras import draw_lora, save_lora
from tests.generation.test_animatediff import PARAMS, pipeline, run_pipeline  # noqa: F401 - a fixture
from tests.generation.test_lora import denoise

# By name: the file's tensor, its shape, and the word.
FORMS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "A1111": ("emb_params", (1, TEXT), "badhands"),
    "A1111, several vectors": ("emb_params", (3, TEXT), "badhands"),
    "diffusers": ("<cat-toy>", (TEXT,), "<cat-toy>"),
    "diffusers, several vectors": ("<cat-toy>", (4, TEXT), "<cat-toy>"),
}


@pytest.fixture(scope="module")
def model(models: ModelRegistry) -> LoadedCheckpoint:
    loaded = Engine(models, CPU).load("tiny")
    assert isinstance(loaded, LoadedCheckpoint)
    return loaded


@pytest.fixture
def stock(pipeline: Any) -> Iterator[Any]:  # noqa: F811
    """diffusers' pipeline, without embeddings afterwards."""
    yield pipeline
    pipeline.unload_textual_inversion()


def save(path: Path, name: str, shape: tuple[int, ...], word: str, *, seed: int = 0) -> EmbeddingFile:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    save_file({name: drawn}, path)
    return EmbeddingFile(path.stem, path, hashlib.sha256(path.read_bytes()).hexdigest(), (word,))


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("form", FORMS)
def test_latents_are_those_of_diffusers_pipeline(
    models: ModelRegistry, model: LoadedCheckpoint, stock: Any, form: str, tmp_path: Path
) -> None:
    name, shape, word = FORMS[form]
    file = save(tmp_path / "a.safetensors", name, shape, word)
    params = replace(PARAMS, prompt=f"a {word}, red", negative_prompt=f"blurry {word}")
    stock.load_textual_inversion(load_file(file.path), token=word if name == "emb_params" else None)
    theirs = run_pipeline(stock, params, output_type="latent")

    changed = model.with_embeddings([file])
    assert distance(denoise(models, changed, params), theirs) < 1e-5
    assert distance(denoise(models, model, params), theirs) > 1e-3


def test_several_embeddings_and_a_lora_are_those_of_diffusers_pipeline(
    models: ModelRegistry, model: LoadedCheckpoint, stock: Any, tmp_path: Path
) -> None:
    files = [save(tmp_path / f"{form}.safetensors", *FORMS[form]) for form in ("A1111, several vectors", "diffusers")]
    params = replace(PARAMS, prompt="<cat-toy> red", negative_prompt="badhands, blurry <cat-toy>")
    lora = save_lora(tmp_path / "lora.safetensors", draw_lora(model))
    stock.load_textual_inversion(load_file(files[0].path), token="badhands")
    stock.load_textual_inversion(load_file(files[1].path))
    stock.load_lora_weights(load_file(lora.path))
    try:
        theirs = run_pipeline(stock, params, output_type="latent")
    finally:
        stock.unload_lora_weights()

    changed = model.with_loras([lora]).with_embeddings(files)
    assert distance(denoise(models, changed, params), theirs) < 1e-5


@pytest.mark.parametrize(
    ("prompt", "same_as"),
    [
        ("a BadHands", "a badhands"),
        ("a(badhands)", "a ( badhands )"),
        ("badhandsome", None),  # another word
        ("a badhands-5", "a badhands - 5"),
        ("a badhands-2", "a badhands-2"),  # the longer of two words
    ],
)
def test_words_are_found_as_whole_words(model: LoadedCheckpoint, prompt: str, same_as: str | None, tmp_path: Path) -> None:
    files = [
        save(tmp_path / "one.safetensors", "emb_params", (2, TEXT), "badhands"),
        save(tmp_path / "two.safetensors", "emb_params", (3, TEXT), "badhands-2", seed=1),
    ]
    changed = model.with_embeddings(files)
    alone = model.with_embeddings(files[:1])

    if same_as is None:
        assert torch.equal(changed.encode_text(prompt), model.encode_text(prompt))
    else:
        assert torch.equal(changed.encode_text(prompt), changed.encode_text(same_as))
        assert not torch.equal(changed.encode_text(prompt), model.encode_text(prompt))
    assert torch.equal(changed.encode_text(prompt), alone.encode_text(prompt)) is not prompt.endswith("-2")


def test_vectors_of_a_word_are_kept_in_one_chunk(model: LoadedCheckpoint, tmp_path: Path) -> None:
    changed = model.with_embeddings([save(tmp_path / "a.safetensors", "emb_params", (8, TEXT), "badhands")])

    assert changed.count_chunks("x " * 67 + "badhands") == 1
    assert changed.prompts._split("x " * 70 + "badhands")[1] == tuple(range(190, 198))
    assert changed.count_chunks("badhands " * 30) > 1  # any length


def test_model_keeps_its_bits_and_weights(model: LoadedCheckpoint, tmp_path: Path) -> None:
    text = "a badhands <cat-toy>"
    before, size = model.encode_text(text), len(model.prompts.tokenizer)
    changed = model.with_embeddings([save(tmp_path / "a.safetensors", "emb_params", (2, TEXT), "badhands")])

    assert not torch.equal(changed.encode_text(text), before)
    assert torch.equal(changed.encode_text("a cat"), model.encode_text("a cat"))
    assert torch.equal(model.encode_text(text), before)
    assert len(model.prompts.tokenizer) == size
    assert changed.unet is model.unet
    ours, theirs = ({weights.data_ptr() for weights in each.prompts.text_encoder.parameters()} for each in (changed, model))
    assert ours == theirs


def test_rows_with_an_embedding_and_without_may_share_a_forward(model: LoadedCheckpoint, tmp_path: Path) -> None:
    """Their denoiser is the same; the text that it reads is not."""
    changed = model.with_embeddings([save(tmp_path / "a.safetensors", "emb_params", (2, TEXT), "cat")])
    engine = Engine(ModelRegistry(built_in=tmp_path, models_dir=tmp_path), CPU)
    rows = []
    for each in (model, changed):
        prepared = each.prepare(PARAMS)
        call = next(engine.samplers[PARAMS.scheduler](each.space, prepared.start))
        rows.append(each.ask(call, prepared.conditioning))

    assert rows[0].group_key == rows[1].group_key
    assert not torch.equal(rows[0].conditioning.tensors["text"], rows[1].conditioning.tensors["text"])


def test_same_embeddings_are_built_once(model: LoadedCheckpoint, tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", "emb_params", (2, TEXT), "badhands")

    assert model.with_embeddings([file]) is model.with_embeddings([file])
    assert model.with_embeddings([file]) is not model.with_embeddings([replace(file, words=("other",))])


def test_embedding_of_another_text_encoder_is_refused(model: LoadedCheckpoint, tmp_path: Path) -> None:
    file = save(tmp_path / "wide.safetensors", "emb_params", (2, 2 * TEXT), "badhands")

    with pytest.raises(CheckpointUnusable, match=r"its vectors have 32 numbers, and the model's text encoder takes 16"):
        model.with_embeddings([file])
