"""Textual inversion (Gal et al. 2023, "An Image is Worth One Word"): words whose vectors were trained.

A trained word stands for one or several vectors. They follow the vocabulary's in a copy of the text encoder, which shares all
other weights; the tokenizer is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from promptreel.errors import CheckpointUnusable
from promptreel.generation.add_ons import EmbeddingFile, share_weights


@dataclass(frozen=True)
class TrainedWord:
    """What stands for an embedding in a prompt, and its tokens: one for each vector."""

    spellings: tuple[str, ...]
    tokens: range


class _MoreTokens(nn.Module):
    """The text encoder's table of vectors, with some more behind them: [n, width]."""

    vectors: Tensor

    def __init__(self, table: Any, vectors: Tensor) -> None:
        super().__init__()
        self.table = table
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        numbers = tokens - self.table.num_embeddings
        is_added = numbers >= 0
        known = self.table(tokens.masked_fill(is_added, 0))
        return torch.where(is_added[..., None], self.vectors[numbers.clamp(min=0)], known)


def add_embeddings(text_encoder: Any, files: Sequence[EmbeddingFile]) -> tuple[Any, list[TrainedWord]]:
    """A copy of the text encoder that knows these embeddings, and how they are written.

    Raises CheckpointUnusable for an embedding that does not fit.
    """
    changed = share_weights(text_encoder)
    table = changed.embeddings.token_embedding
    words, vectors, first = [], [], table.num_embeddings
    for file in files:
        added = read_vectors(file, table.embedding_dim)
        words.append(TrainedWord(file.words, range(first, first + len(added))))
        vectors.append(added)
        first += len(added)
    weight = table.weight
    changed.embeddings.token_embedding = _MoreTokens(table, torch.cat(vectors).to(weight.device, weight.dtype))
    return changed, words


def read_vectors(file: EmbeddingFile, width: int) -> Tensor:
    """The vectors [n, width]: of AUTOMATIC1111's layout or diffusers', the file's only tensor. Raises CheckpointUnusable."""
    tensors = list(file.read().values())
    if len(tensors) != 1 or tensors[0].ndim not in {1, 2} or not tensors[0].numel():
        raise CheckpointUnusable(f"The embedding {file.model_id!r} is none: its file has other tensors. Import it again.")
    vectors = tensors[0].reshape(-1, tensors[0].shape[-1])
    if vectors.shape[1] != width:
        raise CheckpointUnusable(
            f"The embedding {file.model_id!r} does not fit the model: its vectors have {vectors.shape[1]} numbers, and the "
            f"model's text encoder takes {width}. It was made for another one."
        )
    return vectors
