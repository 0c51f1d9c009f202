"""Embeddings of a prompt, from Wan's text encoder UMT5 (Chung et al. 2023), as diffusers' WanPipeline makes them."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer
from torch import Tensor

from promptreel.generation.loading import not_built
from promptreel.models.wan.configs import TEXT_TOKENS
from promptreel.models.wan.tokenizer import UnigramParts


class WanTokenizer:
    """Turns a prompt into TEXT_TOKENS tokens; a longer one is cut."""

    def __init__(self, parts: UnigramParts) -> None:
        """Raises CheckpointUnusable."""
        self._pad_id = parts.pad_id
        with _blaming_files():
            self._tokenizer = Tokenizer.from_str(parts.definition)

    def split(self, text: str) -> list[int]:
        """The tokens' ids, with the end-of-text token, without padding. Raises CheckpointUnusable if the files are to blame."""
        with _blaming_files():
            ids: list[int] = self._tokenizer.encode(clean(text)).ids
        return ids

    def pad(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask, int64 [1, TEXT_TOKENS]."""
        missing = TEXT_TOKENS - len(ids)
        return torch.tensor([ids + [self._pad_id] * missing]), torch.tensor([[1] * len(ids) + [0] * missing])


def clean(text: str) -> str:
    """A text as Wan was trained on: without HTML entities, and with single spaces between words."""
    return " ".join(html.unescape(html.unescape(text)).split())


@contextmanager
def _blaming_files() -> Iterator[None]:
    """For a damaged table, tokenizers raises PanicException, which does not derive from Exception."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise not_built("tokenizer", error) from error
        raise
