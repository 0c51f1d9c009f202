"""The world of paper cut-outs: picks random scenes and draws their frames.

Frames are uint8 [T, 192, 192, 3] at 8 frames a second. A motion has the same speed in clips of any length. A thing that
travels, grows or shrinks has its given place and size in the middle of the clip, so it stays in the picture.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recipes.cutout.palette import COLOURS, DARK, WOOD, Colour
from recipes.cutout.styles import PLAIN, Outline, Style, Tinted
from recipes.cutout.things import THINGS, Pen

SIZE = 192
FPS = 8
MAX_FRAMES = 40
SUPERSAMPLING = 4

MOTIONS = ("still", "left", "right", "rising", "falling", "bouncing", "spinning", "growing", "shrinking", "shaking")
PLACES = ("grass", "night", "sea", "desert", "snow", "city", "room", "plain")
SUPPORTS = ("bench", "box", "boat")

# One color-thing pair in eight is never drawn in training. Clips of these pairs show whether the model composes.
HELD_OUT = frozenset(
    (colour, thing)
    for i, thing in enumerate(sorted(THINGS))
    for j, colour in enumerate(sorted(COLOURS))
    if (3 * i + j) % 8 == 0
)


@dataclass(frozen=True)
class Actor:
    """One thing in a scene: what it is, where it starts and how it moves. Lengths are shares of the picture's side."""

    thing: str
    colour: str
    motion: str
    x: float
    y: float
    size: float
    speed: float
    phase: float
    facing_right: bool


@dataclass(frozen=True)
class Scene:
    """All that a clip shows. `support`: what a scene's only thing sits on. `variant`: the seed of the place's details."""

    actors: tuple[Actor, ...]
    place: str
    support: str | None
    variant: int


def pick_scene(rng: random.Random, *, pairs: int = 0, held_out: bool = False) -> Scene:
    """A random scene of color-thing pairs outside HELD_OUT or, with `held_out`, of pairs in it.

    `pairs` is the percentage of scenes with two things.
    """
    place = rng.choice(PLACES)
    variant = rng.randrange(1 << 30)
    if rng.randrange(100) < pairs:
        first, second = pick_actor(rng, held_out), pick_actor(rng, held_out)
        left = replace(first, x=0.27, size=0.19, motion=_in_place(first.motion))
        right = replace(second, x=0.73, size=0.19, motion=_in_place(second.motion))
        return Scene((left, right), place, None, variant)
    actor = pick_actor(rng, held_out)
    if actor.motion == "still" and rng.random() < 0.4:
        seated = replace(actor, x=rng.uniform(0.42, 0.58), y=0.46, size=min(actor.size, 0.25))
        return Scene((seated,), place, rng.choice(SUPPORTS), variant)
    return Scene((actor,), place, None, variant)


def _in_place(motion: str) -> str:
    return "still" if motion in {"left", "right"} else motion


def pick_actor(rng: random.Random, held_out: bool) -> Actor:
    while True:
        colour, thing = rng.choice(list(COLOURS)), rng.choice(list(THINGS))
        if ((colour, thing) in HELD_OUT) == held_out:
            break
    motion = rng.choice(MOTIONS)
    return Actor(
        thing=thing,
        colour=colour,
        motion=motion,
        x=rng.uniform(0.42, 0.58),
        y=rng.uniform(0.45, 0.6),
        size=rng.uniform(0.24, 0.31),
        speed=rng.uniform(0.85, 1.15),
        phase=rng.random(),
        facing_right=motion != "left",
    )


def draw_clip(scene: Scene, num_frames: int, style: Style = PLAIN) -> NDArray[np.uint8]:
    """The scene's frames, uint8 [num_frames, 192, 192, 3]."""
    return np.stack([draw_frame(scene, i, num_frames, style) for i in range(num_frames)])


def draw_frame(scene: Scene, index: int, num_frames: int, style: Style = PLAIN) -> NDArray[np.uint8]:
    """Frame `index` of a clip of `num_frames`, uint8 [192, 192, 3]."""
    side = SIZE * SUPERSAMPLING
    picture = Image.new("RGB", (side, side))
    ground = Tinted(picture, style.ground)
    _draw_place(ground, side, scene)
    _draw_stars(ImageDraw.Draw(picture), side, scene, style.stars)
    if scene.support:
        _draw_support(ground, side, scene.support)
    for actor in scene.actors:
        if style.outline:
            _draw_actor(Outline(picture, style.outline), side, actor, index, num_frames)
        _draw_actor(Tinted(picture, style.paper), side, actor, index, num_frames)
    return np.asarray(picture.reduce(SUPERSAMPLING))


def scaled(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resizes frames, uint8 [T, H, W, 3], to [T, side, side, 3]."""
    if frames.shape[1:3] == (side, side):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BILINEAR)) for frame in frames])


def _draw_actor(draw: ImageDraw.ImageDraw, side: int, actor: Actor, index: int, num_frames: int) -> None:
    x, y, size, angle, stride = _pose(actor, index, num_frames)
    pen = Pen(draw, side * x, side * y, side * size, angle, actor.facing_right)
    THINGS[actor.thing](pen, COLOURS[actor.colour], stride)


def _pose(actor: Actor, index: int, num_frames: int) -> tuple[float, float, float, float, float]:  # noqa: C901 - one case a motion
    """Position, size, angle and stride (in cycles) of an actor in one frame."""
    middle = index - (num_frames - 1) / 2
    cycle = actor.speed * index / 16 + actor.phase
    x, y, size, angle = actor.x, actor.y, actor.size, 0.0
    stride = actor.phase + index / 7
    match actor.motion:
        case "left":
            x -= 0.0135 * actor.speed * middle
        case "right":
            x += 0.0135 * actor.speed * middle
        case "rising":
            y -= 0.0125 * actor.speed * middle
        case "falling":
            y += 0.0125 * actor.speed * middle
        case "bouncing":
            y = 0.72 - 0.38 * abs(math.sin(math.pi * cycle))
        case "spinning":
            angle = 2 * math.pi * cycle
        case "growing":
            size *= 1 + 0.024 * actor.speed * middle
        case "shrinking":
            size *= 1 - 0.024 * actor.speed * middle
        case "shaking":
            x += 0.1 * math.sin(index + actor.phase)
        case "still":
            stride = actor.phase + 0.12 * math.sin(2 * math.pi * index / 16)
    return x, y, size, angle, stride


# The colors above and below the horizon.
_GROUND: dict[str, tuple[Colour, Colour]] = {
    "grass": ((152, 208, 250), (98, 184, 84)),
    "night": ((34, 38, 98), (58, 74, 88)),
    "sea": ((172, 218, 250), (28, 104, 172)),
    "desert": ((252, 218, 164), (226, 182, 104)),
    "snow": ((164, 186, 216), (206, 220, 236)),
    "city": ((198, 206, 214), (92, 94, 102)),
    "room": ((238, 206, 190), (164, 112, 74)),
    "plain": ((152, 152, 152), (152, 152, 152)),
}


def _draw_place(draw: ImageDraw.ImageDraw, side: int, scene: Scene) -> None:
    rng = random.Random(scene.variant)
    horizon = int(side * rng.uniform(0.58, 0.68))
    above, below = _GROUND[scene.place]
    draw.rectangle((0, 0, side, horizon), fill=above)
    draw.rectangle((0, horizon, side, side), fill=below)
    details = {
        "grass": _hills, "night": _moon, "sea": _waves, "desert": _sun,
        "snow": _snowdrifts, "city": _towers, "room": _window,
    }  # fmt: skip
    if scene.place in details:
        details[scene.place](draw, side, horizon, rng)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _hills(draw: ImageDraw.ImageDraw, side: int, horizon: int, rng: random.Random) -> None:
    for x in (rng.uniform(0.0, 0.4), rng.uniform(0.6, 1.0)):
        wide = side * rng.uniform(0.25, 0.4)
        draw.pieslice(
            (side * x - wide, horizon - wide * 0.4, side * x + wide, horizon + wide * 0.4), 180, 360, fill=(122, 198, 104)
        )


def _moon(draw: ImageDraw.ImageDraw, side: int, _horizon: int, rng: random.Random) -> None:
    _disc(draw, side * rng.choice((0.14, 0.86)), side * 0.14, side * 0.085, (242, 240, 208))
    _stars(draw, side, 5, rng)


def _draw_stars(draw: ImageDraw.ImageDraw, side: int, scene: Scene, count: int) -> None:
    """A style's stars. They are not where those of a night are."""
    _stars(draw, side, count, random.Random(f"stars {scene.variant}"))


def _stars(draw: ImageDraw.ImageDraw, side: int, count: int, rng: random.Random) -> None:
    for _ in range(count):
        _disc(draw, side * rng.uniform(0.05, 0.95), side * rng.uniform(0.04, 0.45), side * 0.012, (255, 255, 240))


def _waves(draw: ImageDraw.ImageDraw, side: int, horizon: int, rng: random.Random) -> None:
    for row in range(3):
        y = horizon + side * (0.07 + 0.11 * row)
        start = rng.uniform(-0.2, 0.1)
        for i in range(4):
            x = side * (start + 0.36 * i)
            draw.rectangle((x, y, x + side * 0.16, y + side * 0.022), fill=(96, 160, 214))


def _sun(draw: ImageDraw.ImageDraw, side: int, horizon: int, rng: random.Random) -> None:
    _disc(draw, side * rng.choice((0.15, 0.85)), side * 0.15, side * 0.1, (255, 244, 190))
    x, wide = side * rng.uniform(0.1, 0.9), side * 0.4
    draw.pieslice((x - wide, horizon - wide * 0.3, x + wide, horizon + wide * 0.3), 180, 360, fill=(238, 198, 124))


def _snowdrifts(draw: ImageDraw.ImageDraw, side: int, horizon: int, rng: random.Random) -> None:
    x = side * rng.choice((0.12, 0.88))
    for level in range(3):
        half, top = side * (0.05 + 0.03 * level), horizon - side * (0.36 - 0.1 * level)
        draw.polygon([(x, top), (x - half, top + side * 0.16), (x + half, top + side * 0.16)], fill=(64, 108, 98))
    for _ in range(7):
        _disc(draw, side * rng.uniform(0.05, 0.95), side * rng.uniform(0.05, 0.5), side * 0.014, (255, 255, 255))


def _towers(draw: ImageDraw.ImageDraw, side: int, horizon: int, rng: random.Random) -> None:
    x = -0.05
    while x < 1:
        wide, tall = rng.uniform(0.14, 0.22), rng.uniform(0.2, 0.5)
        gray = rng.choice((114, 128, 142))
        draw.rectangle((side * x, horizon - side * tall, side * (x + wide), horizon), fill=(gray, gray + 6, gray + 18))
        x += wide + 0.02
    draw.rectangle((0, side * 0.86, side, side * 0.885), fill=(226, 214, 130))


def _window(draw: ImageDraw.ImageDraw, side: int, _horizon: int, rng: random.Random) -> None:
    x, y = side * rng.choice((0.04, 0.68)), side * 0.08
    draw.rectangle((x, y, x + side * 0.28, y + side * 0.3), fill=(250, 248, 240))
    draw.rectangle((x + side * 0.03, y + side * 0.03, x + side * 0.25, y + side * 0.27), fill=(158, 212, 244))


def _draw_support(draw: ImageDraw.ImageDraw, side: int, support: str) -> None:
    pen = Pen(draw, side * 0.5, side * 0.82, side * 0.4)
    match support:
        case "bench":
            for x in (-0.8, 0.68):
                pen.box(x, -0.25, x + 0.14, 0.36, DARK)
            pen.box(-1.0, -0.32, 1.0, -0.1, WOOD)
        case "box":
            pen.box(-0.68, -0.32, 0.68, 0.4, (206, 162, 108))
            pen.box(-0.1, -0.32, 0.1, 0.4, (168, 124, 78))
        case "boat":
            pen.polygon([(-1.1, -0.32), (1.1, -0.32), (0.75, 0.3), (-0.75, 0.3)], (150, 96, 62))
            pen.polygon([(-1.1, -0.32), (1.1, -0.32), (1.05, -0.16), (-1.05, -0.16)], (246, 238, 222))
