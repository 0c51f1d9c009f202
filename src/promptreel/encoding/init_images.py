"""Decodes init images: PNG, JPEG, WebP, AVIF, HEIF, and the first frame of a GIF."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageFilter, ImageOps, PngImagePlugin
from PIL.AvifImagePlugin import AvifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from promptreel.encoding import heif
from promptreel.encoding.init_colours import apply_profile, make_table
from promptreel.encoding.picture_boxes import read_color_tags
from promptreel.encoding.png_chunks import MAX_PROFILE_BYTES, strip
from promptreel.errors import InitUnusable

MAX_PIXELS = 36_000_000
MAX_SIDE = 16_384
MAX_BYTES = 250_000_000
"""Limits the memory for decoding. Stricter than MAX_PIXELS for formats that take much memory per pixel."""
MAX_SCANS = 64
"""Limits the scans of a progressive JPEG: each takes as long as decoding the whole picture. Programs write about ten."""
MAX_CROP_PIXELS = 16_000_000
CHECK_SIZE = (64, 64)
_WEBP_BYTES_PER_PIXEL = 17  # Pillow's animation decoder: two canvases and a copy
_AVIF_BYTES_PER_PIXEL = 20  # four 16-bit planes, and three RGB copies
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = frozenset({5, 6, 7, 8})
_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "avif": "AVIF", "heic": "HEIF", "gif": "GIF"}
_IN_BOXES = frozenset({"avif", "heic"})
# A JPEG marker; not a stuffed byte (ff 00), and not a restart marker within a scan.
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE, _WITHOUT_LENGTH = 0xDA, 0xD9, frozenset({0x01, 0xD8})

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each thread takes memory
PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES


def check_image(data: bytes, ending: str) -> None:
    """Decodes the picture. Raises InitUnusable if it is damaged or too large."""
    decode_image(data, ending, CHECK_SIZE)


def decode_image(data: bytes, ending: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture at `size` (width, height), uint8 [H, W, 3], turned upright. Transparent parts become white.

    Raises InitUnusable.
    """
    return _decode(data, ending, lambda _own: size)


def decode_whole(data: bytes, ending: str, *, most_pixels: int, min_side: int) -> NDArray[np.uint8]:
    """Like `decode_image`, but in the picture's own proportions, scaled down to `most_pixels` if it has more.

    Raises InitUnusable, also for a picture with a side under `min_side`.
    """

    def shrink(own: tuple[int, int]) -> tuple[int, int]:
        if min(own) < min_side:
            raise InitUnusable(f"The init image must have at least {min_side} pixels a side, not {own[0]}x{own[1]}.")
        share = min(1.0, (most_pixels / (own[0] * own[1])) ** 0.5)
        return max(1, round(own[0] * share)), max(1, round(own[1] * share))

    return _decode(data, ending, shrink)


def _decode(data: bytes, ending: str, choose: Callable[[tuple[int, int]], tuple[int, int]]) -> NDArray[np.uint8]:
    """`choose` gets the picture's size when it is upright (width, height), and returns the wanted one."""
    with _open(data, ending) as picture:
        orientation, profile = _orientation(picture), picture.info.get("icc_profile")
        table = None if profile else _read_table(data, ending)
        is_turned = orientation in _SWAPS_SIDES
        width, height = choose(picture.size[::-1] if is_turned else picture.size)
        stored_size = (height, width) if is_turned else (width, height)
        scaled = apply_profile(ImageOps.fit(_to_scalable(picture), stored_size, Image.Resampling.BICUBIC), profile)
        return np.asarray(flatten(_turn(scaled.filter(table) if table else scaled, orientation)))


def crop_square(data: bytes, ending: str) -> tuple[str, bytes]:
    """The largest centered square, turned upright, as a file: its ending and its bytes.

    AVIF and HEIC become JPEG, or PNG if transparent. GIF becomes PNG. Pictures with color tags become sRGB. Profiles are kept.
    Raises InitUnusable for a damaged picture, and for more than MAX_CROP_PIXELS.
    """
    with _open(data, ending, for_copy=4) as picture:
        if picture.width * picture.height > MAX_CROP_PIXELS:
            raise InitUnusable(
                f"To be cropped, the image must not have more than {MAX_CROP_PIXELS // 1_000_000} million pixels."
            )
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = _turn(picture.crop((left, top, left + side, top + side)), _orientation(picture))
        profile = picture.info.get("icc_profile")
        if not profile and (table := _read_table(data, ending)):
            square = apply_profile(square, None).filter(table)
    if ending in _IN_BOXES:
        ending, square = ("png" if square.has_transparency_data else "jpg"), _straighten_alpha(square)
    ending = "png" if ending == "gif" else ending
    file = io.BytesIO()
    square.save(file, _FORMATS[ending], quality=95, icc_profile=profile or b"")
    return ending, file.getvalue()


def flatten(picture: Image.Image) -> Image.Image:
    """Puts an RGBA picture on white. Returns an RGB picture unchanged."""
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


@contextmanager
def _open(data: bytes, ending: str, *, for_copy: int = 0) -> Iterator[Image.Image]:
    """Opens the picture without decoding its pixels. Turns Pillow's errors inside the block into InitUnusable.

    `for_copy`: the bytes per pixel that the block needs in addition.
    """
    try:
        if ending == "webp":  # checked before Pillow opens it, because that allocates the canvas
            _check_size(_size_of_webp(data), _WEBP_BYTES_PER_PIXEL + for_copy)
        if ending == "png":
            data = strip(data)
        if ending == "heic":
            heif.register()
        with Image.open(io.BytesIO(data), formats=[_FORMATS[ending]]) as picture:
            _check_size(picture.size, _bytes_a_pixel(picture) + for_copy)
            if isinstance(picture, JpegImageFile):
                _check_scans(data)
            if picture.format == "HEIF":
                heif.check_primary(picture)
            yield picture
    except Image.DecompressionBombError as error:
        raise InitUnusable(_too_large(MAX_PIXELS)) from error
    except (InitUnusable, MemoryError):
        raise
    except Exception as error:  # for damaged files, Pillow's plugins raise nearly any exception
        raise InitUnusable("The init image cannot be decoded: check the file, or save it again.") from error


def _check_size(size: tuple[int, int], bytes_a_pixel: int) -> None:
    most = min(MAX_PIXELS, MAX_BYTES // bytes_a_pixel)
    if size[0] * size[1] > most or max(size) > MAX_SIDE:
        raise InitUnusable(_too_large(most))


def _size_of_webp(data: bytes) -> tuple[int, int]:
    """Reads the size from the first chunk (VP8X, VP8L or VP8). Raises ValueError for another or a truncated one."""
    match data[12:16], data[20:30]:
        case b"VP8X", head if len(head) == 10:
            return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
        case b"VP8L", head if len(head) >= 5:
            sides = int.from_bytes(head[1:5], "little")
            return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        case b"VP8 ", head if len(head) == 10:
            return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    raise ValueError("not a WebP file")


def _bytes_a_pixel(picture: Image.Image) -> int:
    """Peak memory per pixel, from decoding to the scaled picture."""
    match picture:
        case WebPImageFile():
            return _WEBP_BYTES_PER_PIXEL
        case AvifImageFile():
            return _AVIF_BYTES_PER_PIXEL
        case JpegImageFile() if picture.info.get("progressive"):
            return 4 + 2 * len(picture.getbands())  # the coefficients of all scans
        case _ if picture.format == "HEIF":
            return heif.bytes_a_pixel(picture)
        case _ if picture.has_transparency_data:
            return 9
    return 6


def _read_table(data: bytes, ending: str) -> ImageFilter.Color3DLUT | None:
    """The lookup table from a picture's color tags to sRGB. None without tags. For pictures without a profile."""
    tags = read_color_tags(data) if ending in _IN_BOXES else None
    return make_table(tags.transfer, tags.primaries) if tags else None


def _check_scans(data: bytes) -> None:
    """Raises InitUnusable for too many scans. Stops at the end of the picture: a second one, or a video, may follow."""
    at = scans = 0
    while (marker := _MARKER.search(data, at)) and (kind := marker[1][0]) != _END_OF_IMAGE:
        scans += kind == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise InitUnusable(f"The init image must not be stored in more than {MAX_SCANS} scans: save it again.")
        at = marker.end() + (0 if kind in _WITHOUT_LENGTH else int.from_bytes(data[marker.end() : marker.end() + 2]))


def _too_large(most: int) -> str:
    return f"The init image must not be greater than {most // 1_000_000} million pixels, or {MAX_SIDE} on a side."


def _to_scalable(picture: Image.Image) -> Image.Image:
    """Converts palettes and pictures with one transparent color, which Pillow cannot scale. Others are converted later."""
    picture.load()  # a palette's transparency may follow its header
    if picture.mode.startswith("I"):
        return _to_8_bits(picture)
    if picture.mode in {"1", "P", "PA"} or "transparency" in picture.info:
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    return _straighten_alpha(picture)


def _straighten_alpha(picture: Image.Image) -> Image.Image:
    """Undoes premultiplied alpha. Returns other pictures unchanged and uncopied."""
    straight = {"RGBa": "RGBA", "La": "LA"}.get(picture.mode)
    return picture.convert(straight) if straight else picture


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Converts 16-bit gray, which Pillow would clip at 255. One gray value may be transparent."""
    values = np.asarray(picture)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    clear = picture.info.get("transparency")
    if clear is None:
        return grey
    return Image.merge("LA", [grey, Image.fromarray(np.where(values == clear, np.uint8(0), np.uint8(255)))])


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation. If it cannot be read, 1 (upright): the picture is usable all the same."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - for damaged files, Pillow raises nearly any exception
        return 1


def _turn(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture
