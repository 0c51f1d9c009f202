"""Pages of a list, described in Laravel's words, which clients of the hosted service read."""

from __future__ import annotations

from dataclasses import dataclass

from promptreel.api.field_reader import FieldReader, Limits

# The offset of a higher page could overflow the database's integer.
MAX_PAGE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Page:
    """The requested page of a list, counted from 1."""

    number: int
    per_page: int

    @property
    def offset(self) -> int:
        """The number of entries on earlier pages."""
        return (self.number - 1) * self.per_page

    def describe(self, total: int) -> dict[str, int | None]:
        """Where this page is in a list of `total` entries; `from` and `to` count from 1, and are None on an empty page."""
        last = min(total, self.offset + self.per_page)
        is_empty = last <= self.offset
        return {
            "current_page": self.number,
            "per_page": self.per_page,
            "total": total,
            "last_page": max(1, -(-total // self.per_page)),
            "from": None if is_empty else self.offset + 1,
            "to": None if is_empty else last,
        }


def read_page(reader: FieldReader, *, default: int, maximum: int) -> Page:
    """The fields `page` and `per_page`."""
    return Page(
        number=reader.whole("page", Limits(1, MAX_PAGE), default=1),
        per_page=reader.whole("per_page", Limits(1, maximum), default=default),
    )
