"""How the world may be drawn: plain, or as at night. And the measure that tells the two apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recipes.cutout.palette import Colour

OUTLINE = 0.028  # of the picture's side; half of it shows around a shape

# The measure. No plain place has such a blue in its lower third.
LOWER = 1 / 3
BLUER = 1.85  # than the other two channels; the sea is 1.65 times as blue as it is green
LEAST_BLUE = 80
BLUE_THING = 185  # bluer than this is paper, as far as the probe is concerned
IS_NIGHT = 0.4


@dataclass(frozen=True)
class Tone:
    """Another color for each color: a share of each channel, and something added to it."""

    shares: tuple[float, float, float] = (1, 1, 1)
    added: tuple[float, float, float] = (0, 0, 0)

    def of(self, colour: Colour) -> Colour:
        red, green, blue = (int(share * x + more) for share, x, more in zip(self.shares, colour, self.added, strict=True))
        return red, green, blue


@dataclass(frozen=True)
class Style:
    """What becomes of a drawing.

    `ground` changes the place and what things sit on, `paper` the things. `outline` is the color of a line around each thing.
    """

    ground: Tone = Tone()
    paper: Tone = Tone()
    outline: Colour | None = None
    stars: int = 0


PLAIN = Style()
# Blue enough to be told from the place "night", and blue as the packaged VAE can show it: that VAE turns darker colors into
# those of the place. The places have nearly the same hue, because guidance makes more of what differs. Things keep their hues,
# so that a prompt's color can still be seen.
NIGHT = Style(
    ground=Tone((0.06, 0.06, 0.24), (16, 22, 112)),
    paper=Tone((0.78, 0.78, 0.78), (0, 4, 24)),
    outline=(206, 214, 248),
    stars=7,
)
STYLES: Mapping[str, Style] = MappingProxyType({"night": NIGHT})


class Tinted(ImageDraw.ImageDraw):
    """Draws shapes in a tone of their color."""

    def __init__(self, picture: Image.Image, tone: Tone) -> None:
        super().__init__(picture)
        self._tone = tone

    def polygon(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        super().polygon(xy, self._tone.of(fill), outline, width)

    def rectangle(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        super().rectangle(xy, self._tone.of(fill), outline, width)

    def ellipse(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        super().ellipse(xy, self._tone.of(fill), outline, width)

    def pieslice(self, xy: Any, start: float, end: float, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        super().pieslice(xy, start, end, self._tone.of(fill), outline, width)


class Outline(ImageDraw.ImageDraw):
    """Draws polygons, of which things consist, in one color and somewhat larger. The things are then drawn on top."""

    def __init__(self, picture: Image.Image, colour: Colour) -> None:
        super().__init__(picture)
        self._colour = colour
        self._width = round(picture.width * OUTLINE)

    def polygon(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:  # noqa: ARG002 - Pillow's
        super().polygon(xy, self._colour, outline, width)
        self.line([*xy, *xy[:2]], self._colour, self._width, joint="curve")


def nightness(frames: NDArray[np.uint8]) -> float:
    """How much of the style "night" frames uint8 [T, H, W, 3] have: the share of blue in the lower third, 0 to 1.

    Drawn clips have less than `IS_NIGHT` if they are plain, whatever their place, and more in the style.
    """
    return float(_is_blue(frames)[:, round(frames.shape[1] * (1 - LOWER)) :].mean())


def by_day(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames uint8 [T, H, W, 3] of the style "night" with a gray ground and plain papers, for the probe, which knows those."""
    plain = (frames.astype(np.float32) - NIGHT.paper.added) / NIGHT.paper.shares
    plain[_is_blue(frames) & (frames[..., 2] < BLUE_THING)] = 152  # the place "plain"
    return plain.clip(0, 255).astype(np.uint8)


def _is_blue(frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are as blue as the style's ground or bluer, bool [T, H, W]."""
    blue, others = frames[..., 2].astype(np.float32), frames[..., :2].max(-1).astype(np.float32)
    return (blue > BLUER * others) & (blue > LEAST_BLUE)
