from __future__ import annotations

from pathlib import Path

import numpy as np

from recipes.cutout.pairs import halves, pair_prompt, pair_scene
from recipes.cutout.probes import FRAMES, judge, load_probe
from recipes.cutout.world import HELD_OUT, draw_clip


def test_probe_recognizes_both_things_of_drawn_clips(tmp_path: Path) -> None:
    probe = load_probe(tmp_path)
    right = 0
    for number in range(8):
        scene = pair_scene(f"a test of pairs {number}")
        seen = judge(probe, halves(draw_clip(scene, FRAMES)))
        right += [(one["colour"], one["thing"]) for one in seen] == [(a.colour, a.thing) for a in scene.actors]

    assert right >= 7


def test_halves_are_square_and_show_nothing_of_each_other() -> None:
    frames = np.zeros((2, 192, 192, 3), np.uint8)
    frames[:, :, 96:] = 255

    left, right = halves(frames)

    assert left.shape == right.shape == (2, 131, 131, 3)
    assert left.max() == 0
    assert right.min() == 255


def test_prompt_of_pair_names_left_thing_first() -> None:
    scene = pair_scene("one")
    left, right = scene.actors

    assert left.x < right.x
    assert pair_prompt(scene).index(left.thing) < pair_prompt(scene).index(right.thing)
    assert not {(a.colour, a.thing) for a in scene.actors} & HELD_OUT
