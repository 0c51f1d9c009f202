"""The papers that the world is cut from: ten colors, each with a second paper for the parts that lie behind.

All scenes use the same ten. Varying them would tell a viewer nothing and cost capacity that the model needs for shapes.
"""

from __future__ import annotations

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (222, 38, 42),
    "green": (38, 158, 62),
    "blue": (36, 84, 222),
    "yellow": (248, 214, 40),
    "orange": (244, 132, 28),
    "purple": (138, 54, 188),
    "pink": (248, 138, 190),
    "black": (28, 28, 34),
    "white": (248, 248, 246),
    "brown": (128, 78, 40),
}
_SECOND: dict[str, Colour] = {
    "red": (160, 22, 40),
    "green": (22, 108, 60),
    "blue": (24, 54, 154),
    "yellow": (216, 170, 28),
    "orange": (196, 90, 20),
    "purple": (94, 34, 138),
    "pink": (212, 92, 150),
    "black": (95, 95, 105),
    "white": (176, 182, 194),
    "brown": (86, 52, 28),
}
_BEHIND = {colour: _SECOND[name] for name, colour in COLOURS.items()}

DARK: Colour = (35, 30, 35)
GLASS: Colour = (190, 228, 250)
WOOD: Colour = (120, 80, 45)


def behind(colour: Colour) -> Colour:
    """A thing's second paper: a darker one, but a lighter one for black."""
    return _BEHIND[colour]


def eye_of(colour: Colour) -> Colour:
    return (245, 245, 240) if sum(colour) < 350 else DARK
