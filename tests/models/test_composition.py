"""Which models may be used together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from promptreel.errors import InvalidParams
from promptreel.models.composition import ModelSet, _fits, compose
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


def test_cards_tell_what_changes_a_clip_and_files_do_not(tmp_path: Path) -> None:
    plain = card_of(make_card(tmp_path / "plain", beta_schedule="linear", default_guidance=7.0))
    wan = replace(plain, model_id="wan", beta_schedule=None, flow_shift="by_size", low_noise_guidance=3.0)
    adapter = replace(plain, model_id="v3", kind=ModelKind.MOTION_ADAPTER, beta_schedule="scaled_linear", max_frames=24)
    size = {"native_width": 512, "native_height": 512}

    assert ModelSet(checkpoint=plain).told == {"plain": {**size, "beta_schedule": "linear", "max_frames": 16}}
    assert ModelSet(checkpoint=plain, adapter=adapter).told == {
        "plain": {**size, "beta_schedule": "linear"},
        "v3": {"beta_schedule": "scaled_linear", "max_frames": 24},
    }
    assert ModelSet(checkpoint=wan).told == {
        "wan": {**size, "flow_shift": "by_size", "low_noise_guidance": 3.0, "default_guidance": 7.0, "max_frames": 16}
    }


def test_missing_vae_is_told_as_a_vae(tmp_path: Path) -> None:
    make_card(tmp_path / "mine", vae="nowhere")

    with pytest.raises(InvalidParams, match=r"There is no VAE 'nowhere'\. Import one with `promptreel models add`"):
        compose(ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none"), "mine")
