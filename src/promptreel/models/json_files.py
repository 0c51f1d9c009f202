"""Reads untrusted JSON: of bounded size, and only in the expected shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from promptreel.errors import CheckpointUnusable

MAX_CONFIG_BYTES = 256 << 10
"""For cards and configs; Stable Diffusion's largest has 2 kB. Parsed JSON can take a hundred times its size in memory."""

MAX_CONTAINERS = 100_000
"""Lists and objects in one file. CLIP's tokenizer.json has half as many; two million empty lists take seconds to read."""

_File = TypeVar("_File", bound=BaseModel)
_MAX_PROBLEMS = 3


def read_file(file: Path, name: str, *, most: int = MAX_CONFIG_BYTES) -> bytes:
    """A file of at most `most` bytes. Raises CheckpointUnusable, which calls it `name`."""
    try:
        with file.open("rb") as content:
            read = content.read(most + 1)
    except FileNotFoundError as error:
        raise CheckpointUnusable(f"{name} is missing. Save the checkpoint again in diffusers' layout.") from error
    except OSError as error:
        raise CheckpointUnusable(f"{name} cannot be read: {error.strerror}. Check its rights.") from error
    if len(read) > most:
        raise CheckpointUnusable(f"{name} is larger than {most >> 10} kB, which no such file needs. Save it again.")
    return read


def read_object(file: Path, name: str, *, most: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object of any shape. Raises CheckpointUnusable."""
    content = read_file(file, name, most=most)
    if has_many_containers(content):
        raise CheckpointUnusable(
            f"{name} is not as it was saved: it has more than {MAX_CONTAINERS} lists in lists. Save it again."
        )
    try:
        read = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointUnusable(f"{name} is not JSON. Save it again.") from error
    if not isinstance(read, dict):
        raise CheckpointUnusable(f"{name} is not a JSON object. Save it again.")
    return read


def has_many_containers(content: bytes) -> bool:
    """Whether the bytes contain too many lists and objects to parse quickly and in little memory."""
    return content.count(b"[") + content.count(b"{") > MAX_CONTAINERS


def read_model(file: Path, name: str, model: type[_File]) -> _File:
    """A JSON object, validated by the model. Raises CheckpointUnusable with the names of the wrong fields."""
    content = read_file(file, name)
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointUnusable(f"{name} cannot be used: {explain(error)}. See docs/models.md.") from error


def explain(error: ValidationError) -> str:
    """The first few errors, one short line each."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    named = [
        shorten(": ".join([*map(str, problem["loc"]), problem["msg"].removeprefix("Value error, ")]))
        for problem in problems[:_MAX_PROBLEMS]
    ]
    more = len(problems) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def shorten(text: object, most: int = 200) -> str:
    """Untrusted text for a message: shortened, without characters that cannot be shown or sent."""
    words = str(text)[: most + 1]
    words = words if words.isprintable() else repr(words)[1:-1]
    return words if len(words) <= most else words[:most] + "..."
