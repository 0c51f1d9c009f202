"""Reads the LoRAs and the embeddings of a request, in the hosted service's fields or in those of /v1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptreel.api.field_reader import FieldReader, Limits, label
from promptreel.jobs.params import MOST_ADD_ONS, LoraUse

HOSTED_LORAS = ("lora_model", "lora_models", "motion_loras")
"""All name LoRAs, separated by commas. Generations of the hosted API call the field differently."""
HOSTED_EMBEDDINGS = "embeddings_model"
STRENGTH = Limits(-4, 4)
MAX_TEXT = 2000


@dataclass(frozen=True, kw_only=True)
class AddOnFields:
    """What a request names. `lora_field` and `embedding_field`: where it does."""

    loras: tuple[LoraUse, ...]
    embeddings: tuple[str, ...]
    lora_field: str
    embedding_field: str


def read_hosted_add_ons(reader: FieldReader) -> AddOnFields:
    """`embeddings_model`: ids separated by commas."""
    names = _split(reader.scalar(HOSTED_EMBEDDINGS, maximum=MAX_TEXT))
    return AddOnFields(
        loras=_read_hosted_loras(reader),
        embeddings=_limit_embeddings(reader, HOSTED_EMBEDDINGS, names),
        lora_field=HOSTED_LORAS[0],
        embedding_field=HOSTED_EMBEDDINGS,
    )


def read_add_ons(reader: FieldReader) -> AddOnFields:
    """`embeddings`: a list of ids, or ids separated by commas."""
    return AddOnFields(
        loras=_read_loras(reader), embeddings=_read_embeddings(reader), lora_field="loras", embedding_field="embeddings"
    )


def _read_hosted_loras(reader: FieldReader) -> tuple[LoraUse, ...]:
    """`lora_model` and the like: ids separated by commas. `lora_strength`: a number for all, or one for each, in this order."""
    ids = [name for field in HOSTED_LORAS for name in _split(reader.scalar(field, maximum=MAX_TEXT))]
    given = _split(reader.scalar("lora_strength", maximum=MAX_TEXT))
    strengths = [_read_strength(reader, "lora_strength", each) for each in given] or [1.0]
    if len(strengths) == 1:
        strengths *= len(ids)
    if ids and len(strengths) != len(ids):
        reader.reject("lora_strength", f"The lora strength must be one number, or one for each of the {len(ids)} LoRAs.")
        return ()
    return _limit(reader, HOSTED_LORAS[0], [LoraUse(*each) for each in zip(ids, strengths, strict=False)])


def _read_embeddings(reader: FieldReader, field: str = "embeddings") -> tuple[str, ...]:
    value = reader.given(field)
    names = _parse(value) if isinstance(value, str) else value
    if names is None:
        return ()
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(each, str) for each in names):
        reader.reject(field, f"The {label(field)} must be a list of ids.")
        return ()
    return _limit_embeddings(reader, field, [each.strip() for each in names])


def _limit_embeddings(reader: FieldReader, field: str, names: Sequence[str]) -> tuple[str, ...]:
    if len(names) > MOST_ADD_ONS:
        reader.reject(field, f"The {label(field)} must not name more than {MOST_ADD_ONS} embeddings.")
        return ()
    return tuple(dict.fromkeys(names))


def _read_loras(reader: FieldReader, field: str = "loras") -> tuple[LoraUse, ...]:
    """A list of ids or of objects with `model` and `strength`; or ids separated by commas, each with `:strength` if wanted."""
    value = reader.given(field)
    if isinstance(value, str):
        value = _parse(value)
    if isinstance(value, Mapping):
        value = [value]
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        _reject(reader, field)
        return ()
    return _limit(reader, field, [use for each in value if (use := _read_one(reader, field, each)) is not None])


def _parse(text: str) -> Any:
    """A form sends lists as text."""
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return 0  # no list: refused
    return _split(text)


def _read_one(reader: FieldReader, field: str, value: Any) -> LoraUse | None:
    if isinstance(value, str):
        name, _, strength = value.partition(":")
        value = {"model": name, "strength": strength or None}
    if not isinstance(value, Mapping) or not isinstance(value.get("model"), str) or value.keys() - {"model", "strength"}:
        _reject(reader, field)
        return None
    return LoraUse(value["model"].strip(), _read_strength(reader, field, value.get("strength")))


def _read_strength(reader: FieldReader, field: str, value: Any) -> float:
    inner = FieldReader({field: value})
    strength = inner.number(field, STRENGTH, default=1.0)
    if inner.has_errors:
        reader.reject(field, f"The strength of a LoRA must be a number from {STRENGTH.minimum:g} to {STRENGTH.maximum:g}.")
    return strength


def _limit(reader: FieldReader, field: str, uses: list[LoraUse]) -> tuple[LoraUse, ...]:
    if len(uses) > MOST_ADD_ONS:
        reader.reject(field, f"The {label(field)} must not name more than {MOST_ADD_ONS} LoRAs.")
        return ()
    return tuple(uses)


def _reject(reader: FieldReader, field: str) -> None:
    example = '[{"model": "ID", "strength": 0.8}]'
    reader.reject(field, f"The {label(field)} must be a list of ids, or of objects such as {example}.")


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip().lower() not in {"", "null", "none", "undefined"}]
