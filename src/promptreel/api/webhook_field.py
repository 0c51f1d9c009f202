"""Reads the field `webhook` of a request: the URL that is told when the job has ended."""

from __future__ import annotations

from promptreel.api.field_reader import FieldReader, is_url
from promptreel.errors import UrlUnusable
from promptreel.fetching.fetcher import SafeFetcher


def read_webhook(reader: FieldReader, fetcher: SafeFetcher) -> str | None:
    """The URL, if one was sent. Rejects URLs that are never allowed. Host names are only resolved at each delivery."""
    value = reader.given("webhook")
    if value is None:
        return None
    if not isinstance(value, str) or not is_url(value):
        reader.reject("webhook", "The webhook must be a valid URL.")
        return None
    try:
        fetcher.check(value)
    except UrlUnusable as error:
        reader.reject("webhook", error.message)
        return None
    return value.strip()
