"""The text side: a CLIP tokenizer with one token for each of the world's words, and a small CLIP text encoder."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from recipes.cutout.captions import all_phrases

WIDTH = 128
MAX_TOKENS = 48
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer that has learned enough merges to make every word of the world one token.

    It splits other words into pieces.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        # Fixes the numbers of letters that end a word. Otherwise the trainer numbers them in a hash table's order. The numbers
        # break ties between merges, so every process would learn another vocabulary.
        special_tokens=[START, END, *(letter + "</w>" for letter in alphabet)],
        show_progress=False,
    )
    learner.train_from_iterator([phrase.lower() for phrase in all_phrases()], trainer)
    return _as_clip(learner)


def _as_clip(learner: Tokenizer) -> CLIPTokenizer:
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    letters = sorted(_byte_letters())
    tokens = dict.fromkeys([START, END, *letters, *(letter + "</w>" for letter in letters), *model["vocab"]])
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def _byte_letters() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary (Radford et al. 2019, GPT-2)."""
    return pre_tokenizers.ByteLevel.alphabet()


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)
