from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptreel.errors import CheckpointUnusable
from promptreel.models.tokenizers import read_tokenizer
from tests.models.checkpoints import VOCAB, change_json, make_checkpoint, write_json

END = "<|endoftext|>"


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint") / "tokenizer"


def make_whole(folder: Path, **model: object) -> None:
    """tokenizer.json, as transformers 5 saves it, in place of two files."""
    whole = {
        "added_tokens": [{"id": 4, "content": END}],
        "model": {"type": "BPE", "vocab": VOCAB, "merges": [["a", "t</w>"]]} | model,
    }
    write_json(folder / "tokenizer.json", whole)


def refuse(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointUnusable, match=match) as caught:
        read_tokenizer(folder)
    assert len(caught.value.message) < 500
    assert str(folder) not in caught.value.message


def test_two_files_and_one_say_the_same(folder):
    two = read_tokenizer(folder)
    make_whole(folder)
    (folder / "vocab.json").unlink()
    one = read_tokenizer(folder)

    assert (two.vocab, two.merges, two.special_tokens, two.max_tokens) == (
        one.vocab,
        one.merges,
        one.special_tokens,
        one.max_tokens,
    )
    assert two.merges == (("a", "t</w>"),)
    assert two.special_tokens == {"bos_token": "<|startoftext|>", "eos_token": END, "unk_token": END, "pad_token": END}


def test_merges_may_be_texts_as_older_files_have_them(folder):
    make_whole(folder, merges=["a t</w>"])

    assert read_tokenizer(folder).merges == (("a", "t</w>"),)


def test_special_tokens_of_their_own_file_go_before_the_settings(folder):
    """Stable Diffusion 2 pads with another token there than in its settings."""
    write_json(folder / "special_tokens_map.json", {"pad_token": "a", "eos_token": {"content": END, "lstrip": False}})
    assert read_tokenizer(folder).special_tokens["pad_token"] == "a"

    change_json(folder / "tokenizer_config.json", added_tokens_decoder={"4": {"content": END}})
    assert read_tokenizer(folder).special_tokens["pad_token"] == END


@pytest.mark.parametrize(("length", "window"), [(77, 77), (3, 3), (10**30, 1 << 20), (None, None)])
def test_window_is_what_the_settings_say(folder, length, window):
    change_json(folder / "tokenizer_config.json", model_max_length=length)

    assert read_tokenizer(folder).max_tokens == window


@pytest.mark.parametrize("length", [0, 1, 2, -1, float("nan"), "77", [77]])
def test_window_without_room_for_a_token_is_refused(folder, length):
    """A text would be cut into chunks of nothing, without end."""
    change_json(folder / "tokenizer_config.json", model_max_length=length)

    refuse(folder, r"tokenizer_config\.json cannot be used: model_max_length")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", [7, ["a"], {"text": "a"}, "", "not in the vocabulary"])
def test_special_token_that_is_none_is_refused(folder, name, token):
    write_json(folder / name, {"pad_token": token})

    refuse(folder, r"pad_token|adds the token '(not in the vocabulary)?'")


BAD_VOCABULARIES = {
    "list": ["a"],
    "null": None,
    "texts as numbers": VOCAB | {"a": "0"},
    "negative": VOCAB | {"a": -1},
    "fraction": VOCAB | {"a": 0.5},
    "bool": VOCAB | {"a": True},
    "same number twice": VOCAB | {"a": 1},
    "half a character": VOCAB | {"\ud800": 5},
    "no end": {name: number for name, number in VOCAB.items() if name != END},
    "no result of a merge": {name: number for name, number in VOCAB.items() if name != "at</w>"},
}


@pytest.mark.parametrize("vocab", BAD_VOCABULARIES.values(), ids=BAD_VOCABULARIES)
def test_bad_vocabulary_is_refused(folder, vocab):
    make_whole(folder, vocab=vocab)
    refuse(folder, "^tokenizer/ ")

    (folder / "tokenizer.json").unlink()
    write_json(folder / "vocab.json", vocab)
    refuse(folder, "^tokenizer/")


@pytest.mark.parametrize("merges", [None, "a t", {"a": "t"}, [["a"]], [["a", "t", "b"]], [7], [["a", 7]], ["a"], [["b", "c"]]])
def test_bad_merges_are_refused(folder, merges):
    make_whole(folder, merges=merges)

    refuse(folder, "^tokenizer/")


@pytest.mark.parametrize("whole", [{}, {"model": []}, {"model": {"type": "Unigram", "vocab": {}, "merges": []}}])
def test_tokenizer_of_another_kind_is_refused(folder, whole):
    write_json(folder / "tokenizer.json", whole)

    refuse(folder, r"tokenizer/tokenizer\.json is not of CLIP's kind")


@pytest.mark.parametrize("added", [[7], "text", [{"id": 4}], [{"content": ["x"]}], [{"content": "<lora>"}]])
def test_added_token_that_the_vocabulary_lacks_is_refused(folder, added):
    make_whole(folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    write_json(folder / "tokenizer.json", whole | {"added_tokens": added})

    refuse(folder, "added_tokens without content|adds the token '<lora>'")


def test_added_token_of_a_file_of_its_own_is_refused_too(folder):
    write_json(folder / "added_tokens.json", {"<lora>": 5})

    refuse(folder, "adds the token '<lora>'")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()

    refuse(folder, rf"^tokenizer/{name} is missing".replace(".", r"\."))


@pytest.mark.parametrize("content", [b"a t</w> b\n", b"a\n", b"\xff\xfe", b"x y\n"])
def test_merges_file_that_is_no_list_of_pairs_is_refused(folder, content):
    (folder / "merges.txt").write_bytes(content)

    refuse(folder, "^tokenizer/")


def test_file_of_very_many_lists_is_refused_unparsed(folder):
    """Six megabytes of them take seconds to parse, and the process answers nobody meanwhile."""
    (folder / "tokenizer.json").write_bytes(b"[" + b"[]," * 100_000 + b"[]]")

    refuse(folder, "more than 100000 lists in lists")
