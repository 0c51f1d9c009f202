"""ImportParams: a model to import, complete and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

IMPORT_COST = 10.0
"""In units of work (eta.py), by which API keys share the workers. An import uses no device, so it costs as little as a few
frames, however large its files are."""


@dataclass(frozen=True, kw_only=True)
class ImportParams:
    """`source`: a URL or a hub id; on the command line, a path too (importing/sources.py). `sha256`: what the source's one file
    must have. `card`: the fields of the model's card that the importer chose; the others are found out. `expects`: the kind of
    model that it must be; None takes any. `replace`: whether a model with this id and other files is replaced. `is_public`:
    whether every API key may use the model, and not only its owner's.
    """

    kind: ClassVar[str] = "import"

    model_id: str
    source: str
    sha256: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    expects: str | None = None
    replace: bool = False
    is_public: bool = True

    @property
    def batch_key(self) -> str:
        return f"{self.model_id}|import"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote. Ignores fields that a newer version added."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})
