"""A checkpoint's tokenizer: CLIP's vocabulary and merges, read from its files and checked. Nothing else in them is used.

Newer checkpoints have both in tokenizer.json, older ones in vocab.json and merges.txt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from promptreel.errors import CheckpointUnusable
from promptreel.models.json_files import read_file, read_model, read_object, shorten

MAX_BYTES = 6 << 20  # CLIP's own tokenizer.json, of 49,408 tokens, has 2 to 5 MB
LEAST_WINDOW = 3  # the marks of start and end, and one token between them
DEFAULT_TOKENS = {"bos_token": "<|startoftext|>"} | dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
AGAIN = "Copy the tokenizer's folder from the original checkpoint again."


@dataclass(frozen=True, kw_only=True)
class TokenizerParts:
    """What CLIPTokenizer is built from. `max_tokens`: the longest text by its config; None: the config does not say."""

    vocab: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    special_tokens: Mapping[str, str]
    max_tokens: int | None
    files: tuple[Path, ...]


class _AddedToken(BaseModel):
    content: str


def _content(token: str | _AddedToken) -> str:
    return token if isinstance(token, str) else token.content


Token = Annotated[str | _AddedToken, AfterValidator(_content)]


class _SpecialTokens(BaseModel):
    """special_tokens_map.json."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)

    bos_token: Token | None = None
    eos_token: Token | None = None
    unk_token: Token | None = None
    pad_token: Token | None = None


class _Settings(_SpecialTokens):
    """tokenizer_config.json."""

    tokenizer_class: Literal["CLIPTokenizer", "CLIPTokenizerFast"] | None = None
    auto_map: None = None
    model_max_length: Annotated[float, Field(ge=LEAST_WINDOW)] | None = None  # 1e30 where nobody set one
    added_tokens_decoder: dict[str, _AddedToken] | None = None


def read_tokenizer(folder: Path) -> TokenizerParts:
    """Raises CheckpointUnusable if files are missing or too large, or contain no vocabulary like CLIP's."""
    settings = _Settings()
    if (folder / "tokenizer_config.json").is_file():
        settings = read_model(folder / "tokenizer_config.json", "tokenizer/tokenizer_config.json", _Settings)
    special = _read_special_tokens(folder, settings)
    added = [token.content for token in (settings.added_tokens_decoder or {}).values()]
    if (folder / "tokenizer.json").is_file():
        vocab, merges, more = _read_whole(folder / "tokenizer.json")
        added += more
    else:
        vocab, merges = _read_pair(folder)
    if (folder / "added_tokens.json").is_file():
        added += read_object(folder / "added_tokens.json", "tokenizer/added_tokens.json")
    _check(vocab, merges, [*special.values(), *added])
    max_tokens = settings.model_max_length
    return TokenizerParts(
        vocab=vocab,
        merges=tuple(merges),
        special_tokens=special,
        max_tokens=None if max_tokens is None else int(min(max_tokens, 1 << 20)),
        files=tuple(folder / name for name in FILES if (folder / name).is_file()),
    )


def _read_special_tokens(folder: Path, settings: _Settings) -> dict[str, str]:
    """Special tokens by name. special_tokens_map.json comes before the config, unless the config lists all added tokens."""
    special = DEFAULT_TOKENS | settings.model_dump(include=set(DEFAULT_TOKENS), exclude_none=True)
    if settings.added_tokens_decoder is None and (folder / "special_tokens_map.json").is_file():
        own = read_model(folder / "special_tokens_map.json", "tokenizer/special_tokens_map.json", _SpecialTokens)
        special |= own.model_dump(exclude_none=True)
    return special


def _read_whole(file: Path) -> tuple[Any, list[tuple[str, str]], list[str]]:
    name = "tokenizer/tokenizer.json"
    whole = read_object(file, name, most=MAX_BYTES)
    model, added = whole.get("model"), whole.get("added_tokens") or []
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
        raise CheckpointUnusable(f"{name} is not of CLIP's kind (BPE). {AGAIN}")
    contents = (
        [token.get("content") if isinstance(token, dict) else None for token in added] if isinstance(added, list) else [None]
    )
    if not all(isinstance(content, str) for content in contents):
        raise CheckpointUnusable(f"{name} has added_tokens without content. {AGAIN}")
    return model.get("vocab"), [_split(merge, name) for merge in model["merges"]], [str(content) for content in contents]


def _read_pair(folder: Path) -> tuple[Any, list[tuple[str, str]]]:
    vocab = read_object(folder / "vocab.json", "tokenizer/vocab.json", most=MAX_BYTES)
    name = "tokenizer/merges.txt"
    try:
        lines = read_file(folder / "merges.txt", name, most=MAX_BYTES).decode().split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointUnusable(f"{name} is not UTF-8. {AGAIN}") from error
    rest = lines[1:] if lines[0].startswith("#version") else lines
    return vocab, [_split(line.removesuffix("\r"), name) for line in rest if line.strip()]


def _split(merge: Any, name: str) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise CheckpointUnusable(f"{name} has a merge that is not of two tokens: {shorten(repr(merge), 60)}. {AGAIN}")
    return parts[0], parts[1]


def _check(vocab: Any, merges: list[tuple[str, str]], needed: list[str]) -> None:
    if not isinstance(vocab, dict) or not all(type(number) is int and number >= 0 for number in vocab.values()):
        raise CheckpointUnusable(f"tokenizer/ has no vocabulary that gives each token its number. {AGAIN}")
    if len(set(vocab.values())) != len(vocab):
        raise CheckpointUnusable(f"tokenizer/ gives two tokens the same number. {AGAIN}")
    if not all(map(_is_unicode, vocab)):
        raise CheckpointUnusable(f"tokenizer/ has a token that is no text. {AGAIN}")
    for token in needed:
        if not token or token not in vocab:
            raise CheckpointUnusable(
                f"tokenizer/ adds the token {shorten(repr(token), 60)}, which its vocabulary does not have. {AGAIN}"
            )
    for left, right in merges:
        if not (left in vocab and right in vocab and left + right in vocab):
            merge = shorten(f"{left} {right}", 60)
            raise CheckpointUnusable(f"tokenizer/ lacks a token of the merge {merge!r}. {AGAIN}")


def _is_unicode(token: str) -> bool:
    """Whether the text has no lone surrogates: JSON allows them, libraries refuse them."""
    return not any("\ud800" <= character <= "\udfff" for character in token)
