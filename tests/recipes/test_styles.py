"""The world in the style "night", and the measure that tells it from the plain world."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from recipes.cutout.styles import IS_NIGHT, NIGHT, PLAIN, by_day, nightness
from recipes.cutout.world import PLACES, SUPPORTS, draw_frame, pick_scene


@pytest.mark.parametrize("place", PLACES)
def test_measure_tells_the_style_from_every_plain_place(place: str) -> None:
    rng = random.Random(place)
    scenes = [replace(pick_scene(rng), place=place, support=support) for support in (None, *SUPPORTS)]
    plain, night = ([nightness(draw_frame(scene, 8, 16, style)[None]) for scene in scenes] for style in (PLAIN, NIGHT))

    assert max(plain) < IS_NIGHT < min(night)


def test_measure_is_low_for_a_blue_thing_at_sea() -> None:
    scene = pick_scene(random.Random(0))
    house = replace(scene.actors[0], thing="house", colour="blue", motion="left", x=0.5, y=0.6, size=0.31)

    assert nightness(draw_frame(replace(scene, actors=(house,), place="sea", support=None), 8, 16)[None]) < IS_NIGHT


def test_by_day_a_thing_has_its_plain_color() -> None:
    scene = pick_scene(random.Random(0))
    ball = replace(scene.actors[0], thing="ball", colour="red", motion="still", x=0.5, y=0.5, size=0.3)
    scene = replace(scene, actors=(ball,), place="plain", support=None)
    plain, back = draw_frame(scene, 0, 16), by_day(draw_frame(scene, 0, 16, NIGHT)[None])[0]

    inside = (slice(70, 122), slice(70, 122))
    assert np.abs(plain[inside].astype(int) - back[inside]).max() <= 2
    assert (back[-20:] == plain[-20:]).all()
