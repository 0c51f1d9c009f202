"""The tokenizer of a Wan checkpoint: UMT5's SentencePiece vocabulary, read from its tokenizer.json and checked.

What is not known to be harmless is refused, such as a pattern that could be matched for hours.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from promptreel.errors import CheckpointUnusable
from promptreel.models.json_files import explain, read_file
from promptreel.models.wan.configs import TEXT_TOKENS

NAME = "tokenizer/tokenizer.json"
MAX_BYTES = 40 << 20  # UMT5's own, of 256,300 tokens, has 17 MB
MAX_CONTAINERS = 1_500_000  # a list for each token
MAX_CHARSMAP_BYTES = 1 << 20  # SentencePiece's largest has 0.3 MB
AGAIN = "Copy the tokenizer's folder from the original checkpoint again."
END, PAD = "</s>", "<pad>"

_Text = Annotated[str, Field(max_length=1000)]
_Piece = tuple[_Text, Annotated[float, Field(allow_inf_nan=False)]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Precompiled(_Strict):
    type: Literal["Precompiled"]
    precompiled_charsmap: Annotated[str, Field(max_length=2 * MAX_CHARSMAP_BYTES)]


class _Strip(_Strict):
    type: Literal["Strip"]
    strip_left: bool
    strip_right: bool


class _Pattern(_Strict):
    String: Literal[" "] | None = None
    Regex: Literal[" {2,}", "\\s+"] | None = None


class _Replace(_Strict):
    type: Literal["Replace"]
    pattern: _Pattern
    content: Annotated[str, Field(max_length=3)]


class _Plain(_Strict):
    type: Literal["NFC", "NFD", "NFKC", "NFKD", "Nmt", "WhitespaceSplit"]


class _Metaspace(_Strict):
    type: Literal["Metaspace"]
    replacement: Literal["\u2581"]
    prepend_scheme: Literal["always", "first", "never"] = "always"
    split: bool = True
    add_prefix_space: bool | None = None
    str_rep: Literal["\u2581"] | None = None


_Step = Annotated[_Precompiled | _Strip | _Replace | _Plain | _Metaspace, Field(discriminator="type")]


class _Sequence(_Strict):
    type: Literal["Sequence"]
    normalizers: Annotated[tuple[_Step, ...], Field(max_length=8)] | None = None
    pretokenizers: Annotated[tuple[_Step, ...], Field(max_length=8)] | None = None


_Steps = Annotated[
    _Precompiled | _Strip | _Replace | _Plain | _Metaspace | _Sequence,
    Field(discriminator="type"),
]


class _Unigram(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["Unigram"]
    unk_id: Annotated[int, Field(ge=0)]
    vocab: Annotated[tuple[_Piece, ...], Field(min_length=3, max_length=500_000)]
    byte_fallback: bool = False

    @model_validator(mode="after")
    def _knows_what_is_needed(self) -> _Unigram:
        pieces = {piece for piece, _ in self.vocab}
        if len(pieces) != len(self.vocab):
            raise ValueError("a token appears twice")
        if self.unk_id >= len(self.vocab):
            raise ValueError("unk_id is not in the vocabulary")
        return self


class _Added(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    id: Annotated[int, Field(ge=0)]
    content: Annotated[str, Field(min_length=1, max_length=1000)]
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False


class _File(BaseModel):
    """tokenizer.json. Its decoder, post-processor, padding and truncation are not read: Promptreel cuts, ends and pads prompts
    itself.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    model: _Unigram
    added_tokens: Annotated[tuple[_Added, ...], Field(max_length=2000)] = ()
    normalizer: _Steps | None = None
    pre_tokenizer: _Steps | None = None


@dataclass(frozen=True, kw_only=True)
class UnigramParts:
    """`definition`: JSON for the tokenizers library. `pad_id`: the padding token. `tokens`: the vocabulary's size."""

    definition: str
    pad_id: int
    tokens: int
    files: Mapping[str, Path]


def read_tokenizer(root: Path) -> UnigramParts:
    """Raises CheckpointUnusable for a file that is missing, too large, or no SentencePiece tokenizer."""
    content = read_file(root / NAME, NAME, most=MAX_BYTES)
    if content.count(b"[") + content.count(b"{") > MAX_CONTAINERS:
        raise CheckpointUnusable(f"{NAME} is not as it was saved: it has more than {MAX_CONTAINERS} nested lists. {AGAIN}")
    try:
        read = _File.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointUnusable(f"{NAME} cannot be used: {explain(error)}. {AGAIN}") from error
    pieces = {piece: number for number, (piece, _) in enumerate(read.model.vocab)}
    for token in read.added_tokens:
        if pieces.get(token.content) != token.id:
            raise CheckpointUnusable(
                f"{NAME} adds the token {token.content!r:.60}, which its vocabulary does not have. {AGAIN}"
            )
    for needed in (END, PAD):
        if needed not in pieces:
            raise CheckpointUnusable(f"{NAME} lacks the token {needed}, which ends or fills a prompt. {AGAIN}")
    for steps in (read.normalizer, read.pre_tokenizer):
        _check_charsmaps(steps)
    return UnigramParts(
        definition=_define(read, pieces[END]),
        pad_id=pieces[PAD],
        tokens=len(pieces),
        files={NAME: root / NAME},
    )


def _check_charsmaps(steps: Any) -> None:
    """Refuses a damaged table of characters. A table has the size of a tree, the tree, and texts."""
    for step in (*(steps.normalizers or ()), *(steps.pretokenizers or ())) if isinstance(steps, _Sequence) else (steps,):
        if not isinstance(step, _Precompiled):
            continue
        try:
            table = base64.b64decode(step.precompiled_charsmap, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CheckpointUnusable(f"{NAME} has a precompiled_charsmap that is not base64. {AGAIN}") from error
        size = int.from_bytes(table[:4], "little")
        if len(table) > MAX_CHARSMAP_BYTES or size % 4 or not 1024 <= size <= len(table) - 4:
            raise CheckpointUnusable(f"{NAME} has a damaged precompiled_charsmap. {AGAIN}")


def _define(read: _File, end_id: int) -> str:
    """The file again, made only of what was checked. Prompts are cut to TEXT_TOKENS and end with END."""
    end = {"SpecialToken": {"id": END, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": TEXT_TOKENS, "strategy": "LongestFirst", "stride": 0},
            "padding": None,
            "added_tokens": [token.model_dump() for token in read.added_tokens],
            "normalizer": read.normalizer and read.normalizer.model_dump(exclude_none=True),
            "pre_tokenizer": read.pre_tokenizer and read.pre_tokenizer.model_dump(exclude_none=True),
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [text, end],
                "pair": [text, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
                "special_tokens": {END: {"id": END, "ids": [end_id], "tokens": [END]}},
            },
            "decoder": None,
            "model": read.model.model_dump(),
        }
    )
