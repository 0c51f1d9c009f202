"""The twenty things of the world, each drawn by one function in its own unit square.

The function gets a `Pen`, a paper color and a phase in cycles; a cycle is a stride, a wing beat or a turn of a wheel.
Coordinates run from -1 to 1, y down. Things that can walk face left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from recipes.cutout.palette import DARK, GLASS, WOOD, Colour, behind, eye_of

Point = tuple[float, float]

CORNERS_A_PIXEL = 0.8  # of an oval's outline, in the picture scaled down by 4; enough that no corner shows


@dataclass(frozen=True)
class Pen:
    """Draws shapes of the unit square on a picture.

    `x`, `y` and `size` are in pixels of the picture. `angle` is in radians, clockwise. `mirror` makes a thing face right.
    """

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    size: float
    angle: float = 0.0
    mirror: bool = False

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        sign = -self.size if self.mirror else self.size
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        moved = [
            (self.x + sign * px * cos - self.size * py * sin, self.y + sign * px * sin + self.size * py * cos)
            for px, py in points
        ]
        self.draw.polygon(moved, fill=colour)

    def oval(self, x: float, y: float, rx: float, ry: float | None = None, colour: Colour = DARK) -> None:
        tall = rx if ry is None else ry
        steps = max(12, round(2 * math.pi * max(rx, tall) * self.size * CORNERS_A_PIXEL / 4))
        turn = 2 * math.pi / steps
        self.polygon([(x + rx * math.cos(i * turn), y + tall * math.sin(i * turn)) for i in range(steps)], colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)


def legs(pen: Pen, at: Sequence[float], top: float, phase: float, colour: Colour, width: float = 0.1) -> None:
    """Walking legs. Neighbors swing in opposite directions."""
    for i, x in enumerate(at):
        swing = 0.2 * math.sin(2 * math.pi * phase + math.pi * i)
        pen.polygon([(x - width, top), (x + width, top), (x + width + swing, 1), (x - width + swing, 1)], colour)


def wheel(pen: Pen, x: float, y: float, radius: float, phase: float) -> None:
    """A dark tire with a light bar, which turns."""
    pen.oval(x, y, radius, colour=DARK)
    angle = -2 * math.pi * phase
    along, across = 0.8 * radius, 0.22 * radius
    cos, sin = math.cos(angle), math.sin(angle)
    bar = [(-along, -across), (along, -across), (along, across), (-along, across)]
    pen.polygon([(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in bar], (205, 205, 205))


def cat(pen: Pen, colour: Colour, phase: float) -> None:
    wag = 0.15 * math.sin(2 * math.pi * phase)
    pen.polygon([(0.55, 0.2), (0.8, -0.65 + wag), (1.0, -0.6 + wag), (0.8, 0.35)], behind(colour))
    legs(pen, (-0.25, 0.0, 0.4, 0.62), 0.4, phase, behind(colour), 0.11)
    pen.oval(0.2, 0.28, 0.62, 0.36, colour)
    pen.polygon([(-0.92, -0.25), (-0.88, -0.95), (-0.5, -0.6)], colour)
    pen.polygon([(-0.02, -0.25), (-0.06, -0.95), (-0.44, -0.6)], colour)
    pen.oval(-0.47, -0.25, 0.47, 0.42, colour)
    for x in (-0.65, -0.3):
        pen.oval(x, -0.3, 0.09, 0.11, eye_of(colour))
    pen.polygon([(-0.55, -0.12), (-0.39, -0.12), (-0.47, -0.02)], (250, 150, 165))


def dog(pen: Pen, colour: Colour, phase: float) -> None:
    wag = 0.2 * math.sin(4 * math.pi * phase)
    pen.polygon([(0.75, 0.1), (1.0, -0.5 + wag), (1.12, -0.42 + wag), (0.9, 0.2)], colour)
    legs(pen, (-0.25, 0.0, 0.5, 0.75), 0.4, phase, behind(colour))
    pen.box(-0.4, -0.02, 0.9, 0.5, colour)
    pen.polygon([(-1.1, -0.3), (-0.75, -0.42), (-0.6, -0.7), (-0.1, -0.65), (-0.05, 0.2), (-0.55, 0.12), (-1.1, 0.02)], colour)
    pen.polygon([(-0.3, -0.72), (0.02, -0.6), (0.08, 0.12), (-0.2, 0.1)], behind(colour))
    pen.oval(-1.05, -0.24, 0.13, 0.11, eye_of(colour))
    pen.oval(-0.55, -0.4, 0.09, colour=eye_of(colour))


def rabbit(pen: Pen, colour: Colour, phase: float) -> None:
    hop = 0.08 * math.sin(2 * math.pi * phase)
    for x in (-0.42, -0.08):
        pen.oval(x, -0.62 + hop, 0.15, 0.42, colour)
        pen.oval(x, -0.6 + hop, 0.07, 0.28, (250, 175, 190))
    pen.oval(0.62, 0.55, 0.2, colour=(250, 250, 250) if sum(colour) < 600 else (200, 200, 205))
    pen.oval(0.1, 0.45, 0.58, 0.48, colour)
    pen.oval(-0.25, -0.08 + hop, 0.42, 0.36, colour)
    pen.oval(-0.2, 0.88, 0.3, 0.13, behind(colour))
    pen.oval(0.35, 0.88, 0.3, 0.13, behind(colour))
    pen.oval(-0.42, -0.12 + hop, 0.08, colour=eye_of(colour))


def bird(pen: Pen, colour: Colour, phase: float) -> None:
    beat = math.sin(2 * math.pi * phase)
    pen.polygon([(0.5, 0.0), (1.1, -0.25), (1.05, 0.3)], behind(colour))
    pen.oval(0.1, 0.1, 0.62, 0.34, colour)
    pen.oval(-0.5, -0.15, 0.32, colour=colour)
    pen.polygon([(-0.78, -0.28), (-1.15, -0.1), (-0.78, 0.0)], (250, 165, 30))
    pen.polygon([(-0.2, 0.05), (0.45, 0.05), (0.4, -0.15 - 0.75 * beat)], behind(colour))
    pen.oval(-0.56, -0.22, 0.09, colour=eye_of(colour))


def butterfly(pen: Pen, colour: Colour, phase: float) -> None:
    spread = 0.62 + 0.38 * math.cos(2 * math.pi * phase)
    for side in (-1, 1):
        pen.oval(side * 0.5 * spread, -0.38, 0.48 * spread, 0.5, colour)
        pen.oval(side * 0.42 * spread, 0.45, 0.38 * spread, 0.4, behind(colour))
        pen.oval(side * 0.5 * spread, -0.38, 0.18 * spread, 0.2, (250, 240, 200))
    pen.oval(0, 0, 0.1, 0.75, DARK)
    pen.polygon([(-0.04, -0.6), (0.04, -0.6), (-0.3, -1.0)], DARK)
    pen.polygon([(-0.04, -0.6), (0.04, -0.6), (0.3, -1.0)], DARK)


def fish(pen: Pen, colour: Colour, phase: float) -> None:
    swish = 0.22 * math.sin(2 * math.pi * phase)
    pen.polygon([(0.45, 0.0), (1.05, -0.55 + swish), (0.9, swish), (1.05, 0.55 + swish)], behind(colour))
    pen.polygon([(-0.3, -0.4), (0.3, -0.85), (0.35, -0.3)], behind(colour))
    pen.oval(-0.2, 0, 0.8, 0.5, colour)
    pen.polygon([(-0.1, 0.1), (0.3, 0.0), (0.28, 0.35)], behind(colour))
    pen.oval(-0.62, -0.12, 0.14, colour=(250, 250, 250))
    pen.oval(-0.65, -0.12, 0.08)


def turtle(pen: Pen, colour: Colour, phase: float) -> None:
    paddle = 0.12 * math.sin(2 * math.pi * phase)
    skin = (165, 190, 105)
    pen.oval(-0.85, 0.1 + paddle / 2, 0.26, 0.22, skin)
    pen.oval(-0.93, 0.05 + paddle / 2, 0.07)
    pen.oval(-0.42 + paddle, 0.62, 0.2, 0.24, skin)
    pen.oval(0.5 - paddle, 0.62, 0.2, 0.24, skin)
    pen.polygon([(0.7, 0.45), (1.05, 0.6), (0.7, 0.6)], skin)
    dome = [(-0.8 * math.cos(math.pi * i / 48) + 0.05, 0.5 - 1.05 * math.sin(math.pi * i / 48)) for i in range(49)]
    pen.polygon(dome, colour)
    pen.polygon([(-0.2, -0.3), (0.3, -0.3), (0.45, 0.1), (0.05, 0.35), (-0.35, 0.1)], behind(colour))


def car(pen: Pen, colour: Colour, phase: float) -> None:
    pen.polygon([(-0.6, 0.05), (-0.35, -0.5), (0.4, -0.5), (0.7, 0.05)], colour)
    pen.polygon([(-0.43, 0.0), (-0.26, -0.38), (0.0, -0.38), (0.0, 0.0)], GLASS)
    pen.polygon([(0.1, 0.0), (0.1, -0.38), (0.33, -0.38), (0.52, 0.0)], GLASS)
    pen.box(-1.05, 0.0, 1.05, 0.48, colour)
    for x in (-0.58, 0.58):
        wheel(pen, x, 0.5, 0.29, phase)


def train(pen: Pen, colour: Colour, phase: float) -> None:
    pen.box(0.25, -0.75, 1.0, 0.4, colour)
    pen.box(0.42, -0.55, 0.82, -0.15, GLASS)
    pen.box(0.15, -0.9, 1.08, -0.72, behind(colour))
    pen.box(-0.95, -0.2, 0.3, 0.4, colour)
    pen.polygon([(-0.75, -0.8), (-0.3, -0.8), (-0.42, -0.2), (-0.63, -0.2)], behind(colour))
    pen.polygon([(-0.95, 0.2), (-1.2, 0.55), (-0.9, 0.55)], (150, 150, 155))
    for x in (-0.65, 0.0, 0.65):
        wheel(pen, x, 0.55, 0.27, phase)


def boat(pen: Pen, colour: Colour, phase: float) -> None:
    sway = 0.06 * math.sin(2 * math.pi * phase)
    pen.box(-0.06, -1.0, 0.06, 0.35, WOOD)
    pen.polygon([(0.12, -0.95), (0.85 + sway, 0.15), (0.12, 0.15)], (248, 246, 238))
    pen.polygon([(-0.12, -0.7), (-0.6 + sway, 0.15), (-0.12, 0.15)], (225, 222, 210))
    pen.polygon([(-1.05, 0.28), (1.05, 0.28), (0.65, 0.85), (-0.65, 0.85)], colour)


def plane(pen: Pen, colour: Colour, phase: float) -> None:
    blade = 0.4 * math.cos(2 * math.pi * phase)
    pen.polygon([(0.6, -0.1), (1.0, -0.65), (1.1, -0.65), (1.0, 0.1)], behind(colour))
    pen.oval(0.05, 0.0, 0.98, 0.27, colour)
    pen.polygon([(-0.2, 0.0), (0.25, 0.0), (0.75, 0.75), (0.35, 0.75)], behind(colour))
    pen.polygon([(-0.05, -0.2), (0.2, -0.2), (0.5, -0.6), (0.3, -0.6)], behind(colour))
    for x in (-0.5, -0.2, 0.1):
        pen.oval(x, -0.08, 0.09, colour=GLASS)
    pen.box(-1.06, -abs(blade) - 0.05, -0.94, abs(blade) + 0.05, DARK)


def rocket(pen: Pen, colour: Colour, phase: float) -> None:
    flame = 0.2 * math.sin(4 * math.pi * phase)
    pen.polygon([(-0.25, 0.5), (0.25, 0.5), (0, 1.0 + flame)], (250, 155, 30))
    pen.polygon([(-0.36, 0.05), (-0.78, 0.7), (-0.34, 0.55)], behind(colour))
    pen.polygon([(0.36, 0.05), (0.78, 0.7), (0.34, 0.55)], behind(colour))
    pen.polygon([(-0.36, 0.55), (-0.38, -0.35), (-0.2, -0.75), (0, -1), (0.2, -0.75), (0.38, -0.35), (0.36, 0.55)], colour)
    pen.oval(0, -0.2, 0.19, colour=GLASS)


def ball(pen: Pen, colour: Colour, phase: float) -> None:
    pen.oval(0, 0, 0.9, colour=colour)
    turn = 2 * math.pi * phase
    for quarter in range(2):
        angle = turn + math.pi * quarter
        arc = [(0.86 * math.cos(angle + k * 0.04), 0.86 * math.sin(angle + k * 0.04)) for k in range(-15, 16)]
        pen.polygon([(0.0, 0.0), *arc], behind(colour))


def star(pen: Pen, colour: Colour, phase: float) -> None:
    twinkle = 1 + 0.06 * math.sin(2 * math.pi * phase)
    tips = [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate((twinkle, 0.42) * 5)]
    pen.polygon(tips, colour)


def heart(pen: Pen, colour: Colour, phase: float) -> None:
    beat = (1 + 0.07 * math.sin(2 * math.pi * phase)) / 16.5
    outline = []
    for i in range(96):
        a = 2 * math.pi * i / 96
        y = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        outline.append((16 * math.sin(a) ** 3 * beat, -y * beat - 0.1))
    pen.polygon(outline, colour)


def house(pen: Pen, colour: Colour, _phase: float) -> None:
    pen.box(0.4, -0.95, 0.62, -0.4, (150, 95, 80))
    pen.box(-0.78, -0.2, 0.78, 0.95, colour)
    pen.polygon([(-1.02, -0.15), (0, -0.98), (1.02, -0.15)], behind(colour))
    pen.box(-0.5, 0.3, -0.08, 0.95, (95, 62, 42))
    pen.box(0.2, 0.15, 0.6, 0.55, (250, 238, 150))


def tree(pen: Pen, colour: Colour, phase: float) -> None:
    sway = 0.05 * math.sin(2 * math.pi * phase)
    pen.polygon([(-0.16, 0.2), (0.16, 0.2), (0.22, 1), (-0.22, 1)], WOOD)
    pen.oval(-0.45 + sway, 0.05, 0.42, colour=behind(colour))
    pen.oval(0.45 + sway, 0.05, 0.42, colour=behind(colour))
    pen.oval(sway, -0.38, 0.6, colour=colour)


def flower(pen: Pen, colour: Colour, phase: float) -> None:
    sway = 0.08 * math.sin(2 * math.pi * phase)
    pen.polygon([(-0.06, 1), (0.06, 1), (0.06 + sway, -0.3), (-0.06 + sway, -0.3)], (60, 140, 60))
    pen.polygon([(0, 0.8), (0.5, 0.4), (0.35, 0.75)], (60, 140, 60))
    for i in range(6):
        a = math.pi * i / 3
        pen.oval(0.4 * math.cos(a) + sway, -0.42 + 0.4 * math.sin(a), 0.27, colour=colour)
    pen.oval(sway, -0.42, 0.24, colour=(250, 215, 70) if colour[2] < 180 or colour[0] < 200 else (215, 150, 40))


def umbrella(pen: Pen, colour: Colour, phase: float) -> None:
    sway = 0.05 * math.sin(2 * math.pi * phase)
    pen.box(-0.05, -0.4, 0.05, 0.85, WOOD)
    pen.polygon([(0.05, 0.75), (0.05, 0.95), (0.4, 0.95), (0.4, 0.7), (0.3, 0.7), (0.3, 0.85)], WOOD)
    rim = [(-1.0 + sway, 0.05), (-0.66, -0.12), (-0.33, 0.05), (0, -0.12), (0.33, 0.05), (0.66, -0.12), (1.0 + sway, 0.05)]
    dome = [(math.cos(math.pi * i / 48), 0.05 - math.sin(math.pi * i / 48)) for i in range(1, 48)]
    pen.polygon([*rim, *dome], colour)
    pen.polygon([(-0.33, 0.05), (0, -0.12), (0.33, 0.05), (0.12, -0.93), (-0.12, -0.93)], behind(colour))


def robot(pen: Pen, colour: Colour, phase: float) -> None:
    swing = 0.15 * math.sin(2 * math.pi * phase)
    legs(pen, (-0.22, 0.22), 0.45, phase, behind(colour), 0.13)
    pen.polygon([(-0.5, -0.1), (-0.5, 0.1), (-0.9, 0.45 + swing), (-0.98, 0.3 + swing)], behind(colour))
    pen.polygon([(0.5, -0.1), (0.5, 0.1), (0.9, 0.45 - swing), (0.98, 0.3 - swing)], behind(colour))
    pen.box(-0.5, -0.2, 0.5, 0.55, colour)
    pen.box(-0.28, -0.02, 0.28, 0.3, (225, 225, 220))
    pen.box(-0.38, -0.82, 0.38, -0.26, colour)
    pen.box(-0.04, -1.02, 0.04, -0.8, DARK)
    for x in (-0.18, 0.18):
        pen.oval(x, -0.55, 0.12, colour=(250, 240, 120))


Drawing = Callable[[Pen, Colour, float], None]

THINGS: dict[str, Drawing] = {
    draw.__name__: draw
    for draw in (
        cat, dog, rabbit, bird, butterfly, fish, turtle, car, train, boat,
        plane, rocket, ball, star, heart, house, tree, flower, umbrella, robot,
    )
}  # fmt: skip
