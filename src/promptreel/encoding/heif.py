"""HEIC and other HEIF pictures, as phones write them: read by libheif, which comes with the extra `heif`."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from PIL import Image

from promptreel.errors import InitUnusable

NOT_INSTALLED = (
    "HEIC, which this server cannot read: save it as JPEG or PNG. "
    "Its operator can have it read with: pip install 'promptreel[heif]'"
)


def is_installed() -> bool:
    """Without loading it: only the decoder's process does."""
    return find_spec("pillow_heif") is not None


@cache
def register() -> None:
    """Pillow opens HEIF from then on. One thread decodes: each takes memory. Raises InitUnusable without the extra."""
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InitUnusable(f"This is {NOT_INSTALLED}.") from error
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=0)


def check_primary(picture: Image.Image) -> None:
    """Raises ValueError when the picture of the file is damaged: what was opened then is a tile of it, or another one."""
    if not picture.info["primary"]:
        raise ValueError("the picture that this file shows is damaged")


def bytes_a_pixel(picture: Image.Image) -> int:
    """Of memory, as measured: the planes, colours made of them, and Pillow's copy; both are kept if there are more pictures."""
    deep, halved = picture.info["bit_depth"] > 8, picture.info.get("chroma", 420) == 420
    colours = 9 if halved else 17 if deep else 11
    return colours + (5 if picture.has_transparency_data else 0) + (4 if getattr(picture, "is_animated", False) else 0)
