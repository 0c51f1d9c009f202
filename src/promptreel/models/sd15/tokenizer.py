"""CLIP's tokenizer (Radford et al. 2021), for checkpoints that are one file and so have none of their own.

The vocabulary follows from the merges: 256 bytes, each also at a word's end, one token for each merge, and two marks.
"""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

from promptreel.models.tokenizers import DEFAULT_TOKENS, TokenizerParts

_MERGES = Path(__file__).with_name("merges.txt.xz")
MAX_TOKENS = 77
WORD_END = "</w>"


@cache
def read_clip_tokenizer() -> TokenizerParts:
    """49,408 tokens."""
    lines = lzma.decompress(_MERGES.read_bytes()).decode().splitlines()
    merges = tuple((left, right) for left, right in (line.split(" ") for line in lines))
    letters = _byte_letters()
    marks = dict.fromkeys((DEFAULT_TOKENS["bos_token"], DEFAULT_TOKENS["eos_token"]))
    tokens = [*letters, *(letter + WORD_END for letter in letters), *(left + right for left, right in merges), *marks]
    return TokenizerParts(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        special_tokens=DEFAULT_TOKENS,
        max_tokens=MAX_TOKENS,
        files=(),
    )


def _byte_letters() -> list[str]:
    """The character for each byte in a byte-level vocabulary, printable bytes first (Radford et al. 2019, GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]
