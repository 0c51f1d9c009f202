"""Reads a request for a model to import, in the words of either API: fields in, a NewJob out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from promptreel.api.field_reader import FieldReader, as_sent
from promptreel.api.parts import Services
from promptreel.api.webhook_field import read_webhook
from promptreel.errors import InvalidParams, NotAvailable, UrlUnusable
from promptreel.importing.choosing import HOW_TO_CONVERT, PICKLES
from promptreel.importing.gathering import HUB_OFF
from promptreel.importing.sources import HubSource, Source, read_remote_source, suggest_id
from promptreel.jobs.import_params import IMPORT_COST, ImportParams
from promptreel.jobs.job import NewJob
from promptreel.models.card_fields import read_card_fields
from promptreel.models.kinds import ModelKind

MAX_TEXT = 2000
MAX_SOURCE = 8000
IMPORTS_OFF = (
    "Requests import no models here, as PROMPTREEL_IMPORTS=off says. The service's operator can add one with "
    "`promptreel models add`."
)
VISIBILITIES = ("private", "public")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXTS = (
    "description",
    "licence",
    "default_negative_prompt",
    "motion_adapter",
    "vae",
    "beta_schedule",
    "default_scheduler",
    "expert",
)
_NUMBERS = (
    "native_width", "native_height", "max_frames", "fps", "default_steps", "default_guidance", "low_noise_guidance",
    "flow_shift",
)  # fmt: skip
_LISTS = ("trigger_words", "quality_words")


@dataclass(frozen=True, kw_only=True)
class Words:
    """An API's names of the fields."""

    source: str
    model_id: str
    name: str
    kind: str
    visibility: str
    replace: str


def read_import(fields: Mapping[str, Any], words: Words, services: Services, *, dialect: str) -> NewJob:
    """Raises InvalidParams with all wrong fields, NotAvailable, and UrlUnusable for an address that is never allowed."""
    if not services.may_import:
        raise NotAvailable(IMPORTS_OFF)
    reader = FieldReader(fields)
    source = _read_source(reader, words)
    given_id = reader.text(words.model_id, maximum=MAX_TEXT)
    sha256 = reader.text("sha256", maximum=64)
    if sha256 is not None and _SHA256.fullmatch(sha256.lower()) is None:
        reader.reject("sha256", "The sha256 must have 64 hexadecimal digits.")
    kind = _read_kind(reader, words)
    is_public = (
        services.caller.api_key_id is None or reader.choice(words.visibility, VISIBILITIES, default="private") == "public"
    )
    replace = reader.yes_no(words.replace, default=False)
    webhook = read_webhook(reader, services.fetcher)
    track_id = reader.scalar("track_id", maximum=MAX_TEXT)
    card = _read_card(reader, words)
    reader.raise_errors()
    assert source is not None
    _check_source(source, services)
    params = ImportParams(
        model_id=services.models.free_id(given_id, suggest_id(source), source=str(source), replace=replace),
        source=_spell(source),
        sha256=sha256.lower() if sha256 else None,
        card=read_card_fields(card).given,
        expects=kind,
        replace=replace,
        is_public=is_public,
    )
    request = {"dialect": dialect, "track_id": as_sent(fields.get("track_id"), track_id)}
    return NewJob(params=params, request=request, cost=IMPORT_COST, track_id=track_id, webhook_url=webhook)


def _read_source(reader: FieldReader, words: Words) -> Source | None:
    """A URL or a hub id, with the field `revision`. Never a path: a request must not read this machine's files."""
    text = reader.required_text(words.source, maximum=MAX_SOURCE).strip()
    revision = reader.text("revision", maximum=200)
    if not text:
        return None
    source = read_remote_source(text)
    if source is None:
        reader.reject(words.source, f"The {words.source} must be a URL, or a hub id such as owner/name.")
    elif str(source).lower().endswith(PICKLES):
        reader.reject(words.source, f"The {words.source} is of a pickled file. {HOW_TO_CONVERT}")
    elif isinstance(source, HubSource) and revision and source.revision is None:
        source = read_remote_source(f"{source.repo}@{revision}" + (f":{source.file}" if source.file else ""))
        if source is None:
            reader.reject("revision", "The revision is not one of a repository.")
    return source


def _spell(source: Source) -> str:
    """As `read_remote_source` reads it."""
    return getattr(source, "url", None) or str(source)


def _check_source(source: Source, services: Services) -> None:
    if isinstance(source, HubSource):
        if not services.may_use_hub:
            raise NotAvailable(HUB_OFF)
        return
    try:
        services.fetcher.check(_spell(source))
    except UrlUnusable as error:
        raise InvalidParams({"url": [error.message]}) from error


def _read_kind(reader: FieldReader, words: Words) -> str | None:
    """The kind that the model must be. The hosted service's own categories, such as stable_diffusion, bind nothing."""
    value = reader.text(words.kind, maximum=100)
    named = (value or "").strip().lower().replace("-", "_").removesuffix("s")
    kinds: Collection[str] = [kind.value for kind in ModelKind]
    return named if named in kinds else None


def _read_card(reader: FieldReader, words: Words) -> dict[str, Any]:
    card: dict[str, Any] = {"name": reader.text(words.name, maximum=200) or None}
    for name in _TEXTS:
        if value := reader.text(name, maximum=MAX_TEXT):
            card[name] = value
    for name in _NUMBERS:
        if (value := reader.given(name)) is not None:
            card[name] = value
    for name in _LISTS:
        value = reader.given(name)
        if value is not None:
            card[name] = [each.strip() for each in value.split(",") if each.strip()] if isinstance(value, str) else value
    return card
