"""Embeddings of a text of any length, from CLIP's text encoder (Radford et al. 2021).

In Stable Diffusion the encoder reads at most 77 tokens at once; the first and the last mark start and end. A longer text is
split into chunks. Each chunk is encoded alone, and the embeddings are concatenated: the UNet's cross attention takes a list
of any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import pairwise

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from promptreel.errors import GenerationFailed
from promptreel.generation.embeddings import TrainedWord
from promptreel.models.phrases import any_of

CACHED_CHUNKS = 64
"""Cached embeddings of chunks: 15 MB for Stable Diffusion in float32."""

_WORD_END = "</w>"
_COMMA = "," + _WORD_END


class PromptEncoder:
    """A checkpoint's tokenizer and text encoder, with a cache of recent chunks.

    `trained`: the words whose tokens the text encoder has besides the tokenizer's.
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, trained: Sequence[TrainedWord] = ()) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        spelled = [(spelling, word.tokens) for word in trained for spelling in word.spellings]
        spelled.sort(key=lambda each: len(each[0]), reverse=True)  # a word may begin with another one
        self._trained = [tokens for _, tokens in spelled]
        self._words = any_of(spelling for spelling, _ in spelled)
        self.max_tokens: int = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        # Bound to the encoder, not to self: a reference cycle would keep the weights in memory.
        self._embed_chunk = lru_cache(CACHED_CHUNKS)(partial(_embed_chunk, text_encoder))

    def count_chunks(self, text: str) -> int:
        """The number of chunks that the text fills, at least 1."""
        return len(self._split(text))

    def encode(self, text: str, *, clip_skip: int, chunks: int) -> Tensor:
        """Embeddings [1, chunks x max_tokens, width] on the encoder's device, in its dtype; no two calls share a tensor.

        `clip_skip` skips that many of the encoder's last layers. A text of fewer than `chunks` chunks is padded with empty
        ones. Chunks are encoded one at a time, so that none changes another's bits. Raises GenerationFailed if the encoder has
        fewer layers than `clip_skip`.
        """
        layers = self.text_encoder.config.num_hidden_layers
        if clip_skip > layers:
            raise GenerationFailed(f"the model's text encoder has {layers} layers: ask for a clip_skip of {layers} at most")
        parts = self._split(text)
        parts += [()] * (chunks - len(parts))
        return torch.cat([self._embed_chunk(self._frame(part), clip_skip) for part in parts], dim=1)

    def _split(self, text: str) -> list[tuple[int, ...]]:
        """The text's tokens by chunk, without the marks."""
        pairs = list(self._tokenize(text))
        ids = tuple(number for number, _ in pairs)
        ends = find_chunk_ends([token for _, token in pairs], self.max_tokens - 2)
        return [ids[start:end] for start, end in pairwise([0, *ends])]

    def _tokenize(self, text: str) -> Iterator[tuple[int, str]]:
        """The ids of the text's tokens, and how they are spelled. A trained word's are kept together where there is room."""
        end = 0
        for match in self._words.finditer(text):
            yield from self._tokenize_plain(text[end : match.start()])
            *others, last = self._trained[(match.lastindex or 0) - 1]
            yield from ((number, match[0]) for number in others)
            yield last, match[0] + _WORD_END
            end = match.end()
        yield from self._tokenize_plain(text[end:])

    def _tokenize_plain(self, text: str) -> Iterator[tuple[int, str]]:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        yield from zip(ids, self.tokenizer.convert_ids_to_tokens(ids), strict=True)

    def _frame(self, part: tuple[int, ...]) -> tuple[int, ...]:
        """The encoder's input: start, the chunk's tokens, end, padding."""
        padding = (self.tokenizer.pad_token_id,) * (self.max_tokens - 2 - len(part))
        return (self.tokenizer.bos_token_id, *part, self.tokenizer.eos_token_id, *padding)


def find_chunk_ends(tokens: Sequence[str], room: int) -> list[int]:
    """The index after each chunk's last token. No chunk has more than `room` tokens.

    `tokens` are spelled as in CLIP's vocabulary, a word's last one with </w>. Later text does not move an earlier end.
    """
    ends, start = [], 0
    while len(tokens) - start > room:
        start += _choose_length(tokens[start : start + room])
        ends.append(start)
    return [*ends, len(tokens)]


def _choose_length(full: Sequence[str]) -> int:
    """How much of a full chunk to take: to the last comma in its last quarter, else to the last word's end there, else all."""
    latest = range(len(full), len(full) - len(full) // 4, -1)
    for border in (_COMMA, _WORD_END):
        for length in latest:
            if full[length - 1].endswith(border):
                return length
    return len(full)


def _embed_chunk(text_encoder: CLIPTextModel, framed: tuple[int, ...], clip_skip: int) -> Tensor:
    """Embeddings [1, max_tokens, width] of one chunk with its marks.

    With `clip_skip`, the hidden state before the skipped layers goes through the final norm, as in diffusers.
    """
    tokens = torch.tensor([framed], device=text_encoder.device)
    if clip_skip == 0:
        embeddings: Tensor = text_encoder(tokens).last_hidden_state
        return embeddings
    states = text_encoder(tokens, output_hidden_states=True).hidden_states
    normed: Tensor = text_encoder.final_layer_norm(states[-1 - clip_skip])
    return normed
