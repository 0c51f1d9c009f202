"""HEIC and other HEIF pictures, as phones write them. Reading them needs libheif, from the extra `heif`."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from promptreel.errors import InitUnusable

if TYPE_CHECKING:
    from PIL import Image

NOT_INSTALLED = (
    "HEIC, which this server cannot read: save it as JPEG or PNG. "
    "Its operator can add support with: pip install 'promptreel[heif]'"
)


def is_installed() -> bool:
    """Checks without importing it: only the decoder's process imports it."""
    return find_spec("pillow_heif") is not None


@cache
def register() -> None:
    """Teaches Pillow to open HEIF, with one thread to save memory. Raises InitUnusable without the extra."""
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InitUnusable(f"This is {NOT_INSTALLED}.") from error
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=0)


def check_primary(picture: Image.Image) -> None:
    """Raises ValueError when the primary picture is damaged: Pillow then opens one of its tiles, or another picture."""
    if not picture.info["primary"]:
        raise ValueError("the file's primary picture is damaged")


def bytes_a_pixel(picture: Image.Image) -> int:
    """Measured memory per pixel: YUV planes, RGB, and Pillow's copy, which adds to them if the file has several pictures."""
    deep, halved = picture.info["bit_depth"] > 8, picture.info.get("chroma", 420) == 420
    colors = 9 if halved else 17 if deep else 11
    return colors + (5 if picture.has_transparency_data else 0) + (4 if getattr(picture, "is_animated", False) else 0)
