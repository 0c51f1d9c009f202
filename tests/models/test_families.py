"""What each family can make of a request's numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from promptreel.jobs.eta import work_units
from promptreel.jobs.params import VideoParams
from promptreel.models.composition import ModelSet
from promptreel.models.families import (
    ANIMATEDIFF,
    WAN,
    cost_of,
    fit_clip,
    generated_size,
    negative_prompt_of,
    size_apart,
)
from promptreel.models.registry import ModelCard
from tests.models.checkpoints import card_of, make_card

PARAMS = VideoParams(model_id="m", prompt="a cat", width=832, height=480, num_frames=81)


@pytest.fixture
def wan(tmp_path: Path) -> ModelCard:
    fields = {"family": "wan", "max_frames": 81, "fps": 16, "native_width": None, "native_height": None}
    return card_of(make_card(tmp_path / "wan", **fields, default_negative_prompt="", words=[]))


@pytest.fixture
def animatediff(wan: ModelCard) -> ModelCard:
    return replace(wan, family="animatediff", max_frames=16)


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (2, 5), (4, 5), (5, 5), (40, 41), (80, 81), (81, 81), (82, 81), (240, 81)])
def test_wan_makes_one_frame_more_than_a_multiple_of_four(wan: ModelCard, asked: int, made: int) -> None:
    params, notes = fit_clip(replace(PARAMS, num_frames=asked), wan)

    assert params.num_frames == made
    assert bool(notes) == (asked != made)
    assert WAN.fit_frames(240, replace(wan, max_frames=240)) == 237


@pytest.mark.parametrize(
    ("base", "asked", "made"),
    [
        (None, (832, 480), (832, 480)),
        ("wan21-14b", (1280, 720), (1280, 720)),
        ("wan21-14b", (520, 328), (528, 336)),
        ("wan22-5b", (1280, 704), (1280, 704)),
        ("wan22-5b", (1280, 720), (1280, 736)),
        ("wan22", (64, 72), (64, 96)),
    ],
)
def test_wans_sides_are_multiples_of_sixteen_or_of_thirty_two(
    wan: ModelCard, base: str | None, asked: tuple[int, int], made: tuple[int, int]
) -> None:
    card = replace(wan, base=base)
    params, notes = fit_clip(replace(PARAMS, width=asked[0], height=asked[1]), card)

    assert generated_size(card, params) == made
    assert (params.width, params.height) == asked  # of the finished video
    assert size_apart(card, params) == (None if asked == made else made)
    told = f"made at {made[0]}x{made[1]}, then scaled to {asked[0]}x{asked[1]}"
    assert notes == ([] if asked == made else [told])


def test_animatediff_makes_any_number_of_frames(animatediff: ModelCard) -> None:
    for num_frames in (1, 40, 240):
        params = replace(PARAMS, num_frames=num_frames)
        assert fit_clip(params, animatediff) == (params, [])
        assert cost_of(params, animatediff) == work_units(params, 16)
    assert ANIMATEDIFF.snap_size(513, 8, animatediff) == (520, 8)


def test_native_size_is_that_of_the_card(wan: ModelCard) -> None:
    card = replace(wan, native_width=832, native_height=480)
    params, notes = fit_clip(replace(PARAMS, width=512, height=512), card)

    assert notes == []
    assert size_apart(card, params) == (832, 480)


def test_wans_cost_grows_faster_than_its_tokens(wan: ModelCard) -> None:
    whole, half, small = (
        cost_of(params, wan) for params in (PARAMS, replace(PARAMS, num_frames=41), replace(PARAMS, width=416, height=240))
    )

    assert 2.5 < whole / half < 4
    assert 1.5 < whole / small < 4  # of the same number of frames
    assert cost_of(PARAMS, replace(wan, base="wan22-5b")) < whole  # a quarter of the tokens


def test_picture_of_wan_saves_no_steps_and_a_video_does(wan: ModelCard) -> None:
    picture, video = (replace(PARAMS, init_key=key, strength=0.5) for key in ("inits/image/1.png", "inits/video/1.mp4"))

    assert cost_of(picture, wan) == cost_of(PARAMS, wan) == pytest.approx(2 * cost_of(video, wan), rel=0.05)


def test_family_has_defaults_where_the_card_has_none(wan: ModelCard, animatediff: ModelCard) -> None:
    assert ModelSet(checkpoint=wan).defaults == {"num_inference_steps": 50, "guidance_scale": 5.0}
    assert ModelSet(checkpoint=replace(wan, default_guidance=4.0, default_steps=40)).defaults == {
        "num_inference_steps": 40,
        "guidance_scale": 4.0,
    }
    assert ModelSet(checkpoint=animatediff).defaults == {}  # the APIs' own are right for it
    assert negative_prompt_of(wan).startswith("Bright tones, overexposed")
    assert negative_prompt_of(replace(wan, default_negative_prompt="grey")) == "grey"
    assert negative_prompt_of(animatediff) == ""
