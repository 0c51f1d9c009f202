"""Pictures to start from: PNG, JPEG, WebP, and the first frame of a GIF."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from promptreel.errors import InitUnusable

# A picture of so many pixels takes about 300 MB while it is decoded.
MAX_PIXELS = 36_000_000
MAX_SIDE = 16_384
# It is cropped inside a request, of which there may be forty at once.
MAX_CROP_PIXELS = 16_000_000
_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF"}


def check_image(data: bytes, ending: str) -> None:
    """Reads the header. Raises InitUnusable when there is none, or when it tells of too many pixels."""
    with _open(data, ending):
        pass


def decode_image(data: bytes, ending: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture, upright, at `size` (width, height): uint8 [H, W, 3]. What is transparent becomes white.

    Raises InitUnusable.
    """
    with _open(data, ending) as picture:
        return fit(_to_colours(ImageOps.exif_transpose(picture)), size)


def crop_square(data: bytes, ending: str, new_ending: str) -> bytes:
    """The largest square around the picture's centre, upright, as a file with another ending or the same.

    Raises InitUnusable, also for more than MAX_CROP_PIXELS.
    """
    square = io.BytesIO()
    with _open(data, ending) as picture:
        if picture.width * picture.height > MAX_CROP_PIXELS:
            raise InitUnusable(
                f"The image must not be greater than {MAX_CROP_PIXELS // 1_000_000} million pixels to be cropped."
            )
        upright = ImageOps.exif_transpose(picture)
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        cropped = upright.crop((left, top, left + side, top + side))
        cropped.save(square, _FORMATS[new_ending], quality=95)
    return square.getvalue()


def fit(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An RGB or RGBA picture, scaled until it covers `size` (width, height) and cropped around its centre: uint8 [H, W, 3]."""
    return np.asarray(_flatten(ImageOps.fit(picture, size, Image.Resampling.BICUBIC)))


@contextmanager
def _open(data: bytes, ending: str) -> Iterator[Image.Image]:
    """The picture, its pixels not yet decoded; whatever Pillow raises inside the block becomes InitUnusable."""
    try:
        with Image.open(io.BytesIO(data), formats=[_FORMATS[ending]]) as picture:
            _check_size(*picture.size)
            yield picture
    except Image.DecompressionBombError as error:
        raise InitUnusable(_too_large()) from error
    except (InitUnusable, MemoryError):
        raise
    except Exception as error:  # made-up bytes make Pillow's plugins raise nearly anything
        raise InitUnusable("The init image cannot be decoded: check the file, or save it again.") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InitUnusable(_too_large())


def _too_large() -> str:
    return f"The init image must not be greater than {MAX_PIXELS // 1_000_000} million pixels, or {MAX_SIDE} on a side."


def _to_colours(picture: Image.Image) -> Image.Image:
    """In RGB, or in RGBA if anything of it may be transparent: palettes cannot be scaled."""
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _flatten(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
