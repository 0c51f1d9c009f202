"""Which models may be used together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from promptreel.errors import InvalidParams
from promptreel.models.composition import _fits, compose
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelRegistry
from tests.models.checkpoints import card_of, make_card


@pytest.mark.parametrize(
    ("family", "base", "fits"),
    [
        ("wan", "wan21-14b", True),
        ("wan", None, True),
        ("", None, True),  # nobody has told
        ("wan", "wan21-1.3b", False),
        ("animatediff", None, False),
        ("animatediff", "sd15", False),
    ],
)
def test_models_fit_if_they_are_of_one_family_and_base(tmp_path: Path, family: str, base: str | None, fits: bool) -> None:
    card = card_of(make_card(tmp_path / "card"))
    lora = replace(card, kind=ModelKind.LORA, family=family, base=base)

    assert _fits(lora, replace(card, family="wan", base="wan21-14b")) is fits


def test_missing_vae_is_told_as_a_vae(tmp_path: Path) -> None:
    make_card(tmp_path / "mine", vae="nowhere")

    with pytest.raises(InvalidParams, match=r"There is no VAE 'nowhere'\. Import one with `promptreel models add`"):
        compose(ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none"), "mine")
