"""The drawn world and its captions."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from recipes.cutout.captions import caption, caption_for_training, vocabulary
from recipes.cutout.palette import COLOURS
from recipes.cutout.text import MAX_TOKENS, build_tokenizer
from recipes.cutout.things import THINGS
from recipes.cutout.world import HELD_OUT, MOTIONS, PLACES, SUPPORTS, Scene, draw_clip, pick_scene


def scenes(count: int, *, pairs: int = 0, held_out: bool = False) -> list[Scene]:
    rng = random.Random(1)
    return [pick_scene(rng, pairs=pairs, held_out=held_out) for _ in range(count)]


def centers_of_red(clip: np.ndarray) -> np.ndarray:
    """The center of each frame's red pixels, as x and y."""
    is_red = clip[..., 0].astype(int) - clip[..., 1] > 60
    return np.array([np.argwhere(frame).mean(0)[::-1] for frame in is_red])


def test_held_out_pairs_are_never_drawn_in_training() -> None:
    drawn = {(actor.colour, actor.thing) for scene in scenes(4000, pairs=20) for actor in scene.actors}

    assert not drawn & HELD_OUT
    assert len(drawn) == len(COLOURS) * len(THINGS) - len(HELD_OUT)


def test_every_thing_and_every_color_is_held_out_somewhere() -> None:
    assert {colour for colour, _ in HELD_OUT} == set(COLOURS)
    assert {thing for _, thing in HELD_OUT} == set(THINGS)
    assert {(a.colour, a.thing) for scene in scenes(1000, held_out=True) for a in scene.actors} == HELD_OUT


def test_all_motions_places_and_supports_are_drawn() -> None:
    found = scenes(2000)

    assert {scene.actors[0].motion for scene in found} == set(MOTIONS)
    assert {scene.place for scene in found} == set(PLACES)
    assert {scene.support for scene in found} == {None, *SUPPORTS}


def test_scene_is_always_drawn_alike() -> None:
    scene = scenes(1)[0]

    assert np.array_equal(draw_clip(scene, 5), draw_clip(scene, 5))


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("rising", 1, -1), ("falling", 1, 1)])
def test_thing_moves_where_its_motion_says(motion: str, axis: int, sign: int) -> None:
    scene = next(scene for scene in scenes(100) if scene.support is None)
    actor = replace(scene.actors[0], motion=motion, thing="ball", colour="red")
    clip = draw_clip(replace(scene, actors=(actor,), place="plain"), 40)

    where = centers_of_red(clip)[:, axis]
    assert sign * (where[-5:].mean() - where[:5].mean()) > 60


def test_every_word_of_the_world_is_one_token() -> None:
    tokenizer = build_tokenizer()

    broken = [word for word in vocabulary() if word.isalpha() and len(tokenizer(word).input_ids) != 3]
    assert broken == []


def test_captions_fit_into_text_encoder_and_have_only_known_words() -> None:
    tokenizer = build_tokenizer()
    rng = random.Random(2)
    words = set(vocabulary())
    for scene in scenes(500, pairs=20):
        text = caption(scene, rng)
        assert len(tokenizer(text).input_ids) <= MAX_TOKENS, text
        assert {word.strip(",").lower() for word in text.split()} <= words, text


def test_training_captions_have_some_unknown_words_and_fit_into_text_encoder() -> None:
    tokenizer = build_tokenizer()
    rng = random.Random(3)
    words = set(vocabulary())
    captions = [caption_for_training(scene, rng) for scene in scenes(2000, pairs=20)]

    unknown = [text for text in captions if {word.strip(",").lower() for word in text.split()} - words]
    assert 0.04 < len(unknown) / len(captions) < 0.12
    assert max(len(tokenizer(text).input_ids) for text in captions) <= MAX_TOKENS


@pytest.mark.parametrize("word", ["driving", "swimming", "sailing", "flying", "above", "road", "jumps", "slowly"])
def test_everyday_words_are_known(word: str) -> None:
    assert word in vocabulary()
