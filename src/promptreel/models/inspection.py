"""What a model's files are, and whether they can be used: a look at their headers and configs, before the model is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptreel.errors import CheckpointUnusable
from promptreel.jobs.import_params import ImportParams
from promptreel.models.kinds import ModelKind
from promptreel.models.weights import read_header


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """`card`: what the importer said of the model, completed by what its files say."""

    kind: ModelKind
    family: str | None
    base: str | None
    card: Mapping[str, Any]


def inspect(
    paths: Mapping[str, Path],
    params: ImportParams,
    *,
    facts: Mapping[str, str] | None = None,
    reads_weights: bool = False,
) -> Inspected:
    """`paths`: where each file is, by the author's name. `reads_weights`: checks every number, which takes seconds.

    Raises CheckpointUnusable with what is wrong, and what to do.
    """
    names: set[str] = set()
    for name, path in paths.items():
        if name.endswith(".safetensors"):
            names |= {f"{name}:{key}" if "/" in name else key for key in read_header(path, name)}
    kind = ModelKind.CHECKPOINT
    if "model_index.json" not in paths:
        kind = ModelKind.MOTION_ADAPTER if any("motion_modules" in key for key in names) else ModelKind.VAE
    if params.expects not in (None, kind.value):
        raise CheckpointUnusable(f"This is a {kind}, not a {params.expects}.")
    card = {**(facts or {}), **params.card, "has_motion": any(name.startswith("motion_adapter/") for name in paths)}
    return Inspected(kind=kind, family="animatediff", base="sd15", card=card)
