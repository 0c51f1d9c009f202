"""Texts of any length into embeddings. The tiny checkpoint's tokens are single characters, so lengths are easy to read."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTextModel, CLIPTokenizer

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.errors import GenerationFailed
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.generation.families.family import Rows
from promptreel.generation.prompts import CACHED_CHUNKS, PromptEncoder, find_chunk_ends
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelRegistry
from tests.generation.conftest import CPU
from tests.generation.test_animatediff import PARAMS, go_on

WINDOW, ROOM = 77, 75


@pytest.fixture(scope="module")
def parts(models: ModelRegistry) -> tuple[CLIPTokenizer, CLIPTextModel]:
    tiny = models.get("tiny").path
    tokenizer = CLIPTokenizer.from_pretrained(tiny / "tokenizer", local_files_only=True)
    return tokenizer, CLIPTextModel.from_pretrained(tiny / "text_encoder").eval()


@pytest.fixture
def encoder(parts: tuple[CLIPTokenizer, CLIPTextModel]) -> Iterator[PromptEncoder]:
    with torch.inference_mode():
        yield PromptEncoder(*parts)


@pytest.fixture(scope="module")
def cutout() -> Engine:
    return Engine(ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=BUILT_IN_MODELS / "none"), CPU)


def encode(encoder: PromptEncoder, text: str, *, clip_skip: int = 0, chunks: int = 1) -> torch.Tensor:
    return encoder.encode(text, clip_skip=clip_skip, chunks=chunks)


def count_runs(encoder: PromptEncoder) -> tuple[list[int], Any]:
    """Filled with the number of rows of each run of the text encoder, and what ends the counting."""
    rows: list[int] = []
    return rows, encoder.text_encoder.register_forward_pre_hook(lambda _encoder, args: rows.append(len(args[0])))


@pytest.mark.parametrize(("characters", "chunks"), [(0, 1), (1, 1), (ROOM, 1), (ROOM + 1, 2), (2 * ROOM, 2), (2 * ROOM + 1, 3)])
def test_text_takes_as_many_chunks_as_it_fills(encoder: PromptEncoder, characters: int, chunks: int) -> None:
    text = "x" * characters

    assert encoder.count_chunks(text) == chunks
    assert encode(encoder, text).shape == (1, chunks * WINDOW, 16)


def test_each_chunk_is_encoded_as_if_it_were_alone(encoder: PromptEncoder) -> None:
    first, second = "a" * (ROOM - 1) + ",", "b" * 9

    assert torch.equal(encode(encoder, first + second), torch.cat([encode(encoder, first), encode(encoder, second)], dim=1))


def test_words_after_the_first_chunk_change_the_embeddings(encoder: PromptEncoder) -> None:
    one, other = encode(encoder, "x" * 200 + " cat"), encode(encoder, "x" * 200 + " dog")

    assert one.shape == other.shape
    assert torch.equal(one[:, : 2 * WINDOW], other[:, : 2 * WINDOW])
    assert not torch.equal(one[:, 2 * WINDOW :], other[:, 2 * WINDOW :])


def test_shorter_text_is_filled_up_with_empty_chunks(encoder: PromptEncoder) -> None:
    text, empty = encode(encoder, "blurry"), encode(encoder, "")

    assert torch.equal(encode(encoder, "blurry", chunks=3), torch.cat([text, empty, empty], dim=1))
    assert encode(encoder, "x" * 200, chunks=2).shape == (1, 3 * WINDOW, 16)


def test_long_text_is_no_cause_for_a_warning(encoder: PromptEncoder, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("transformers").propagate = True
    encode(encoder, "x" * 200)

    assert caplog.text == ""


def test_each_layer_that_is_left_out_changes_the_embeddings(encoder: PromptEncoder) -> None:
    none, one, both = (encode(encoder, "a cat", clip_skip=skip) for skip in (0, 1, 2))

    assert not torch.equal(none, one)
    assert not torch.equal(one, both)


def test_more_layers_than_there_are_cannot_be_left_out(encoder: PromptEncoder) -> None:
    with pytest.raises(GenerationFailed, match="has 2 layers: ask for a clip_skip of 2 at most"):
        encode(encoder, "a cat", clip_skip=3)


def test_texts_are_remembered_and_come_out_as_if_they_were_not(encoder: PromptEncoder, parts: Any) -> None:
    texts = ["a cat", "a dog", "x" * 200, ""]
    asked = [(text, skip, chunks) for text in texts for skip in (0, 1) for chunks in (1, 3)]
    fresh = [encode(PromptEncoder(*parts), text, clip_skip=skip, chunks=chunks) for text, skip, chunks in asked]
    rows, counting = count_runs(encoder)
    for _ in range(2):
        for (text, skip, chunks), expected in zip(asked, fresh, strict=True):
            assert torch.equal(encode(encoder, text, clip_skip=skip, chunks=chunks), expected), (text, skip, chunks)
    counting.remove()

    assert rows == [1] * 2 * 5  # two skips of: cat, dog, 75 times x (two chunks of it), the rest of them, and nothing


def test_what_was_used_longest_ago_is_forgotten(encoder: PromptEncoder) -> None:
    rows, counting = count_runs(encoder)
    for number in range(CACHED_CHUNKS):
        encode(encoder, f"cat {number}")
    encode(encoder, "cat 0")
    encode(encoder, "one more")
    assert len(rows) == CACHED_CHUNKS + 1

    encode(encoder, "cat 0")
    assert len(rows) == CACHED_CHUNKS + 1
    encode(encoder, "cat 1")
    counting.remove()
    assert len(rows) == CACHED_CHUNKS + 2


def test_embeddings_are_the_callers_own(encoder: PromptEncoder) -> None:
    kept = encode(encoder, "a cat").clone()
    encode(encoder, "a cat").zero_()

    assert torch.equal(encode(encoder, "a cat"), kept)


def test_threads_get_what_one_thread_gets(encoder: PromptEncoder, models: ModelRegistry) -> None:
    checkpoint = Engine(models, CPU).load("tiny")
    asked = [("cat " * number, number % 3) for number in range(1, 60)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: checkpoint.encode_text(*one), asked * 2))

    for (text, skip), embeddings in zip(asked * 2, found, strict=True):
        assert torch.equal(embeddings, encode(encoder, text, clip_skip=skip))


def test_weights_are_let_go_with_the_encoder(models: ModelRegistry) -> None:
    """The next checkpoint may not fit beside them, and nobody waits for the garbage collector."""
    tiny = models.get("tiny").path
    text_encoder = CLIPTextModel.from_pretrained(tiny / "text_encoder").eval()
    encoder = PromptEncoder(CLIPTokenizer.from_pretrained(tiny / "tokenizer", local_files_only=True), text_encoder)
    encode(encoder, "a cat")
    alive = weakref.ref(encoder)
    gc.disable()
    try:
        del encoder
        assert alive() is None
    finally:
        gc.enable()


def test_text_is_cut_after_the_last_comma_near_the_end_of_a_chunk() -> None:
    words = ["a</w>", ",</w>", *["b</w>"] * 4, ",</w>", "c</w>", ",</w>", "d</w>", "e</w>", "f</w>"]

    assert find_chunk_ends(words, 10) == [9, 12]
    assert find_chunk_ends(words, 11) == [11, 12]  # its last quarter is two tokens long, and the comma is before it


def test_text_without_a_comma_there_is_cut_between_words() -> None:
    assert find_chunk_ends(["a</w>", "b</w>", "c</w>", "d</w>", "e</w>", "f</w>", "g</w>", "h", "i", "j</w>"], 8) == [7, 10]


def test_word_that_is_too_long_for_a_chunk_is_cut_where_the_chunk_is_full() -> None:
    assert find_chunk_ends(["x"] * 19 + ["x</w>"], 8) == [8, 16, 20]


TOKENS = st.lists(st.sampled_from(["a", "a</w>", ",</w>"]), max_size=120)


@given(tokens=TOKENS, later=TOKENS, room=st.integers(1, 30))
def test_chunks_hold_every_token_once_and_later_words_move_no_border(tokens: list[str], later: list[str], room: int) -> None:
    ends = find_chunk_ends(tokens, room)
    lengths = np.diff([0, *ends])

    assert ends[-1] == len(tokens)
    assert lengths.max() <= room
    assert len(ends) == 1 or lengths.min() > 0
    assert find_chunk_ends(tokens + later, room)[: len(ends) - 1] == ends[:-1]


def denoise_pair(checkpoint: LoadedCheckpoint, negative: str, prompt: str) -> torch.Tensor:
    """One guided call of the model."""
    conditioning = checkpoint.prepare(VideoParams(model_id="tiny", prompt=prompt, negative_prompt=negative)).conditioning
    latents = torch.ones(checkpoint.latent_shape(2, 32, 32)).expand(2, -1, -1, -1, -1)
    return checkpoint.forward(Rows(checkpoint, latents, torch.full((2,), 500.0), conditioning, remaining=1))


@pytest.mark.parametrize("negative", ["", "y" * 200])
def test_prompt_and_negative_prompt_of_other_lengths_run_together(models: ModelRegistry, negative: str) -> None:
    checkpoint = Engine(models, CPU).load("tiny")
    one, other = (denoise_pair(checkpoint, negative, "x" * 100 + word) for word in (" cat", " dog"))

    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0], ids=["unguided", "guided"])
def test_long_prompt_makes_a_clip_in_which_every_word_counts(models: ModelRegistry, guidance_scale: float) -> None:
    engine = Engine(models, CPU)
    params = replace(PARAMS, guidance_scale=guidance_scale, num_frames=2)
    one, other = (engine.generate(replace(params, prompt="x" * 200 + word), go_on).clip for word in (" cat", " dog"))

    assert not np.array_equal(one.frames, other.frames)


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5], ids=["unguided", "guided"])
def test_built_in_model_reads_past_32_tokens(cutout: Engine, guidance_scale: float) -> None:
    said = "a red cat sitting on a bench in the snow at night, " * 4
    params = replace(PARAMS, model_id="cutout", guidance_scale=guidance_scale, num_frames=2, num_inference_steps=2)
    checkpoint = cutout.load("cutout")
    one, other = (cutout.generate(replace(params, prompt=said + word), go_on).clip for word in ("rising", "falling"))

    assert checkpoint.prompts.max_tokens == 32
    assert checkpoint.count_chunks(said) == 2
    assert not np.array_equal(one.frames, other.frames)


def test_clip_skip_of_a_request_changes_its_clip_and_one_too_large_fails_with_the_reason(models: ModelRegistry) -> None:
    engine = Engine(models, CPU)
    none, one = (engine.generate(replace(PARAMS, clip_skip=skip), go_on).clip for skip in (0, 1))

    assert not np.array_equal(none.frames, one.frames)
    with pytest.raises(GenerationFailed, match="clip_skip of 2 at most"):
        engine.generate(replace(PARAMS, clip_skip=3), go_on)
